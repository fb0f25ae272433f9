"""The state that a training process begins with: the newest checkpoint's, or the first one's."""

from edged.aio import run_in_worker
from edged.domain.topology import Source
from edged.domain.training.learner import Learner
from edged.domain.training.state import TrainState
from edged.log import logger
from edged.services.training.checkpointing import Checkpointing


async def begin_state(
    checkpointing: Checkpointing, learner: Learner, *, job: str, source: Source
) -> tuple[TrainState, bool]:
    """The state, for which `learner` is prepared, and whether it is from a checkpoint; says so in the log.

    Raises TopologyMismatch when the newest checkpoint is another job's.
    """
    restored = await checkpointing.restore()
    if restored is not None:
        learner.adopt_division(restored)
    state = await run_in_worker(learner.initial, job) if restored is None else restored
    logger().info(
        "train.started",
        lanes=state.division.lanes,
        micro_batch=state.division.micro_batch,
        source=source,
        epoch=state.position.epoch,
        step=state.position.step,
        resumed=restored is not None,
    )
    return state, restored is not None
