"""Two jobs and one cache: what is fetched, what is kept, and which part each has."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.domain.archive.protocol import SamplesPart
from edged.domain.archive.snapshot import BlockRef
from edged.domain.cache.entry import Entry, SampleKey
from edged.domain.topology import SamplingMode, Training
from edged.services.cache.cache import Cache
from edged.services.cache.shared import CacheShare, SharedCache
from edged.services.training.trainer import Trainer
from tests.services.training.test_trainer import bits, finish
from tests.support.cached_world import MANY, large_world, memory_for, requested, training_samples
from tests.support.fake_time import until
from tests.support.training_world import STREAM, World

pytestmark = pytest.mark.looptime
SOME = 300
"""Samples of about 480 to train on: what one job's part of the cache holds."""


def key(row: int) -> SampleKey:
    return SampleKey("pi", 0, row)


def entries(*rows: int) -> dict[SampleKey, Entry]:
    return {key(row): Entry(b"1234", "raw", "a") for row in rows}


def shares(num_entries: int, count: int = 2) -> tuple[Cache, list[CacheShare]]:
    shared = SharedCache(Cache(None, RecordingHealth(), memory_bytes=memory_for(num_entries), disk_bytes=0), STREAM)
    return shared.cache, [shared.share() for _ in range(count)]


async def test_what_cannot_be_a_sample_of_the_stream_is_not_kept():
    cache, (share, _) = shares(10)
    bad = [Entry(b"123", "raw", "a"), Entry(b"1234", "gif", "a"), Entry(b"GIF89a", "png", None)]
    bad += [Entry(b"1234", "raw", "x" * 70_000), Entry(b"", "raw", None)]

    await share.admit(entries(0) | {key(1 + row): entry for row, entry in enumerate(bad)} | entries(9))

    assert set(cache.keys()) == {key(0), key(9)}


@dataclass
class Two:
    """Two jobs of one process: an archive, a cache and a log in common."""

    worlds: list[World]
    shared: SharedCache

    @property
    def cache(self) -> Cache:
        return self.shared.cache

    @property
    def log(self) -> Any:
        return self.worlds[0].log


def two(*jobs: Training, samples: int | None = None) -> Two:
    """`samples`: how many the cache holds; None: all."""
    memory_bytes = MANY if samples is None else memory_for(samples)
    shared = SharedCache(Cache(None, RecordingHealth(), memory_bytes=memory_bytes, disk_bytes=0), STREAM)
    worlds: list[World] = []
    for job in jobs:
        world = large_world("uniform")
        world.training, world.cache, world.share = job, shared.cache, shared.share()
        if worlds:
            world.log, world.lines = worlds[0].log, worlds[0].lines
            world.take_log()
        worlds.append(world)
    return Two(worlds, shared)


def unmeasured(both: Two) -> None:
    """The parts of the cache stay equal, whatever the speeds."""
    for share in both.shared.shares:
        share.record_benefit = lambda *_: None  # type: ignore[method-assign]


def job(name: str, mode: SamplingMode, seed: int = 0, **options: Any) -> Training:
    trained = large_world(mode, **options).training
    return replace(trained, name=name, seed=seed)


def trainers(both: Two) -> list[Trainer]:
    first, second = both.worlds
    made = [first.trainer()]
    second.other_client = first.made_client
    return [*made, second.trainer()]


def is_finished(both: Two, trainer: Trainer) -> bool:
    """Whether all epochs are trained, and that is logged."""
    if trainer.state.position.epoch < both.worlds[0].training.epochs:
        return False
    return trainer.state.position.step in {line["step"] for line in both.worlds[0].events("train.finished")}


async def train(both: Two) -> list[Trainer]:
    """Both to the end, side by side."""
    made = trainers(both)
    tasks = [asyncio.create_task(trainer.run()) for trainer in made]
    await until(lambda: any(task.done() for task in tasks) or all(is_finished(both, trainer) for trainer in made))
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(ended, asyncio.CancelledError), ended
    return made


# what is kept


async def test_what_two_jobs_keep_is_stored_once_and_evicted_with_the_second():
    cache, (a, b) = shares(2)
    await a.admit(entries(0, 1))
    await b.admit(entries(0))
    assert len(cache) == 2
    await a.admit(entries(2), evict=[key(0)])  # no room: b still keeps it
    assert [cache.holds(key(row)) for row in range(3)] == [True, True, False]
    await b.admit(entries(3), evict=[key(0)])
    assert [cache.holds(key(row)) for row in range(4)] == [False, True, False, True]


async def test_what_a_job_evicted_while_another_kept_it_makes_room_later():
    cache, (a, b) = shares(2)
    await a.admit(entries(0, 1))
    await b.admit(entries(1))
    await a.admit({}, evict=[key(0), key(1)])
    await a.admit(entries(2))  # 0 goes
    assert [cache.holds(key(row)) for row in range(3)] == [False, True, True]
    b.leave()
    await a.admit(entries(3))  # and now 1
    assert [cache.holds(key(row)) for row in range(4)] == [False, False, True, True]


async def test_an_entry_that_no_job_keeps_can_be_evicted_once_it_is_unpinned():
    cache, (a, b) = shares(1)
    await a.admit(entries(0))
    await a.admit({}, evict=[key(0)])
    b.pin(BlockRef("pi", 0), np.array([0]))
    await a.admit(entries(1))
    assert cache.holds(key(0))
    b.unpin(BlockRef("pi", 0), np.array([0]))
    await a.admit(entries(1))
    assert cache.holds(key(1))


# parts


def test_the_cache_is_divided_equally_until_something_is_measured():
    _, (a, b, c) = shares(10, count=3)
    assert [share.allot(900) for share in (a, b, c)] == [300, 300, 300]


