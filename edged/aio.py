"""Blocking work in worker threads, waiting for a time, exponential backoff, and word of what takes long.

Starts no tasks: only `app` does.
"""

import asyncio
import contextlib
import contextvars
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar, TypeVarTuple, cast

from edged.log import Throttle, logger

TELL_AFTER_S = 30.0
"""A longer wait is logged: what is waited for is away, or has far more to give than usual."""

_TELL_AGAIN_S = 600.0
_MIN_SLEEP_S = 0.001
"""Longer than any clock's resolution."""

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


async def run_in_worker(function: Callable[[*Ts], R], *args: *Ts, executor: Executor | None = None) -> R:
    """Run `function` in a worker thread and return its result.

    Cancelled: waits for the thread first, so that no abandoned thread still changes state (trio's
    `abandon_on_cancel=False`).
    """
    future = start_in_worker(function, *args, executor=executor)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await settled(future)
        raise


def start_in_worker(function: Callable[[*Ts], R], *args: *Ts, executor: Executor | None = None) -> "asyncio.Future[R]":
    """Begin to run `function` in a worker thread. The caller waits for its end, by `settled` if cancelled."""
    in_context = contextvars.copy_context().run  # so that the thread's log lines have the task's context
    return asyncio.get_running_loop().run_in_executor(executor, partial(in_context, function, *args))


async def settled(future: "asyncio.Future[R]") -> None:
    """Wait for the end of what runs in a thread, cancelled or not; its result or error is dropped."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # mark it as retrieved: the caller has another error, or none


@contextlib.asynccontextmanager
async def in_worker(
    function: Callable[[*Ts], R], *args: *Ts, executor: Executor | None = None
) -> AsyncIterator["asyncio.Future[R]"]:
    """Inside, `function` runs in a worker thread; its future, to be awaited inside. Leaving waits for the thread."""
    future = start_in_worker(function, *args, executor=executor)
    try:
        yield future
    finally:
        await settled(future)


async def prefetch_in_worker(items: Iterator[R], executor: Executor | None = None) -> AsyncGenerator[R, None]:
    """The items of a blocking iterator, computed in a worker thread, one ahead of the consumer.

    Use within `contextlib.aclosing`. Closing or cancelling waits for the item in progress and drops it.
    """
    loop = asyncio.get_running_loop()
    end = object()
    pending = loop.run_in_executor(executor, next, items, end)
    try:
        while (item := await asyncio.shield(pending)) is not end:
            pending = loop.run_in_executor(executor, next, items, end)
            yield cast("R", item)
    finally:
        await settled(pending)  # raised already, or no longer wanted


async def sleep_until(due_s: float) -> None:
    """Wait until the loop's clock shows `due_s` or later. Cancelled: ends at once.

    A timer may ring earlier by the clock's resolution: who then looks whether it is time would set the next one for
    nothing, as often as the clock lets it.
    """
    loop = asyncio.get_running_loop()
    await asyncio.sleep(due_s - loop.time())
    if loop.time() < due_s:
        await asyncio.sleep(_MIN_SLEEP_S)


class Backoff:
    """Seconds to wait before each retry: doubling from `first_s` to `max_s`, with jitter between half and all of it.

    The jitter keeps a fleet that lost its broker from reconnecting all at once.
    """

    def __init__(self, first_s: float = 0.2, max_s: float = 5.0, seed: int | None = None) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s
        self._random = random.Random(seed)  # noqa: S311 - it spreads load and protects nothing

    def reset(self) -> None:
        """Start over at `first_s`: the last attempt succeeded."""
        self._next_s = self._first_s

    def next_s(self) -> float:
        """The seconds to wait now; increases with every call."""
        wait_s = self._next_s * self._random.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, self._max_s)
        return wait_s

    async def wait(self) -> None:
        """Sleep for `next_s()`. Cancelled: the sleep ends at once."""
        await asyncio.sleep(self.next_s())


class LongWait:
    """Says what is waited for once that takes long, again now and then, and when it is over. Used by one task."""

    def __init__(self) -> None:
        self._since_s = asyncio.get_running_loop().time()
        self._told = Throttle(_TELL_AGAIN_S)
        self._what = ""

    def goes_on(self, what: str) -> None:
        """Still waiting, for `what`. To be called about every second."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._since_s >= TELL_AFTER_S and self._told.pass_on("", now_s) is not None:
            self._what = what
            logger().warning("life.waiting", wait_for=what, waited_s=round(now_s - self._since_s, 3))

    def is_over(self) -> None:
        """No longer waiting."""
        if self._what:
            waited_s = asyncio.get_running_loop().time() - self._since_s
            logger().info("life.waited", wait_for=self._what, waited_s=round(waited_s, 3))
            self._what = ""
