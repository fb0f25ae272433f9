"""Saving, restoring, deploying."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from edged.domain.nn.model import Division
from edged.domain.training.state import Position, TrainState
from edged.errors import DiskFull
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
    assert [line["generation"] for line in world.events("checkpoint.skipped")] == [3, 2]
    (line,) = world.events("checkpoint.restored")
    assert line["generation"] == 1


async def test_a_checkpoint_is_due_again_after_the_interval(world):
    world.training = replace(TRAINING, checkpoint_s=300.0)
    checkpointing = world.checkpointing()
    await checkpointing.restore()
    await asyncio.sleep(299)
    assert not checkpointing.is_due()
    await asyncio.sleep(1)
    assert checkpointing.is_due()
    await checkpointing.save(state_at(world, 1))
    assert not checkpointing.is_due()


async def test_a_failed_write_is_reported_and_retried(world):
    checkpointing = world.checkpointing()
    world.store.error = DiskFull("No space left on device")
    await checkpointing.save(state_at(world, 1))
    await checkpointing.deploy(state_at(world, 1))
    assert "disk" in world.health.reasons
    assert len(world.events("checkpoint.failed")) == 2
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
