"""A disk that hangs is told in time, whatever else of it works, until it goes on."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import looptime
import numpy as np
import pytest

from edged.adapters.memory.archive import MemoryArchive
from edged.adapters.memory.checkpoints import MemoryCheckpoints
from edged.adapters.memory.disk_tier import MemoryDiskTier
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.adapters.parquet.retrying import RetryingArchive
from edged.aio import run_in_worker
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SnapshotRequest
from edged.domain.cache.entry import Entry, SampleKey
from edged.domain.nn.model import Division
from edged.domain.topology import Sampling
from edged.domain.training.state import Position, TrainState
from edged.errors import StorageError
from edged.hanging import TOLD_AFTER_S, degraded_while_hanging
from edged.ports import Message
from edged.services.archive.epoch_server import EpochServer
from edged.services.cache.cache import Cache
from edged.services.cache.shared import SharedCache
from edged.services.epochs.planner import LocalPlanner, PlannerSettings
from edged.services.inference.served_model import ServedModel
from tests.support.archive_samples import BORDER, pack
from tests.support.hanging_disk import HangingDisk
from tests.support.training_world import STREAM, World

pytestmark = pytest.mark.looptime


@pytest.fixture
async def disk(real_threads, monkeypatch):
    disk = HangingDisk()

    def run_in_executor(loop, _executor, function, *arguments):
        return disk.run(loop, function, *arguments)

    monkeypatch.setattr(looptime.LoopTimeEventLoop, "run_in_executor", run_in_executor)
    yield disk
    disk.work()  # a failed test's threads must end before its event loop


async def test_a_call_that_hangs_is_told_within_10_s_and_its_end_too(disk):
    health = RecordingHealth()
    waiting = asyncio.create_task(_call(health, disk))
    await health.until_degraded()
    assert TOLD_AFTER_S <= asyncio.get_running_loop().time() < 10
    assert health.reasons == {"disk": "a call has not returned for 8 s"}
    disk.work()
    await waiting
    assert health.history == [("degraded", "disk"), ("recovered", "disk")]


async def test_it_is_told_again_when_another_call_works_meanwhile(disk):
    health = RecordingHealth()
    waiting = asyncio.create_task(_call(health, disk))
    await health.until_degraded()
    health.recovered("disk")
    await health.until_degraded()
    assert health.reasons == {"disk": "a call has not returned for 16 s"}
    disk.work()
    await waiting
    assert not health.reasons


async def test_one_that_is_cancelled_is_waited_for_and_told(disk):
    health = RecordingHealth()
    waiting = asyncio.create_task(_call(health, disk))
    await asyncio.sleep(1)
    waiting.cancel()
    await health.until_degraded()
    disk.work()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not health.reasons


async def test_one_that_returns_or_fails_in_time_is_none_of_its_business():
    health = RecordingHealth()
    health.degraded("disk", "no space left")
    with degraded_while_hanging(health, "disk"):
        await asyncio.sleep(TOLD_AFTER_S - 1)
    with pytest.raises(StorageError), degraded_while_hanging(health, "disk"):
        raise StorageError("no space left")
    await asyncio.sleep(TOLD_AFTER_S)
    assert health.reasons == {"disk": "no space left"}


async def _call(health, disk):
    with degraded_while_hanging(health, "disk"):
        await run_in_worker(disk.hang)


Hang = Callable[[object, str], None]
"""Lets the calls of this name of an object, which stands for a disk, hang first."""


async def saving(health: RecordingHealth, hang: Hang) -> None:
    world = World(health=health)
    hang(world.store, "save")
    params = {"w": np.zeros(3, np.float32)}
    state = TrainState(params, {"velocity": params}, world.job, Division(1, 4), Position(step=1))
    await world.checkpointing().save(state)


async def restoring(health: RecordingHealth, hang: Hang) -> None:
    world = World(health=health)
    hang(world.store, "checkpoints")
    await world.checkpointing().restore()


async def planning(health: RecordingHealth, hang: Hang) -> None:
    world = World(health=health)
    hang(world.store, "save_sampler_state")
    share = SharedCache(world.cache, STREAM).share()
    planner = LocalPlanner(world.store, share, PlannerSettings(Sampling("uniform"), 0, 0.0, 1 << 20), health)
    await planner.plan(0, world.log.snapshot())


async def caching(health: RecordingHealth, hang: Hang) -> None:
    disk = MemoryDiskTier()
    hang(disk, "put_many")
    async with Cache(disk, health, memory_bytes=1 << 20, disk_bytes=1 << 20) as cache:
        await cache.admit({SampleKey("pi-a", 0, 0): Entry(b"sample", "raw", None)})


async def archiving(health: RecordingHealth, hang: Hang) -> None:
    store = MemoryArchive()
    hang(store, "append")
    await RetryingArchive(store, health).append("fashion", "pi-a", [(0, pack(0))])


async def serving_epochs(health: RecordingHealth, hang: Hang) -> None:
    log, store = MemoryLog(), MemoryArchive()
    hang(store, "snapshot")
    await log.append([Message("requests", protocol.encode_request(SnapshotRequest("r-1", "pi-a", "fashion")))])
    server = EpochServer(
        log,
        store,
        health,
        border=BORDER,
        edges=["pi-a"],
        requests_topic="requests",
        epochs_topic="epochs.{}".format,
        group="vault",
    )
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.run(), 60)


async def serving_a_model(health: RecordingHealth, hang: Hang) -> None:
    models = MemoryCheckpoints()
    hang(models, "newest_model")
    await ServedModel(models, health, lambda _: lambda x: x, (2,), "numpy", "cross_entropy").take_newest()


@pytest.mark.parametrize(
    ("waiting", "part"),
    [
        (saving, "disk"),
        (restoring, "disk"),
        (planning, "disk"),
        (caching, "cache"),
        (archiving, "archive"),
        (serving_epochs, "archive_read"),
        (serving_a_model, "disk"),
    ],
)
async def test_whoever_waits_for_a_disk_says_that_it_hangs(
    disk, log_lines, waiting: Callable[..., Coroutine[Any, Any, None]], part: str
):
    health = RecordingHealth()

    def hang(owner: object, name: str) -> None:
        call = getattr(owner, name)

        def hanging(*args: Any, **options: Any) -> Any:
            disk.hang()
            return call(*args, **options)

        setattr(owner, name, hanging)

    task = asyncio.create_task(waiting(health, hang))
    try:
        async with asyncio.timeout(20):
            await health.until_degraded()
        assert health.reasons.keys() == {part}
    finally:
        disk.work()
        await task
    assert health.reasons == {}
