"""Training through a cache: what is asked of the archive, what survives a kill, and what is said about it."""

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged.adapters.disk.sqlite_cache import SqliteCache
from edged.adapters.memory.checkpoints import MemoryCheckpoints
from edged.adapters.memory.disk_tier import MemoryDiskTier
from edged.domain.archive import snapshot as dataset
from edged.domain.archive.protocol import SamplesRequest
from edged.domain.archive.snapshot import BlockRef, Ids
from edged.domain.cache.entry import ENTRY_OVERHEAD_BYTES
from edged.domain.epochs import importance, sampler_state
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import Importance
from edged.domain.epochs.sampler_state import SamplerState
from edged.domain.epochs.scores import ScoreTable
from edged.domain.samples import codec
from edged.domain.topology import Sampling, SamplingMode, Sgd
from edged.domain.training.learner import BatchResult
from edged.errors import DiskFull, StorageError
from edged.ports import DiskTier
from edged.services.cache.cache import Cache
from edged.services.epochs.planner import SCORE_BYTES
from edged.services.training.trainer import Trainer
from tests.services.training.test_trainer import bits, finish, run_until
from tests.support.training_world import (
    STREAM,
    TRAINING,
    CrashError,
    CrashingModel,
    NoImages,
    World,
    make_pack,
    mini_batches,
    until,
)

pytestmark = pytest.mark.looptime

PAYLOAD = 4
MANY = 1 << 20
"""Bytes that hold everything."""
NUM_BLOCKS, ROWS = 24, 25
NUM_SAMPLES = NUM_BLOCKS * ROWS

DISK_BYTES = 20_000
"""Of the disk tier where not everything is to fit."""

Tier = Callable[[str], DiskTier | None]


def memory_for(samples: int) -> int:
    return samples * (PAYLOAD + ENTRY_OVERHEAD_BYTES)


@pytest.fixture
def world(log_lines) -> World:  # which puts logging back in the end
    return World()


@pytest.fixture(params=["memory", "memory and a fake disk", "memory and SQLite"])
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Tier:
    """A process's disk by its site's name: what one process left is there for the next."""
    kept: dict[str, MemoryDiskTier] = {}
    of_kind: dict[str, Tier] = {
        "memory": lambda _: None,
        "memory and a fake disk": lambda site: kept.setdefault(site, MemoryDiskTier()),
        "memory and SQLite": lambda site: SqliteCache(tmp_path / site, 1 << 20, "test"),
    }
    return of_kind[request.param]


def large_world(mode: SamplingMode, **options: Any) -> World:
    """Even blocks, so that shares can be counted; the cache is the test's."""
    world = World(training=replace(TRAINING, sampling=Sampling(mode, **options), epochs=3, checkpoint_s=0))
    world.log.blocks = {BlockRef("_train.toy", i): make_pack(i, ROWS) for i in range(NUM_BLOCKS)}
    world.log.blocks[BlockRef("_test.toy", 0)] = make_pack(500, 20)
    return world


@asynccontextmanager
async def cached(
    world: World, disk: DiskTier | None, memory_bytes: int = MANY, disk_bytes: int = MANY
) -> AsyncIterator[Cache]:
    """A process's cache. Left by an exception it dies as by kill -9: what is in memory is lost."""
    world.cache = Cache(disk, memory_bytes=memory_bytes, disk_bytes=0 if disk is None else disk_bytes)
    await world.cache.__aenter__()
    try:
        yield world.cache
    except BaseException:
        if disk is not None:
            disk.close()
        raise
    await world.cache.__aexit__(None, None, None)


def asked(world: World, since: int = 0) -> list[tuple[BlockRef, int]]:
    """The training samples that the archive was asked for, each as often as it was."""
    fraction = world.training.test_fraction
    return [
        (ref, row)
        for request in world.log.requests[since:]
        if isinstance(request, SamplesRequest)
        for ref, rows in zip(request.refs, request.rows, strict=True)
        for row in rows.tolist()
        if not dataset.test_rows(ref.source, ref.offset, row + 1, fraction)[row]
    ]


def training_samples(world: World) -> list[tuple[BlockRef, int]]:
    fraction = world.training.test_fraction
    held_out = {
        ref: dataset.test_rows(ref.source, ref.offset, len(p.samples), fraction) for ref, p in world.log.blocks.items()
    }
    return [(ref, row) for ref, rows in held_out.items() for row in np.flatnonzero(~rows).tolist()]


def is_behind(trainer: Trainer, step: int) -> bool:
    return trainer.state.position.step > step


