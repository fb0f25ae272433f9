"""The map that computes the parts of a mini-batch: on an executor's threads and the caller's, or on this one alone."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

import numpy as np

from edged.domain.nn.model import Map
from edged.shared_work import SharedWork, spread

_T = TypeVar("_T")
_R = TypeVar("_R")


def worker_map(executor: Executor | None, then: Callable[[], object] | None = None) -> Map:
    """A map whose caller takes part, without NumPy's warnings; without an executor it does all.

    `then`: what the executor's threads do next while the caller goes on. An overflow is noticed by its consequences;
    a warning would not be a log line.
    """

    def run(function: Callable[[_T], _R], arguments: Iterable[_T], /) -> Iterator[_R]:
        def quiet(argument: _T) -> _R:
            with np.errstate(all="ignore"):
                return function(argument)

        work = SharedWork(quiet, arguments)
        if executor is not None:
            spread(work, executor, then)
        return iter(work.results())

    return run
