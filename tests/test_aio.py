"""No worker thread is abandoned, and waits between retries stay within their bounds."""

import asyncio
import contextlib
import itertools
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from edged.aio import Backoff, prefetch_in_worker, run_in_worker, sleep_until


async def test_the_function_runs_in_another_thread_with_its_arguments():
    def where(first, second):
        return first + second, threading.current_thread()

    total, thread = await run_in_worker(where, 1, 2)
    assert total == 3
    assert thread is not threading.current_thread()


async def test_an_error_in_the_worker_is_raised_in_the_caller():
    def broken():
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await run_in_worker(broken)


async def test_a_given_executor_is_used():
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        name = await run_in_worker(lambda: threading.current_thread().name, executor=executor)
    assert name.startswith("mine")


@pytest.mark.parametrize("fails", [False, True])
async def test_cancellation_waits_for_the_thread_however_it_ends(fails):
    running, may_end = threading.Event(), threading.Event()
    finished = []

    def work():
        running.set()
        may_end.wait()
        finished.append(True)
        if fails:
            raise OSError("disk")

    task = asyncio.create_task(run_in_worker(work))
    await asyncio.to_thread(running.wait)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # a second one does not break the wait either
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    assert not finished
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished


async def test_cancellation_also_waits_for_work_that_has_not_started():
    begun, may_end = threading.Event(), threading.Event()
    done: list[str] = []

    def occupy():
        begun.set()
        may_end.wait()

    with ThreadPoolExecutor(1) as executor:
        first = asyncio.create_task(run_in_worker(occupy, executor=executor))
        await asyncio.to_thread(begun.wait)
        second = asyncio.create_task(run_in_worker(done.append, "second", executor=executor))
        await asyncio.sleep(0)
        second.cancel()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert done == ["second"]
        await first


async def test_prefetched_items_come_in_order():
    async with contextlib.aclosing(prefetch_in_worker(iter(range(5)))) as items:
        assert [item async for item in items] == [0, 1, 2, 3, 4]


async def test_the_next_prefetched_item_is_computed_while_the_consumer_holds_one():
    second_started = threading.Event()

    def make() -> Iterator[str]:
        yield "first"
        second_started.set()
        yield "second"

    async with contextlib.aclosing(prefetch_in_worker(make())) as items:
        assert await anext(items) == "first"
        assert await asyncio.to_thread(second_started.wait, 10)


async def test_a_prefetch_error_reaches_the_consumer_after_the_items_before_it():
    def make() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    found = []
    with pytest.raises(KeyError):  # noqa: PT012 - the loop is what raises
        async with contextlib.aclosing(prefetch_in_worker(make())) as items:
            async for item in items:
                found.append(item)  # noqa: PERF401

    assert found == [1]


async def test_cancelling_a_prefetch_waits_for_the_item_in_progress():
    started, resume, finished = threading.Event(), threading.Event(), threading.Event()

    def make() -> Iterator[int]:
        started.set()
        resume.wait(10)
        finished.set()
        yield 1

    async def consume() -> None:
        async with contextlib.aclosing(prefetch_in_worker(make())) as items:
            await anext(items)

    task = asyncio.create_task(consume())
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    resume.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished.is_set()


def test_waits_double_up_to_the_maximum_and_stay_above_half():
    backoff = Backoff(first_s=0.2, max_s=5.0, seed=1)
    waits = [backoff.next_s() for _ in range(12)]
    full = [0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * 7]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, full, strict=True))


def test_waits_are_jittered():
    waits = {Backoff(seed=seed).next_s() for seed in range(20)}
    assert len(waits) == 20


def test_success_resets_the_waits():
    backoff = Backoff(first_s=0.2, max_s=5.0, seed=1)
    for _ in range(6):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 0.2


@pytest.mark.looptime
async def test_waiting_sleeps_that_long():
    loop, backoff, twin = asyncio.get_running_loop(), Backoff(seed=7), Backoff(seed=7)
    for _ in range(3):
        before = loop.time()
        await backoff.wait()
        assert loop.time() - before == pytest.approx(twin.next_s(), abs=1e-6)


def test_without_a_seed_every_process_waits_differently():
    first, second = Backoff(), Backoff()
    assert any(a != b for a, b in itertools.islice(((first.next_s(), second.next_s()) for _ in range(9)), 9))


@pytest.mark.looptime
async def test_after_a_wait_until_a_time_it_is_that_time_however_near_it_was():
    loop = asyncio.get_running_loop()
    await asyncio.sleep(5.1)
    for due_s in (math.nextafter(loop.time(), math.inf), loop.time() + 1e-10, loop.time() + 0.3):
        await sleep_until(due_s)
        assert due_s <= loop.time() <= due_s + 0.01
