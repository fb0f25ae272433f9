"""The map that computes the parts of a mini-batch: on an executor's threads, or one after the other."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

import numpy as np

from edged.domain.nn.model import Map

_T = TypeVar("_T")
_R = TypeVar("_R")


def worker_map(executor: Executor | None) -> Map:
    """`executor.map`, or `map` without one, without NumPy's warnings.

    An overflow is noticed by its consequences; a warning would not be a log line.
    """

    def run(function: Callable[[_T], _R], arguments: Iterable[_T], /) -> Iterator[_R]:
        def quiet(argument: _T) -> _R:
            with np.errstate(all="ignore"):
                return function(argument)

        return map(quiet, arguments) if executor is None else executor.map(quiet, arguments)

    return run
