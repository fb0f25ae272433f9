"""Whether a training job makes progress, or is blocked on I/O."""

import pytest

from edged.services.group.liveness import Liveness


def test_each_sign_of_progress_is_counted():
    liveness = Liveness()
    liveness.count()
    liveness.count()
    assert liveness.num_batches == 2


def test_a_nested_wait_ends_with_the_outer_one():
    liveness = Liveness()
    with liveness.waiting():
        with liveness.waiting():
            pass
        assert liveness.is_waiting
    assert not liveness.is_waiting


def test_a_wait_that_fails_is_over():
    liveness = Liveness()
    with pytest.raises(OSError), liveness.waiting():
        raise OSError
    assert not liveness.is_waiting
