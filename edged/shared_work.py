"""Work of several parts that whichever threads are free do together, each part once.

Whoever needs the results takes part, so that nobody waits for work that no thread has begun: also from a thread of the
executor that the helpers run on, and however busy that is.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class SharedWork(Generic[R]):
    """`function` of each of `arguments`."""

    def __init__(self, function: Callable[[T], R], arguments: Iterable[T]) -> None:
        self._parts = [(Future[R](), argument) for argument in arguments]
        self._function: Callable[..., R] = function
        self._next = count()

    def __len__(self) -> int:
        """The number of parts."""
        return len(self._parts)

    def help(self) -> None:
        """Do parts until all have been begun. An error is the part's result."""
        while (number := next(self._next)) < len(self._parts):
            future, argument = self._parts[number]
            try:
                future.set_result(self._function(argument))
            except BaseException as error:  # noqa: BLE001 - for whoever needs the result
                future.set_exception(error)

    def results(self) -> list[R]:
        """Help, wait for the others' parts, and return the results in the order of the arguments.

        Raises a part's error; all have ended then.
        """
        self.help()
        for future, _ in self._parts:
            future.exception()
        return [future.result() for future, _ in self._parts]


def spread(work: SharedWork[R], executor: Executor, then: Callable[[], object] | None = None) -> None:
    """Let the executor's threads help, each of them to do `then` afterwards. Does not wait."""

    def run() -> None:
        work.help()
        if then is not None:
            then()

    for _ in range(len(work) - 1):
        executor.submit(run)
