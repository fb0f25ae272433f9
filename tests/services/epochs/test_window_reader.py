"""What is requested from the archive through a cache, and what is read when the cache or the archive fails."""

import asyncio
import gc
import tracemalloc
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from edged.adapters.memory.disk_tier import MemoryDiskTier
from edged.domain.archive.snapshot import BlockRef
from edged.domain.topology import Sampling
from edged.errors import DiskFull, StorageError
from tests.services.training.test_trainer import finish
from tests.support.cached_world import (
    DISK_BYTES,
    MANY,
    NUM_SAMPLES,
    PAYLOAD,
    ROWS,
    cached,
    large_world,
    memory_for,
    requested,
    training_samples,
)
from tests.support.fake_time import until
from tests.support.training_world import (
    TRAINING,
    mini_batches,
)

pytestmark = pytest.mark.looptime


async def test_with_everything_cached_an_epoch_requests_only_held_out_samples(world, tier):
    world.training = replace(TRAINING, sampling=Sampling("uniform"), epochs=3)
    async with cached(world, tier("site"), MANY):
        await finish(world)
    assert sorted(requested(world)) == sorted(training_samples(world))
    first, *others = world.events("cache.epoch")
    assert (first["hit_ratio"], first["fetched_samples"]) == (0, len(training_samples(world)))
    for line in others:
        assert (line["hit_ratio"], line["fresh_hit_ratio"]) == (1, 1)
        assert (line["fetched_samples"], line["fetched_bytes"]) == (0, 0)
        assert line["distinct_samples"] == line["reads"] == line["effective_samples"] == len(training_samples(world))


async def test_uniform_draws_each_sample_once_per_epoch_whatever_is_cached(log_lines, tier):
    world = large_world("uniform")
    async with cached(world, tier("site"), memory_for(200), DISK_BYTES):
        await finish(world)
    for line in world.events("cache.epoch"):
        assert line["reads"] == line["distinct_samples"] == NUM_SAMPLES
    assert [line["samples"] for line in world.events("train.epoch")] == [NUM_SAMPLES] * 3


@pytest.mark.parametrize("hit_share", [0.5, 0.7])
async def test_stratified_fetches_all_but_the_hit_share_of_the_samples(log_lines, hit_share):
    world = large_world("stratified", hit_share=hit_share)
    async with cached(world, None, memory_for(200)):
        await finish(world)
    for line in world.events("cache.epoch")[1:]:
        assert line["reads"] == pytest.approx(NUM_SAMPLES, abs=ROWS)
        assert line["fetched_samples"] == pytest.approx((1 - hit_share) * NUM_SAMPLES, abs=2 * ROWS)
        assert line["hit_ratio"] == pytest.approx(hit_share, abs=0.08)
        assert line["fresh_hit_ratio"] < line["hit_ratio"]
    assert len(requested(world)) == sum(line["fetched_samples"] for line in world.events("cache.epoch"))


@pytest.mark.parametrize("mode", ["uniform", "stratified", "importance", "lru", "shade", "icache"])
async def test_the_reported_fetches_are_the_requested_ones_and_no_window_requests_a_sample_twice(log_lines, mode):
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
    assert len(requested(world)) == fetched
    assert fetched * PAYLOAD == sum(line["fetched_bytes"] for line in lines)
    assert all(
        line["hit_ratio"] == pytest.approx(1 - line["fetched_samples"] / line["reads"], abs=0.3) for line in lines
    )


async def test_after_losing_its_memory_tier_no_sample_is_requested_by_two_windows(log_lines):
    """Planned hits that were lost are drawn by several windows, and fetched once."""
    world = large_world("stratified", hit_share=0.8)
    async with cached(world, None, memory_for(200)):
        await finish(world)
    world.training = replace(world.training, epochs=4)
    since = len(world.log.requests)
    async with cached(world, None, memory_for(200)):
        await finish(world)
    again = requested(world, since)
    assert len(again) == len(set(again)) > 200
    assert world.events("cache.epoch")[-1]["hit_ratio"] > 0.3


async def test_after_losing_its_memory_tier_windows_stay_near_the_prefetch_budget(log_lines):
    """Most of a window may be lost hits; what exceeds a quarter of it is fetched when it is read."""
    world = large_world("stratified", hit_share=0.9)
    world.prefetch_bytes = 4096
    async with cached(world, None, memory_for(400)):
        await finish(world)
    world.training = replace(world.training, epochs=4)
    async with cached(world, None, memory_for(400)), (epochs := world.epochs()).open():
        plan, peak_bytes = await epochs.draw(3), 0
        async with aclosing(mini_batches(epochs, plan)) as batches:
            async for _ in batches:
                peak_bytes = max(peak_bytes, epochs.num_bytes)
        await epochs.end()
    line = world.events("cache.epoch")[-1]
    assert 0 < peak_bytes <= 1.25 * world.prefetch_bytes
    assert line["fetched_samples"] < 1.1 * line["distinct_samples"]  # late ones are cached, too


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
    assert sorted(requested(world, since)) == sorted((BlockRef(key.source, key.offset), key.row) for key in torn)
    second, third = world.events("cache.epoch")[-2:]
    assert (second["corrupt"], third["corrupt"]) == (10, 10)
    assert third["distinct_samples"] == second["distinct_samples"] == len(training_samples(world))


@pytest.mark.parametrize("error", [DiskFull("No space left on device"), StorageError("Input/output error")])
async def test_training_continues_with_a_disk_that_refuses_all_writes(log_lines, error):
    disk = MemoryDiskTier()
    disk.error = error
    world = large_world("stratified", hit_share=0.6)
    async with cached(world, disk, memory_for(100)):
        await finish(world)
    assert world.events("cache.disk_full")
    assert [line["reads"] for line in world.events("cache.epoch")] == [pytest.approx(NUM_SAMPLES, abs=ROWS)] * 3
    assert [line["samples"] for line in world.events("train.epoch")] == [pytest.approx(NUM_SAMPLES, abs=ROWS)] * 3


async def test_samples_that_the_archive_cannot_read_are_left_out_and_requested_again_in_the_next_epoch(world):
    missing = {(BlockRef("_train.toy", 0), row) for row in range(5)}
    world.log.missing = missing
    world.training = replace(TRAINING, sampling=Sampling("uniform"), epochs=2)
    async with cached(world, None):
        await finish(world)
    assert [line["samples"] for line in world.events("train.epoch")] == [len(training_samples(world)) - 5] * 2
    assert sorted(requested(world)) == sorted([*training_samples(world), *missing])


async def test_memory_stays_flat_over_many_epochs_with_both_tiers_full(log_lines):
    world = large_world("stratified", hit_share=0.5)
    world.training = replace(world.training, epochs=12, checkpoint_s=1e9, global_batch=64)
    sizes: list[int] = []
    async with cached(world, MemoryDiskTier(), memory_for(60), 5_000):
        trainer = world.trainer()
        task = asyncio.create_task(trainer.run())
        await until(lambda: trainer.state.position.epoch > 2)
        tracemalloc.start()  # what it traces takes several times as long
        try:
            for epoch in range(3, 12):
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
    assert max(np.diff(sizes)) < 1 << 20
    assert sizes[-1] - sizes[0] < 2 << 20  # the fake log keeps every reply