async def run_killed(world: World, tier: Tier, memory_bytes: int) -> bytes:
    """Train to the end through many kills, each with the loss of the memory tier; the final weights."""
    rng = np.random.default_rng(5)
    for _ in range(300):
        model = world.model()
        model.crash_at = int(rng.integers(1, 40))
        try:
            async with cached(world, tier("killed"), memory_bytes, DISK_BYTES):
                trainer = await finish(world, model=model)
        except CrashError:
            continue
        assert len(world.events("train.started")) > 5
        return b"".join(bits(trainer.state.params).values())
    raise AssertionError("it never came to the end")


# what is asked of the archive


async def test_once_everything_is_cached_an_epoch_asks_for_nothing_but_held_out_samples(world, tier):
    world.training = replace(TRAINING, sampling=Sampling("uniform"), epochs=3)
    async with cached(world, tier("site"), MANY):
        await finish(world)
    assert sorted(asked(world)) == sorted(training_samples(world))
    first, *others = world.events("cache.epoch")
    assert (first["hit_ratio"], first["fetched_samples"]) == (0, len(training_samples(world)))
    for line in others:
        assert (line["hit_ratio"], line["fresh_hit_ratio"]) == (1, 1)
        assert (line["fetched_samples"], line["fetched_bytes"]) == (0, 0)
        assert line["distinct_samples"] == line["reads"] == line["effective_samples"] == len(training_samples(world))


async def test_uniform_draws_each_sample_once_an_epoch_whatever_is_cached(log_lines, tier):
    world = large_world("uniform")
    async with cached(world, tier("site"), memory_for(200), DISK_BYTES):
        await finish(world)
    for line in world.events("cache.epoch"):
        assert line["reads"] == line["distinct_samples"] == NUM_SAMPLES
    assert [line["samples"] for line in world.events("train.epoch")] == [NUM_SAMPLES] * 3


@pytest.mark.parametrize("hit_share", [0.5, 0.7])
async def test_stratified_fetches_one_less_the_hit_share_of_the_samples(log_lines, hit_share):
    world = large_world("stratified", hit_share=hit_share)
    async with cached(world, None, memory_for(200)):
        await finish(world)
    for line in world.events("cache.epoch")[1:]:
        assert line["reads"] == pytest.approx(NUM_SAMPLES, abs=ROWS)
        assert line["fetched_samples"] == pytest.approx((1 - hit_share) * NUM_SAMPLES, abs=2 * ROWS)
        assert line["hit_ratio"] == pytest.approx(hit_share, abs=0.08)
        assert line["fresh_hit_ratio"] < line["hit_ratio"]
    assert len(asked(world)) == sum(line["fetched_samples"] for line in world.events("cache.epoch"))


@pytest.mark.parametrize("mode", ["uniform", "stratified", "importance", "lru", "shade", "icache"])
async def test_what_is_said_to_be_fetched_is_what_was_asked_for_and_no_window_asks_twice(log_lines, mode):
    world = large_world(mode)
    async with cached(world, None, memory_for(150)), (epochs := world.epochs()).open():
        for epoch in range(3):
            plan = await epochs.draw(epoch)
            async with aclosing(mini_batches(epochs, plan)) as batches:
                ids = [int(i) async for batch, _ in batches for i in batch.ids]
            await epochs.end()
            async for _ in epochs.held_out():
                pass
            line = world.events("cache.epoch")[-1]
            assert line["reads"] == len(ids)
            assert line["distinct_samples"] == len(set(ids))
    lines = world.events("cache.epoch")
    fetched = sum(line["fetched_samples"] for line in lines)
    assert len(asked(world)) == fetched
    assert fetched * PAYLOAD == sum(line["fetched_bytes"] for line in lines)
    assert all(
        line["hit_ratio"] == pytest.approx(1 - line["fetched_samples"] / line["reads"], abs=0.3) for line in lines
    )


async def test_after_the_memory_is_lost_no_window_asks_for_what_another_asked_for(log_lines):
    """Planned hits that are gone are drawn by several windows, and fetched once."""
    world = large_world("stratified", hit_share=0.8)
    async with cached(world, None, memory_for(200)):
        await finish(world)
    world.training = replace(world.training, epochs=4)
    since = len(world.log.requests)
    async with cached(world, None, memory_for(200)):
        await finish(world)
    again = asked(world, since)
    assert len(again) == len(set(again)) > 200
    assert world.events("cache.epoch")[-1]["hit_ratio"] > 0.3


