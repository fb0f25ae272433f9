"""The state that a training process starts from: the newest checkpoint's, or an initial one."""

from edged.aio import run_in_worker
from edged.domain.topology import Source
from edged.domain.training.learner import Learner
from edged.domain.training.state import TrainState
from edged.log import logger
from edged.services.training.checkpointing import Checkpointing


async def begin_state(
    checkpointing: Checkpointing, learner: Learner, *, job: str, source: Source
) -> tuple[TrainState, bool]:
    """The state, and whether it is from a checkpoint; logs both.

    Raises TopologyMismatch when the newest checkpoint is another job's, AnotherVersion when it is of another format.
    """
    restored = await checkpointing.restore()
    state = await run_in_worker(learner.initial, job) if restored is None else restored
    division = learner.division(state)
    logger().info(
        "train.started",
        lanes=division.lanes,
        micro_batch=division.micro_batch,
        backend=division.backend,
        source=source,
        epoch=state.position.epoch,
        step=state.position.step,
        resumed=restored is not None,
    )
    return state, restored is not None
