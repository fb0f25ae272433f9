"""Saving, restoring, deploying."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from edged.domain.nn.model import Division
from edged.domain.training import checkpoint
from edged.domain.training.state import Position, TrainState
from edged.errors import AnotherVersion, DiskFull, StorageError
from tests.support.training_world import TRAINING, World

pytestmark = pytest.mark.looptime


@pytest.fixture
def world(log_lines) -> World:  # which puts logging back in the end
    return World()


def state_at(world: World, step: int) -> TrainState:
    params = {"w": np.full(3, step, np.float32)}
    return TrainState(
        params, {"velocity": {"w": np.zeros(3, np.float32)}}, world.job, Division(1, 4), Position(step=step)
    )


async def test_without_checkpoints_nothing_is_restored(world):
    assert await world.checkpointing().restore() is None


async def test_each_torn_checkpoint_is_skipped_and_logged(world):
    checkpointing = world.checkpointing()
    for step in (1, 2, 3):
        await checkpointing.save(state_at(world, step))
    world.store.saved[3] = world.store.saved[3][:-1]
    world.store.saved[2] = b""
    restored = await world.checkpointing().restore()
    assert restored is not None
    assert restored.position.step == 1
    assert [line["generation"] for line in world.events("checkpoint.skipped")] == [2, 3]
    (line,) = world.events("checkpoint.restored")
    assert line["generation"] == 1


async def test_a_torn_checkpoint_is_kept_aside(world):
    await world.checkpointing().save(state_at(world, 1))
    world.store.saved |= {2: b"torn", 3: b"unreadable"}
    world.store.unreadable = {3}
    restored = await world.checkpointing().restore()
    assert restored is not None
    assert restored.position.step == 1
    assert list(world.store.saved) == [1]
    assert world.store.aside == [b"torn", b"unreadable"]
    assert not world.events("checkpoint.none_usable")


async def test_when_no_checkpoint_is_usable_all_are_kept_aside_before_the_first_save(world):
    world.store.saved = {1: b"one", 2: b"two", 3: b"three"}
    checkpointing = world.checkpointing()
    assert await checkpointing.restore() is None
    assert (world.store.saved, world.store.aside) == ({}, [b"one", b"two", b"three"])
    (line,) = world.events("checkpoint.none_usable")
    assert (line["level"], line["kept_as"]) == ("error", ["1 aside", "2 aside", "3 aside"])


async def test_training_does_not_begin_again_over_checkpoints_that_cannot_be_kept_aside(world):
    world.store.saved = {1: b"one"}
    world.store.error = StorageError("Read-only file system")
    with pytest.raises(StorageError):
        await world.checkpointing().restore()
    assert world.store.saved == {1: b"one"}


async def test_a_disk_that_keeps_nothing_aside_does_not_end_training_that_can_go_on(world):
    await world.checkpointing().save(state_at(world, 1))
    world.store.saved[2] = b"torn"
    world.store.error = StorageError("Read-only file system")
    assert await world.checkpointing().restore() is not None
    (line,) = world.events("checkpoint.skipped")
    assert line["kept_as"] == ""


async def test_behind_a_torn_one_another_versions_checkpoint_is_refused_and_nothing_is_moved(world, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "_VERSION", "checkpoint/8")
        await world.checkpointing().save(state_at(world, 1))
    world.store.saved[2] = b"torn"
    with pytest.raises(AnotherVersion, match=r"memory: .*checkpoint/8"):
        await world.checkpointing().restore()
    assert (list(world.store.saved), world.store.aside) == ([1, 2], [])


async def test_a_checkpoint_is_due_again_after_the_interval(world):
    world.training = replace(TRAINING, checkpoint_s=300.0)
    checkpointing = world.checkpointing()
    await checkpointing.restore()
    await asyncio.sleep(299)
    assert not checkpointing.is_due(asyncio.get_running_loop().time())
    await asyncio.sleep(1)
    assert checkpointing.is_due(asyncio.get_running_loop().time())
    await checkpointing.save(state_at(world, 1))
    assert not checkpointing.is_due(asyncio.get_running_loop().time())


async def test_a_failed_write_is_reported_and_retried(world):
    checkpointing = world.checkpointing()
    world.store.error = DiskFull("No space left on device")
    await checkpointing.save(state_at(world, 1))
    await checkpointing.deploy(state_at(world, 1))
    assert "disk" in world.health.reasons
    assert len(world.events("checkpoint.failed")) == 2
    for generation in range(2, 100):
        await checkpointing.save(state_at(world, generation))
    assert len(world.events("checkpoint.failed")) == 2
    await asyncio.sleep(10)
    await checkpointing.save(state_at(world, 100))
    assert world.events("checkpoint.failed")[2]["suppressed"] == 98
    world.store.error = None
    await checkpointing.save(state_at(world, 1))
    assert "disk" not in world.health.reasons
    assert list(world.store.saved) == [1]


async def test_a_saved_state_is_not_written_again(world):
    checkpointing = world.checkpointing()
    await checkpointing.save(state_at(world, 1))
    await checkpointing.save(state_at(world, 1))
    assert len(world.events("checkpoint.saved")) == 1


async def test_a_model_is_deployed_once_for_each_generation(world):
    checkpointing = world.checkpointing()
    for step in (1, 1, 2):
        await checkpointing.deploy(state_at(world, step))
    assert [line["generation"] for line in world.events("checkpoint.deployed")] == [1, 2]
    model = world.store.newest_model()
    assert model is not None
    assert (model.generation, model.labels, model.sample_shape) == (2, ("a", "b", "c"), (2, 2, 1))