def test_the_cache_is_then_divided_by_benefit_as_the_others_make_room():
    snapshot = large_world("uniform").log.snapshot()
    _, (a, b) = shares(10)
    for share in (a, b):
        share.keep(snapshot, np.zeros(0, np.int64), share.allot(800))
    a.record_benefit(fetch_s=0.001, draws_per_s=3000)
    b.record_benefit(fetch_s=0.001, draws_per_s=1000)
    assert a.allot(800) == 400  # b's plan still counts on its half
    part = b.allot(800)
    assert part == 800 * (0.25 / 2 + 0.75 / 4)
    b.keep(snapshot, np.zeros(0, np.int64), part)
    assert a.allot(800) == 800 - part


def test_a_job_that_has_ended_leaves_its_part_to_the_others():
    _, (a, b) = shares(10)
    assert (a.allot(800), b.allot(800)) == (400, 400)
    a.leave()
    assert b.allot(800) == 800


# training


async def test_two_jobs_on_the_same_samples_fetch_them_once(log_lines):
    both = two(job("a", "uniform", seed=1), job("b", "uniform", seed=2))
    await train(both)
    fetched = requested(both.worlds[0])
    assert set(fetched) == set(training_samples(both.worlds[0]))
    assert len(fetched) <= 1.05 * len(set(fetched))
    logged = {(line["job"], line["epoch"]) for line in both.worlds[0].events("cache.epoch")}
    assert logged == {(name, epoch) for name in "ab" for epoch in range(3)}


@pytest.mark.parametrize(
    ("mode", "options"), [("uniform", {}), ("stratified", {"hit_share": 0.7})], ids=["uniform", "stratified"]
)
async def test_a_job_next_to_another_trains_as_it_does_alone_with_its_part_of_the_cache(mode, options, log_lines):
    mine = job("mine", mode, seed=1, **options)
    alone = large_world("uniform")
    alone.training, alone.cache = mine, Cache(None, RecordingHealth(), memory_bytes=memory_for(SOME), disk_bytes=0)
    expected = bits((await finish(alone)).state.params)
    both = two(mine, job("other", "uniform", seed=9), samples=2 * SOME)
    unmeasured(both)
    [trainer, _] = await train(both)
    assert bits(trainer.state.params) == expected


async def test_nothing_that_a_plan_needs_is_evicted(log_lines, monkeypatch):
    """What is evicted is kept by neither; hence nearly all planned hits are present.

    Not all: what one job has evicted while the other reads it takes up room for a moment, and an admission fails.
    """
    both = two(
        job("a", "stratified", seed=1, hit_share=0.7), job("b", "stratified", seed=2, hit_share=0.7), samples=SOME
    )
    needed = []
    drop = Cache._drop

    def dropped(cache: Cache, victim: SampleKey) -> None:
        needed.extend([victim] if both.shared.keeps.is_kept(victim) else [])
        drop(cache, victim)

    monkeypatch.setattr(Cache, "_drop", dropped)
    unmeasured(both)
    await train(both)
    assert both.cache.counts.evicted > 100
    assert needed == []
    assert both.cache.counts.misses < 0.02 * both.cache.counts.hits_memory


async def test_what_one_job_has_requested_the_other_waits_for(log_lines):
    both = two(job("a", "uniform"), job("b", "uniform"))  # of one seed: they miss the same at the same time
    both.log.is_silent = True
    made = trainers(both)
    tasks = [asyncio.create_task(trainer.run()) for trainer in made]
    await until(lambda: len(both.log.requests) == 2)  # the snapshots
    both.log.is_silent = False
    for request in list(both.log.requests):
        await both.log.answer(request)
    await until(lambda: all(is_finished(both, trainer) for trainer in made) or any(task.done() for task in tasks))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    fetched = requested(both.worlds[0])
    assert len(fetched) == len(set(fetched))


async def test_a_job_gets_the_samples_that_another_has_requested_though_that_one_is_stopped(log_lines):
    both = two(job("a", "uniform"), job("b", "uniform"))
    both.log.loses = lambda part: isinstance(part, SamplesPart)
    made = trainers(both)
    tasks = [asyncio.create_task(trainer.run()) for trainer in made]
    await until(lambda: bool(requested(both.worlds[0])))
    await asyncio.sleep(1)  # now both wait for the first one's request
    before = len(requested(both.worlds[0]))
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    assert len(requested(both.worlds[0])) == before
    both.log.loses = lambda _: False
    for request in list(both.log.requests):
        await both.log.answer(request)
    await until(lambda: is_finished(both, made[1]) or tasks[1].done())
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    assert {line["epoch"] for line in both.worlds[0].events("train.epoch") if line["job"] == "b"} == {0, 1, 2}


async def test_two_jobs_resume_after_a_restart_with_the_same_weights(log_lines):
    """Stopped within an epoch, both end with the weights that they would have had."""
    jobs = [job("a", "stratified", seed=1, hit_share=0.7), job("b", "uniform", seed=2)]
    whole = two(*jobs, samples=SOME)
    unmeasured(whole)
    expected = [bits(trainer.state.params) for trainer in await train(whole)]

    both = two(*jobs, samples=SOME)
    unmeasured(both)
    first = trainers(both)
    tasks = [asyncio.create_task(trainer.run()) for trainer in first]
    await until(lambda: min(trainer.state.position.step for trainer in first) > 35)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    again = two(*jobs, samples=SOME)  # with an empty cache
    for old, new in zip(both.worlds, again.worlds, strict=True):
        new.store = old.store
    unmeasured(again)
    assert [bits(trainer.state.params) for trainer in await train(again)] == expected
