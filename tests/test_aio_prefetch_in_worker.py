"""Items computed in a worker thread, one ahead of their consumer."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest

from edged.aio import prefetch_in_worker


async def test_all_items_come_in_order():
    async with contextlib.aclosing(prefetch_in_worker(iter(range(5)))) as items:
        assert [item async for item in items] == [0, 1, 2, 3, 4]


async def test_the_next_item_is_computed_while_the_consumer_holds_one():
    second_begun = threading.Event()

    def make() -> Iterator[str]:
        yield "first"
        second_begun.set()
        yield "second"

    async with contextlib.aclosing(prefetch_in_worker(make())) as items:
        assert await anext(items) == "first"
        assert await asyncio.to_thread(second_begun.wait, 10)


async def test_an_error_reaches_the_consumer_after_the_items_before_it():
    def make() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    found = []
    with pytest.raises(KeyError):  # noqa: PT012 - the loop is what raises
        async with contextlib.aclosing(prefetch_in_worker(make())) as items:
            async for item in items:
                found.append(item)  # noqa: PERF401

    assert found == [1]


async def test_cancelling_waits_for_the_item_in_progress():
    begun, go_on, made = threading.Event(), threading.Event(), threading.Event()

    def make() -> Iterator[int]:
        begun.set()
        go_on.wait(10)
        made.set()
        yield 1

    async def consume() -> None:
        async with contextlib.aclosing(prefetch_in_worker(make())) as items:
            await anext(items)

    task = asyncio.create_task(consume())
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made.is_set()
