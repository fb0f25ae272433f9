"""The map over workers."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edged.services.training.worker_map import worker_map


def test_without_an_executor_it_maps_in_this_thread():
    assert list(worker_map(None)(lambda _: threading.get_ident(), range(2))) == [threading.get_ident()] * 2


def test_with_an_executor_it_maps_on_its_threads_and_this_one_in_order():
    both = threading.Barrier(2)
    with ThreadPoolExecutor(1) as executor:
        threads = list(worker_map(executor)(lambda i: (i, both.wait(), threading.get_ident()), range(2)))
    assert [i for i, _, _ in threads] == [0, 1]
    assert len({thread for _, _, thread in threads}) == 2


def test_an_overflow_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [squared] = worker_map(None)(lambda x: x * x, [np.full(1, 1e300)])
    assert np.isinf(squared).all()
