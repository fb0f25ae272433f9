"""Threads for blocking work, also where the system gives a process fewer than it wants."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from edged.errors import NoThread
from edged.log import logger


class ThreadPool(ThreadPoolExecutor):
    """An executor that goes on with the threads it has where the system starts no more; that is logged once.

    Starts one thread at once. Raises NoThread when it cannot.
    """

    def __init__(
        self, max_threads: int | None = None, name: str = "", initializer: Callable[[], object] | None = None
    ) -> None:
        super().__init__(max_threads, name, initializer)
        self._has_warned = False
        try:
            self.submit(int)
        except RuntimeError as error:
            raise NoThread(
                f"the system starts no thread ({error}): raise TasksMax= of the unit, or the limit of its user "
                "(`ulimit -u`), or free memory"
            ) from error

    def _adjust_thread_count(self) -> None:
        # What was submitted is queued before this is called, and submit() would raise although it is done later.
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            if not self._threads:
                raise
            if not self._has_warned:
                self._has_warned = True
                logger().warning(
                    "life.few_threads", threads=len(self._threads), wanted=self._max_workers, err=str(error)
                )
