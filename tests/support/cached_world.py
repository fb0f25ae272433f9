"""A world for tests of training through a cache."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from edged.domain.archive import snapshot as dataset
from edged.domain.archive.protocol import SamplesRequest
from edged.domain.archive.snapshot import BlockRef
from edged.domain.cache.entry import ENTRY_OVERHEAD_BYTES
from edged.domain.topology import Sampling, SamplingMode
from edged.ports import DiskTier
from edged.services.cache.cache import Cache
from tests.support.training_world import (
    TRAINING,
    World,
    make_pack,
)

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


def large_world(mode: SamplingMode, **options: Any) -> World:
    """Even blocks, so that shares can be counted; the cache is the test's. Nothing is saved before an epoch's end."""
    world = World(training=replace(TRAINING, sampling=Sampling(mode, **options), epochs=3, global_batch=16))
    world.log.blocks = {BlockRef("_train.toy", i): make_pack(i, ROWS) for i in range(NUM_BLOCKS)}
    world.log.blocks[BlockRef("_test.toy", 0)] = make_pack(500, 20)
    return world


@asynccontextmanager
async def cached(
    world: World, disk: DiskTier | None, memory_bytes: int = MANY, disk_bytes: int = MANY
) -> AsyncIterator[Cache]:
    """A process's cache. Left by an exception it dies as by kill -9: what is in memory is lost."""
    world.cache = Cache(disk, world.health, memory_bytes=memory_bytes, disk_bytes=0 if disk is None else disk_bytes)
    await world.cache.__aenter__()
    try:
        yield world.cache
    except BaseException:
        if disk is not None:
            disk.close()
        raise
    await world.cache.__aexit__(None, None, None)


def requested(world: World, since: int = 0) -> list[tuple[BlockRef, int]]:
    """The training samples requested from the archive, each as often as it was."""
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
