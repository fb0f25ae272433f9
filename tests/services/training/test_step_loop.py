"""Steps in a lane's thread, while the event loop hands over what comes next."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edged.services.batches.batcher import Batcher, Encoded
from edged.services.batches.live import Cursor
from edged.services.training.step_loop import LiveBatch, StepLoop
from tests.support.training_world import STREAM, NoImages


def samples(first, stop, *, missing=()):
    return [Encoded(None if n in missing else bytes([n] * 4), "raw", "a", n) for n in range(first, stop)]


class Steps:
    """A loop over mini-batches of 4 whose steps are noted: ids, the index after them, and live or not."""

    def __init__(self, *, executor=None, is_due=lambda _now_s: False, view=lambda x, _ids: x):
        self.done = []
        self.during: Callable[[Any], None] = lambda _map: None
        self.loop = StepLoop(self.update, Batcher(STREAM, 4, NoImages()), view=view, is_due=is_due, executor=executor)

    def update(self, batch, sample, cursor, map_):
        self.during(map_)
        self.done.append((batch.ids.tolist(), sample, cursor is not None))
        return []

    async def finish(self, live=None):
        while not self.loop.is_done:
            async with self.loop.turn(live):
                live = None

    async def train(self, *parts, first=0):
        left = iter(parts)
        async with self.loop.open(first):
            while not self.loop.is_done:
                async with self.loop.turn():
                    while await self.loop.has_room():
                        part = next(left, None)
                        self.loop.end() if part is None else self.loop.put(part)


async def test_mini_batches_are_full_but_the_last_and_each_knows_the_sample_after_it():
    steps = Steps()
    await steps.train(samples(2, 5), samples(5, 12), first=2)
    assert steps.done == [([2, 3, 4, 5], 6, False), ([6, 7, 8, 9], 10, False), ([10, 11], 12, False)]


async def test_others_take_the_places_of_samples_that_are_missing():
    steps = Steps()
    await steps.train(samples(0, 9, missing=(1, 6)))
    assert steps.done == [([0, 2, 3, 4], 5, False), ([5, 7, 8], 9, False)]


async def test_the_next_mini_batch_is_assembled_while_one_is_computed():
    assembled = threading.Event()

    def view(x, ids):
        if 4 in ids:
            assembled.set()
        return x

    with ThreadPoolExecutor(2) as executor:
        steps = Steps(executor=executor, view=view)

        def compute(map_):
            driver = threading.get_ident()
            if not steps.done:
                list(map_(lambda _lane: threading.get_ident() != driver or assembled.wait(), range(2)))

        steps.during = compute
        await steps.train(samples(0, 8))
    assert [ids for ids, _, _ in steps.done] == [[0, 1, 2, 3], [4, 5, 6, 7]]


async def test_left_by_an_error_a_turn_ends_after_the_step_under_way():
    begun, go_on = threading.Event(), threading.Event()
    steps = Steps()

    def compute(_map):
        begun.set()
        go_on.wait()

    steps.during = compute

    async def train():
        async with steps.loop.open():
            steps.loop.put(samples(0, 20))
            async with steps.loop.turn():
                await asyncio.to_thread(begun.wait)
                asyncio.get_running_loop().call_later(0.01, go_on.set)
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await train()
    assert len(steps.done) == 1
    await steps.train(samples(30, 34), first=30)
    assert steps.done[1:] == [([30, 31, 32, 33], 34, False)], "nothing is left of what was not trained"


async def test_a_turn_ends_between_two_steps_for_what_is_due_and_the_next_goes_on_where_it_was():
    steps = Steps(is_due=lambda _now_s: True)
    async with steps.loop.open():
        steps.loop.put(samples(0, 8))
        for num_done in (1, 2):
            async with steps.loop.turn():
                pass
            assert len(steps.done) == num_done


async def test_samples_can_be_put_as_soon_as_those_before_them_are_taken_while_steps_are_made():
    go_on = threading.Event()
    steps = Steps()

    def compute(_map):
        go_on.wait()

    steps.during = compute
    async with steps.loop.open():
        steps.loop.put(samples(0, 4))
        async with steps.loop.turn():
            assert await steps.loop.has_room()
            steps.loop.put(samples(4, 8))
            assert steps.done == []
            go_on.set()
            while await steps.loop.has_room():
                steps.loop.end()
        assert len(steps.done) == 2


async def test_who_waits_for_room_is_told_when_the_turn_ends():
    go_on = threading.Event()
    steps = Steps(is_due=lambda _now_s: True)

    def compute(_map):
        go_on.wait()

    steps.during = compute
    async with steps.loop.open():
        steps.loop.put(samples(0, 8))
        async with steps.loop.turn():
            assert await steps.loop.has_room()
            steps.loop.put(samples(8, 12))
            go_on.set()
            assert not await steps.loop.has_room()
        assert len(steps.done) == 1
        steps.loop.end()
        await steps.finish()
    assert len(steps.done) == 3


async def test_an_error_of_a_step_is_raised_by_its_turn():
    steps = Steps()

    def fail(_map):
        raise ZeroDivisionError

    steps.during = fail
    with pytest.raises(ZeroDivisionError):
        await steps.train(samples(0, 8))
    assert steps.done == []


async def test_live_batches_are_trained_between_those_of_the_archive():
    steps, live = Steps(), Batcher(STREAM, 4, NoImages())
    live.add(samples(100, 104))
    async with steps.loop.open():
        steps.loop.put(samples(0, 8))
        steps.loop.end()
        await steps.finish(LiveBatch(live.take(), Cursor(1, 0)))
    assert [is_live for _, _, is_live in steps.done] == [False, True, False]
    assert steps.done[1][1] is None, "the position among the archive's samples stays"


@pytest.mark.looptime
async def test_only_time_without_samples_counts_as_waiting():
    steps = Steps()
    async with steps.loop.open():
        await asyncio.sleep(3)
        assert steps.loop.wait_s == pytest.approx(3)
        steps.loop.put(samples(0, 4))
        while steps.loop.has_work:
            async with steps.loop.turn():
                pass
        assert steps.loop.wait_s == pytest.approx(3)
        await asyncio.sleep(2)
        steps.loop.put(samples(4, 8))
        assert steps.loop.wait_s == pytest.approx(5)
        steps.loop.end()
        await steps.finish()
    await asyncio.sleep(10)
    assert steps.loop.wait_s == pytest.approx(5)
    assert len(steps.done) == 2
