"""Plans through a cache: what survives a kill, a restart and a damaged sampler state."""

import contextlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from edged.adapters.disk.sqlite_cache import SqliteCache
from edged.adapters.memory.checkpoints import MemoryCheckpoints
from edged.adapters.memory.disk_tier import MemoryDiskTier
from edged.domain.archive.snapshot import BlockRef
from edged.domain.epochs import importance
from edged.domain.topology import Sampling
from edged.errors import DiskFull
from edged.services.training.trainer import Trainer
from tests.services.training.test_trainer import bits, finish, run_until
from tests.support.cached_world import (
    DISK_BYTES,
    NUM_BLOCKS,
    NUM_SAMPLES,
    ROWS,
    Tier,
    cached,
    large_world,
    memory_for,
    requested,
    training_samples,
)
from tests.support.training_world import (
    TRAINING,
    CrashError,
    World,
    make_pack,
)

pytestmark = pytest.mark.looptime


def is_behind(trainer: Trainer, step: int) -> bool:
    return trainer.state.position.step > step


async def run_killed(world: World, tier: Tier, memory_bytes: int) -> bytes:
    """Train to the end through many kills, each with the loss of the memory tier; the final weights.

    Each step is saved.
    """
    rng = np.random.default_rng(5)
    world.training = replace(world.training, checkpoint_s=0)
    for _ in range(300):
        model = world.model()
        model.crash_at = int(rng.integers(1, 20))
        try:
            async with cached(world, tier("killed"), memory_bytes, DISK_BYTES):
                trainer = await finish(world, model=model)
        except CrashError:
            continue
        assert len(world.events("train.started")) > 5
        return b"".join(bits(trainer.state.params).values())
    raise AssertionError("training did not end")


@pytest.mark.parametrize("sampling", [Sampling("uniform"), Sampling("stratified", 0.7)], ids=["uniform", "stratified"])
async def test_killed_at_random_steps_training_ends_with_the_same_bits(log_lines, tier, sampling):
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
async def test_scores_learnt_before_a_kill_are_restored(log_lines, monkeypatch, mode):
    """Killed at any step, and sometimes stopped properly: the same bits, though plans depend on scores."""
    monkeypatch.setattr(importance, "TAU_THRESHOLD", 1.01)  # of the first epochs' scores
    whole, killed = large_world(mode), large_world(mode)
    async with cached(whole, None, memory_for(120)):
        params = (await finish(whole)).state.params
    for step in (15, 40, 50):
        async with cached(killed, None, memory_for(120)):
            trainer = killed.trainer()
            await run_until(trainer, partial(is_behind, trainer, step))
    assert await run_killed(killed, lambda _: None, memory_for(120)) == b"".join(bits(params).values())
    assert killed.events("epoch.redrawn") == []


async def test_a_restart_uses_the_disk_tier_and_fetches_the_rest(log_lines, tmp_path):
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
    assert len(requested(world, since)) == NUM_SAMPLES - on_disk
    assert world.events("cache.epoch")[-1]["fetched_samples"] == NUM_SAMPLES - on_disk


async def test_an_epoch_resumes_as_planned_when_the_cache_holds_a_little_less_after_a_restart(log_lines):
    """The capacity of a disk tier varies with how well its entries fill their pages."""
    world = large_world("stratified", hit_share=0.6)
    async with cached(world, None, memory_for(200)):
        trainer = world.trainer()
        await run_until(trainer, lambda: trainer.state.position.epoch == 1 and trainer.state.position.sample > 100)
    async with cached(world, None, memory_for(180)):
        await finish(world)
    assert world.events("train.started")[-1]["epoch"] == 1
    assert world.events("epoch.redrawn") == []


async def test_a_cache_that_was_closed_is_complete_after_a_restart(log_lines, tmp_path):
    world = large_world("uniform")
    world.training = replace(world.training, epochs=1)
    async with cached(world, SqliteCache(tmp_path / "cache", 1 << 20, "test"), memory_for(200)):
        await finish(world)
    world.training = replace(world.training, epochs=2)
    since = len(world.log.requests)
    async with cached(world, SqliteCache(tmp_path / "cache", 1 << 20, "test"), memory_for(200)):
        await finish(world)
    assert requested(world, since) == []
    assert world.events("cache.opened")[-1]["entries"] == NUM_SAMPLES


async def test_a_new_job_starts_from_an_earlier_ones_cache_but_never_trains_on_held_out_samples(world, tmp_path):
    world.training = replace(TRAINING, sampling=Sampling("uniform"), test_fraction=0.0)
    async with cached(world, SqliteCache(tmp_path / "cache", 1 << 20, "test")):
        await finish(world)
    world.training = replace(world.training, test_fraction=0.3)
    world.store = MemoryCheckpoints()
    since = len(world.log.requests)
    async with cached(world, SqliteCache(tmp_path / "cache", 1 << 20, "test")):
        await finish(world)
    assert requested(world, since) == []
    line = world.events("cache.epoch")[-1]
    assert line["reads"] == line["distinct_samples"] == len(training_samples(world))


async def test_a_sampler_state_that_cannot_be_saved_is_logged_and_training_continues(world):
    world.training = replace(TRAINING, sampling=Sampling("uniform"))
    world.store.error = DiskFull("No space left on device")
    async with cached(world, None):
        await finish(world)
    assert {line["epoch"] for line in world.events("epoch.memo_failed")} == {0, 1, 2}
    assert world.events("cache.epoch")[1]["hit_ratio"] == 1


async def test_after_a_torn_sampler_state_the_epoch_is_drawn_again_from_the_cache(log_lines):
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


async def test_a_data_set_that_outgrows_the_cache_is_fetched_again(log_lines):
    """First all of it is cached and nothing fetched; then the archive grows to twice its size."""
    world = large_world("stratified")
    world.training = replace(world.training, epochs=2)
    async with cached(world, None, memory_for(NUM_SAMPLES + 200)):
        await finish(world)
        world.log.blocks |= {BlockRef("_train.toy", NUM_BLOCKS + i): make_pack(50 + i, ROWS) for i in range(NUM_BLOCKS)}
        world.training = replace(world.training, epochs=4)
        await finish(world)
    assert [line["fetched_samples"] > 0 for line in world.events("cache.epoch")] == [True, False, True, True]
