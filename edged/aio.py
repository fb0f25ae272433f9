"""Blocking work beside the event loop, and waiting between tries.

Does not start tasks (only app.py does) and knows nothing of what it runs.
"""

import asyncio
import contextlib
import contextvars
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar, TypeVarTuple, cast

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


async def run_in_worker(function: Callable[[*Ts], R], *args: *Ts, executor: Executor | None = None) -> R:
    """Run `function` in a worker thread and return its result.

    Cancellation waits for the thread and is raised afterwards: a thread is never left behind that still
    changes state (trio's `abandon_on_cancel=False`).
    """
    loop = asyncio.get_running_loop()
    in_context = contextvars.copy_context().run  # log lines from the thread are the task's, too
    future = loop.run_in_executor(executor, partial(in_context, function, *args))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # retrieved here: the cancellation is what the caller asked for
        raise


async def ahead_in_worker(items: Iterator[R], executor: Executor | None = None) -> AsyncGenerator[R, None]:
    """The items of a blocking iterator, made in a worker thread, one ahead of the consumer.

    Use within `contextlib.aclosing`. Closing or cancelling waits for the item that is being made and drops it.
    """
    loop = asyncio.get_running_loop()
    end = object()
    made = loop.run_in_executor(executor, next, items, end)
    try:
        while (item := await asyncio.shield(made)) is not end:
            made = loop.run_in_executor(executor, next, items, end)
            yield cast("R", item)
    finally:
        while not made.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([made])
        if not made.cancelled():
            made.exception()  # retrieved: raised already, or nobody waits for it any more


class Backoff:
    """Seconds to wait before each next try: doubling from `first_s` to `most_s`, with full jitter above half.

    The jitter keeps a fleet that lost its broker from coming back in one instant.
    """

    def __init__(self, first_s: float = 0.2, most_s: float = 5.0, seed: int | None = None) -> None:
        self._first_s = first_s
        self._max_s = most_s
        self._next_s = first_s
        self._random = random.Random(seed)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """The last try succeeded."""
        self._next_s = self._first_s

    def next_s(self) -> float:
        """The seconds to wait now; longer at every call."""
        wait_s = self._next_s * self._random.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, self._max_s)
        return wait_s

    async def wait(self) -> None:
        """Sleep for `next_s()`. Cancellation ends the sleep at once."""
        await asyncio.sleep(self.next_s())
