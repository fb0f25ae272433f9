"""Makes fake time exact: what the code hands to a worker thread runs in the event loop's own turn.

With real threads looptime lets real time pass while one works, and fake time with it, so that a busy machine changes
the order of events. A test whose thread waits for the event loop asks for the fixture `real_threads`.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any

import looptime
import pytest

_EMPTY_TURNS = 2
"""Turns of the loop without anything to do before the clock goes on: no thread could still bring anything."""

_WORK_S = 0.001
"""What each piece of work takes, so that others have their turns meanwhile."""

_num_asking: Counter[asyncio.AbstractEventLoop] = Counter()
"""How many callers of `until` have the next turn of their loop."""

_in_thread = looptime.LoopTimeEventLoop.run_in_executor


@contextlib.contextmanager
def of(item: pytest.Function) -> Iterator[None]:
    """Inside, the event loop's time is fake if the test is marked `looptime`; it goes on when nothing is left to do.

    looptime's own plugin does the same, at half a millisecond a test.
    """
    if not (item.get_closest_marker("looptime") and item.get_closest_marker("asyncio")):
        yield
        return
    exact = "real_threads" not in item.fixturenames
    options = {"noop_cycles": _EMPTY_TURNS} if exact else {}
    its_loop: Any = asyncio.get_event_loop()
    loop = looptime.patch_event_loop(its_loop, _enabled=False, **options)
    with loop.looptime_enabled(), pytest.MonkeyPatch.context() as patch:
        if exact:
            patch.setattr(looptime.LoopTimeEventLoop, "run_in_executor", _run_in_executor)
        yield


async def until(is_so: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds, and ask at each turn in which it may have come to hold.

    In a test with `real_threads` at each millisecond: what they change shows no turn beforehand.
    """
    loop: Any = asyncio.get_running_loop()
    while not is_so():
        if looptime.LoopTimeEventLoop.run_in_executor is _in_thread:
            await asyncio.sleep(_WORK_S)
            continue
        due = [each.when() for each in loop._scheduled if not each.cancelled()]
        wait_s = max(min(due) - loop.time(), 0.0) if due else _WORK_S
        if wait_s and len(loop._ready) <= _num_asking[loop]:  # nobody has a turn but those who ask as well
            await asyncio.sleep(wait_s)
            continue
        _num_asking[loop] += 1
        try:
            await asyncio.sleep(0)
        finally:
            _num_asking[loop] -= 1


def _run_in_executor(
    loop: Any, executor: Executor | None, function: Callable[..., Any], *arguments: Any
) -> asyncio.Future[Any]:
    if not loop.looptime_on:
        return _in_thread(loop, executor, function, *arguments)
    future: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        if future.cancelled():
            return
        try:
            result = function(*arguments)
        except BaseException as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        else:
            future.set_result(result)

    loop.call_later(_WORK_S, run)
    return future
