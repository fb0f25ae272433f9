"""A disk whose calls hang in their threads, in a test whose time is fake."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any


class HangingDisk:
    """Does what worker threads are asked for, each piece in a thread of its own, until it ends or hangs.

    The event loop waits for that in its turn, so its clock stands while a thread works, and goes on while one hangs.
    """

    def __init__(self) -> None:
        self._works = threading.Event()
        self._num_hanging = 0
        self._hangs_or_ended = threading.Semaphore(0)

    def hang(self) -> None:
        """In a worker thread: returns when the disk works."""
        if not self._works.is_set():
            self._num_hanging += 1
            self._hangs_or_ended.release()
            self._works.wait()

    def work(self) -> None:
        """From now on nothing hangs. What did has ended, and the event loop is about to hear of it."""
        self._works.set()
        while self._num_hanging:
            self._num_hanging -= 1
            self._hangs_or_ended.acquire()

    def run(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        """In place of the loop's `run_in_executor`."""
        future = loop.create_future()

        def settle(how: Callable[[Any], None], outcome: Any) -> None:
            if not future.done():
                how(outcome)

        def work() -> None:
            try:
                settled = partial(settle, future.set_result, function(*arguments))
            except BaseException as error:  # noqa: BLE001 - as an executor does
                settled = partial(settle, future.set_exception, error)
            loop.call_soon_threadsafe(settled)
            self._hangs_or_ended.release()

        threading.Thread(target=work).start()
        self._hangs_or_ended.acquire()
        return future