async def test_after_the_memory_is_lost_windows_stay_near_the_prefetch_budget(log_lines):
    """Most of a window may be lost hits; what goes beyond a quarter of it is fetched when it is read."""
    world = large_world("stratified", hit_share=0.9)
    world.prefetch_bytes = 4096
    async with cached(world, None, memory_for(400)):
        await finish(world)
    world.training = replace(world.training, epochs=4)
    async with cached(world, None, memory_for(400)), (epochs := world.epochs()).open():
        plan, most = await epochs.draw(3), 0
        async with aclosing(mini_batches(epochs, plan)) as batches:
            async for _ in batches:
                most = max(most, epochs.num_bytes)
        await epochs.end()
    line = world.events("cache.epoch")[-1]
    assert 0 < most <= 1.25 * world.prefetch_bytes
    assert line["fetched_samples"] < 1.1 * line["distinct_samples"]  # late ones are cached, too


# kills


@pytest.mark.parametrize("sampling", [Sampling("uniform"), Sampling("stratified", 0.7)], ids=["uniform", "stratified"])
async def test_killed_at_random_steps_it_ends_with_the_same_bits(log_lines, tier, sampling):
    memory_bytes = memory_for(120)
    whole, killed = large_world(sampling.mode, hit_share=sampling.hit_share), large_world(sampling.mode)
    killed.training = whole.training
    async with cached(whole, tier("whole"), memory_bytes, DISK_BYTES):
        params = (await finish(whole)).state.params
    if sampling.mode == "stratified":
        assert whole.events("cache.epoch")[-1]["hit_ratio"] > 0.5
    assert await run_killed(killed, tier, memory_bytes) == b"".join(bits(params).values())
    assert killed.events("epoch.redrawn") == []


@pytest.mark.parametrize("mode", ["importance", "shade", "icache"])
async def test_scores_learnt_before_a_kill_count_as_without_it(log_lines, monkeypatch, mode):
    """Killed at any step, and stopped in good order now and then: the same bits, though plans follow from scores."""
    monkeypatch.setattr(importance, "TAU_THRESHOLD", 1.01)  # of the first epochs' scores
    whole, killed = large_world(mode), large_world(mode)
    async with cached(whole, None, memory_for(120)):
        params = (await finish(whole)).state.params
    for step in (30, 80, 100):
        async with cached(killed, None, memory_for(120)):
            trainer = killed.trainer()
            await run_until(trainer, partial(is_behind, trainer, step))
    assert await run_killed(killed, lambda _: None, memory_for(120)) == b"".join(bits(params).values())
    assert killed.events("epoch.redrawn") == []


async def test_a_restart_finds_what_is_on_the_disk_and_fetches_what_is_missing(log_lines, tmp_path):
    world = large_world("uniform")
    world.training = replace(world.training, epochs=1)
    folder = tmp_path / "cache"
    with contextlib.suppress(CrashError):
        async with cached(world, SqliteCache(folder, 1 << 20, "test"), memory_for(200)) as cache:
            await finish(world)
            on_disk = len(cache) - cache.memory_bytes // memory_for(1)
            raise CrashError
    assert 0 < on_disk < NUM_SAMPLES
    world.training = replace(world.training, epochs=2)
    since = len(world.log.requests)
    async with cached(world, SqliteCache(folder, 1 << 20, "test"), memory_for(200)) as cache:
        assert len(cache) == on_disk
        await finish(world)
    assert len(asked(world, since)) == NUM_SAMPLES - on_disk
    assert world.events("cache.epoch")[-1]["fetched_samples"] == NUM_SAMPLES - on_disk


async def test_an_epoch_goes_on_as_it_was_planned_when_the_cache_holds_a_little_less_after_a_restart(log_lines):
    """What a disk tier offers changes with how well its entries fill their pages."""
    world = large_world("stratified", hit_share=0.6)
    async with cached(world, None, memory_for(200)):
        trainer = world.trainer()
        await run_until(trainer, lambda: trainer.state.position.epoch == 1 and trainer.state.position.sample > 100)
    async with cached(world, None, memory_for(180)):
        await finish(world)
    assert world.events("train.started")[-1]["epoch"] == 1
    assert world.events("epoch.redrawn") == []


async def test_a_cache_that_is_closed_in_good_order_comes_back_whole(log_lines, tmp_path):
    world = large_world("uniform")
    world.training = replace(world.training, epochs=1)
    async with cached(world, SqliteCache(tmp_path / "cache", 1 << 20, "test"), memory_for(200)):
        await finish(world)
    world.training = replace(world.training, epochs=2)
    since = len(world.log.requests)
    async with cached(world, SqliteCache(tmp_path / "cache", 1 << 20, "test"), memory_for(200)):
        await finish(world)
    assert asked(world, since) == []
    assert world.events("cache.opened")[-1]["entries"] == NUM_SAMPLES


