"""Checkpoints of a group with one small layer, and how a member reads them."""

from contextlib import AbstractAsyncContextManager

import numpy as np

from edged.adapters.memory.log import MemoryLog
from edged.domain.group import state_json
from edged.domain.group.state import State
from edged.domain.nn import param_vector
from edged.domain.nn.model import Division
from edged.domain.training.state import Position, TrainState
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.checkpoints.reader import CheckpointReader, GroupTopics, read_checkpoints

CHECKPOINTS, TRAIN, JOB = "site.checkpoints.toy", "site.train.toy", "ab" * 32
TOPICS = GroupTopics(CHECKPOINTS, TRAIN, JOB, ("pi-a", "pi-b"))


def state(epoch: int, *, size: int = 5, offset: int = 3, fill: float | None = None) -> TrainState:
    params = {"dense.kernel": np.full((size, 2), epoch if fill is None else fill, np.float32)}
    slots = {"velocity": {"dense.kernel": np.zeros((size, 2), np.float32)}}
    group = state_json.to_json(State(next_offset=offset))
    return TrainState(params, slots, JOB, Division(1, 4), Position(epoch, step=10 * epoch), exchange=group)


def publisher(log: MemoryLog) -> CheckpointPublisher:
    return CheckpointPublisher(log, CHECKPOINTS)


def reading(log: MemoryLog, like: TrainState | None) -> AbstractAsyncContextManager[CheckpointReader]:
    """With the shapes of `like`; without it, as a parameter server."""
    return read_checkpoints(log, TOPICS, 10 if like is None else param_vector.size(like.params), like=like)


async def best(log: MemoryLog, like: TrainState | None = None, min_step: int = 0) -> TrainState | None:
    async with reading(log, like or state(0)) as checkpoints:
        return await checkpoints.best(min_step)
