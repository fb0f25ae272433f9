"""Work of several parts that whichever threads are free do together, each part once.

Whoever needs the results takes part, so that nobody waits for work that no thread has begun: also from a thread of the
executor that the helpers run on, and however busy that is.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from itertools import count
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class SharedWork(Generic[R]):
    """`function` of each of `arguments`."""

    def __init__(self, function: Callable[[T], R], arguments: Iterable[T]) -> None:
        self._function: Callable[[Any], R] = function
        self._arguments = list(arguments)
        self._results: list[R] = [None] * len(self._arguments)  # type: ignore[list-item]  # each is set by its part
        self._errors: dict[int, BaseException] = {}
        self._next, self._ended = count(), count(1)
        self._unfinished = threading.Lock()  # held until all parts have ended
        if self._arguments:
            self._unfinished.acquire()

    def __len__(self) -> int:
        """The number of parts."""
        return len(self._arguments)

    def help(self) -> None:
        """Do parts until all have been begun. An error is the part's result."""
        while (number := next(self._next)) < len(self._arguments):
            try:
                self._results[number] = self._function(self._arguments[number])
            except BaseException as error:  # noqa: BLE001 - for whoever needs the result
                self._errors[number] = error
            if next(self._ended) == len(self._arguments):
                self._unfinished.release()

    def results(self) -> list[R]:
        """Help, wait for the others' parts, and return the results in the order of the arguments.

        Raises the first part's error; all have ended then.
        """
        self.help()
        with self._unfinished:
            pass
        if self._errors:
            raise self._errors[min(self._errors)]
        return self._results


def spread(work: SharedWork[R], executor: Executor, then: Callable[[], object] | None = None) -> None:
    """Let the executor's threads help, each of them to do `then` afterwards. Does not wait."""

    def run() -> None:
        work.help()
        if then is not None:
            then()

    for _ in range(len(work) - 1):
        executor.submit(run)