async def test_a_new_job_trains_at_once_on_what_an_earlier_one_left_but_never_on_what_is_held_out(world, tmp_path):
    world.training = replace(TRAINING, sampling=Sampling("uniform"), test_fraction=0.0)
    async with cached(world, SqliteCache(tmp_path / "cache", 1 << 20, "test")):
        await finish(world)
    world.training = replace(world.training, test_fraction=0.3)
    world.store = MemoryCheckpoints()
    since = len(world.log.requests)
    async with cached(world, SqliteCache(tmp_path / "cache", 1 << 20, "test")):
        await finish(world)
    assert asked(world, since) == []
    line = world.events("cache.epoch")[-1]
    assert line["reads"] == line["distinct_samples"] == len(training_samples(world))


# what goes wrong


async def test_a_corrupt_entry_is_dropped_and_fetched_again(world):
    disk = MemoryDiskTier()
    world.training = replace(TRAINING, sampling=Sampling("uniform"), epochs=1)
    async with cached(world, disk, memory_for(5)):
        await finish(world)
    torn = sorted(disk.blobs)[:10]
    for key in torn:
        disk.blobs[key] = disk.blobs[key][:-1]
    world.training = replace(world.training, epochs=3)
    since = len(world.log.requests)
    async with cached(world, disk, memory_for(5)):
        await finish(world)
    assert sorted(asked(world, since)) == sorted((BlockRef(key.source, key.offset), key.row) for key in torn)
    second, third = world.events("cache.epoch")[-2:]
    assert (second["corrupt"], third["corrupt"]) == (10, 10)
    assert third["distinct_samples"] == second["distinct_samples"] == len(training_samples(world))


@pytest.mark.parametrize("error", [DiskFull("No space left on device"), StorageError("Input/output error")])
async def test_with_a_disk_that_takes_nothing_training_goes_on(log_lines, error):
    disk = MemoryDiskTier()
    disk.error = error
    world = large_world("stratified", hit_share=0.6)
    async with cached(world, disk, memory_for(100)):
        await finish(world)
    assert world.events("cache.disk_full")
    assert [line["reads"] for line in world.events("cache.epoch")] == [pytest.approx(NUM_SAMPLES, abs=ROWS)] * 3
    assert [line["samples"] for line in world.events("train.epoch")] == [pytest.approx(NUM_SAMPLES, abs=ROWS)] * 3


async def test_samples_that_the_archive_cannot_read_are_left_out_and_asked_for_again_next_time(world):
    gone = {(BlockRef("_train.toy", 0), row) for row in range(5)}
    world.log.missing = gone
    world.training = replace(TRAINING, sampling=Sampling("uniform"), epochs=2)
    async with cached(world, None):
        await finish(world)
    assert [line["samples"] for line in world.events("train.epoch")] == [len(training_samples(world)) - 5] * 2
    assert sorted(asked(world)) == sorted([*training_samples(world), *gone])


async def test_a_memo_that_cannot_be_saved_is_told_and_training_goes_on(world):
    world.training = replace(TRAINING, sampling=Sampling("uniform"))
    world.store.error = DiskFull("No space left on device")
    async with cached(world, None):
        await finish(world)
    assert {line["epoch"] for line in world.events("epoch.memo_failed")} == {0, 1, 2}
    assert world.events("cache.epoch")[1]["hit_ratio"] == 1


async def test_a_torn_memo_is_told_and_the_epoch_drawn_anew_from_what_is_cached(log_lines):
    world = large_world("uniform")
    world.training = replace(world.training, epochs=1)
    disk = MemoryDiskTier()
    async with cached(world, disk, memory_for(100)):
        await finish(world)
    world.store.sampler_states[1] = world.store.sampler_states[1][:50]
    world.training = replace(world.training, epochs=2)
    async with cached(world, disk, memory_for(100)):
        await finish(world)
    assert [line["epoch"] for line in world.events("epoch.memo_skipped")] == [1]
    assert world.events("cache.epoch")[-1]["hit_ratio"] == 1


async def test_what_fits_today_may_not_tomorrow(log_lines):
    """All of it was cached, so that nothing was fetched at all; then the archive grew to twice its size."""
    world = large_world("stratified")
    world.training = replace(world.training, epochs=2)
    async with cached(world, None, memory_for(NUM_SAMPLES + 200)):
        await finish(world)
        world.log.blocks |= {BlockRef("_train.toy", NUM_BLOCKS + i): make_pack(50 + i, ROWS) for i in range(NUM_BLOCKS)}
        world.training = replace(world.training, epochs=4)
        await finish(world)
    assert [line["fetched_samples"] > 0 for line in world.events("cache.epoch")] == [True, False, True, True]


# scores and weights


@pytest.mark.parametrize("mode", ["importance", "shade", "icache"])
async def test_the_score_of_each_sample_is_that_of_its_own_data(world, mode):
    """With weights that stay what they were: left-out samples, hits and misses shift nobody's place."""
    world.training = replace(
        TRAINING, sampling=Sampling(mode), epochs=3, optimizer=Sgd(1e-30, momentum=0.0), checkpoint_s=0
    )
    world.log.blocks[BlockRef("_train.toy", 1)] = make_pack(7, 12, unlabelled=[0, 3])
    world.log.blocks[BlockRef("_train.toy", 2)] = make_pack(8, 12, codec="jpeg")
    world.log.missing = {(BlockRef("pi-a", 2), row) for row in range(4)}
    async with cached(world, MemoryDiskTier(), memory_for(20)):
        trainer = await finish(world)
    memo = sampler_state.decode(world.store.sampler_states[3], score_bytes=SCORE_BYTES)
    table, snapshot = memo.scores, memo.snapshot
    num_checked = 0
    for sample_id in np.flatnonzero(table.visits(np.arange(snapshot.num_samples))).tolist():
        sample = world.log.sample(sample_id)
        x, y = np.zeros((1, *STREAM.shape), np.float32), np.array([STREAM.labels.index(sample.label or "")])
        codec.fill(x, [sample.payload], [sample.codec], STREAM, NoImages().decode)
        gradient = world.model().gradient(trainer.state.params, x, y)
        expected = gradient.scores if mode == "importance" else gradient.losses
        assert table.of(np.array([sample_id]))[0] == pytest.approx(float(expected[0]), rel=2e-3, abs=1e-3)
        num_checked += 1
    assert num_checked > 60


class WeighedModel(CrashingModel):
    """Remembers what each step's losses counted."""

    def gradient(self, *args: Any, **options: Any) -> Any:
        self.weights = [*getattr(self, "weights", []), np.array(args[3])]
        return super().gradient(*args, **options)


async def test_the_plans_weights_reach_the_learner(world, monkeypatch):
    world.training = replace(TRAINING, sampling=Sampling("importance"), epochs=1)
    async with cached(world, None):
        await finish(world)
    snapshot = world.log.snapshot()
    scores, every = ScoreTable(snapshot, SCORE_BYTES), np.arange(snapshot.num_samples)
    scores.update(every, np.random.default_rng(0).gamma(1.0, size=len(every)).astype(np.float32))
    opened = EpochStart(np.zeros(0, np.int64), is_gate_open=True)
    world.store.sampler_states[1] = sampler_state.encode(SamplerState(1, snapshot, opened, scores))
    world.training = replace(world.training, epochs=2)
    model = WeighedModel(STREAM.shape, TRAINING.model, micro_batch=4)
    learnt: list[Ids] = []
    async with cached(world, None):
        trainer = world.trainer(model=model)
        kept = trainer._scores
        assert kept is not None
        learn = kept.learn

        def remember(ids: Ids, told: BatchResult) -> None:
            learnt.append(ids.copy())
            learn(ids, told)

        monkeypatch.setattr(kept, "learn", remember)
        await run_until(trainer, lambda: world.num_finished == 2)
    ids, weights = np.concatenate(learnt), np.concatenate(model.weights)
    rule = Importance(scores)
    np.testing.assert_allclose(weights, rule.weights(ids, np.zeros(len(ids), np.bool_)), rtol=1e-5)
    assert weights.max() > 1.5 * weights.min()
    line = world.events("cache.epoch")[-1]
    assert line["effective_samples"] < 0.95 * line["reads"]


async def test_memory_stays_flat_over_many_epochs_with_both_tiers_full(log_lines):
    world = large_world("stratified", hit_share=0.5)
    world.training = replace(world.training, epochs=20, checkpoint_s=1e9, global_batch=64)
    sizes: list[int] = []
    async with cached(world, MemoryDiskTier(), memory_for(60), 5_000):
        trainer = world.trainer()
        task = asyncio.create_task(trainer.run())
        tracemalloc.start()
        try:
            for epoch in range(20):
                await until(lambda at=epoch: trainer.state.position.epoch > at)  # type: ignore[misc]
                world.log.requests.clear()
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert world.cache.counts.evicted > 1000
    assert max(np.diff(sizes[3:])) < 1 << 20
    assert sizes[-1] - sizes[3] < 4 << 20  # the fake log keeps every reply
