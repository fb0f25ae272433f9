"""Evaluation on held-out samples, and the end of an epoch: its log line, and the metrics kept.

The same for a job of one edge and for a member of a group. See also: `services.epochs.loader` and
`services.batches.live` for which samples are held out.
"""

from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from edged.aio import in_worker
from edged.domain.topology import Training
from edged.domain.training import anomaly
from edged.domain.training.learner import Learner
from edged.domain.training.state import MAX_HISTORY, EpochMetrics, LaneTime, Tally, TrainState
from edged.log import logger
from edged.services.batches.batcher import MiniBatch
from edged.services.batches.left_out import LOSS_NOT_FINITE
from edged.services.training.checkpointing import Samples
from edged.services.training.worker_map import worker_map

_CALIBRATION_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The losses of the held-out samples, float32 [n], and how many were classified correctly.

    `calibration`: the first of them, float32 [n, *sample shape], where an int8 model is wanted.
    """

    losses: npt.NDArray[np.float32]
    num_correct: int = 0
    calibration: Samples | None = None

    @property
    def num_samples(self) -> int:
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The sum of the losses."""
        return float(self.losses.sum(dtype=np.float64))


NOTHING = Evaluation(np.zeros(0, np.float32))


async def evaluate(
    learner: Learner,
    state: TrainState,
    training: Training,
    held_out: AsyncGenerator[MiniBatch, None],
    count: Callable[[], None],
    leave_out: Callable[[int, str], None],
    executor: Executor | None = None,
) -> Evaluation:
    """Test the weights in `state`, on the threads of `executor`; calls `count` after each mini-batch.

    While one is tested the next is assembled.

    Samples whose losses are not finite are left out, `leave_out` gets the id of each and why; raises DivergedError when
    none of a mini-batch is finite.
    """
    losses: list[Samples] = [NOTHING.losses]
    calibration: list[Samples] = []
    num_correct = num_samples = 0
    test = partial(learner.test, map=worker_map(executor))
    async with aclosing(held_out) as batches:
        batch = await anext(batches, None)
        while batch is not None:
            if training.deploy.format == "int8" and num_samples < _CALIBRATION_SAMPLES:
                calibration.append(batch.x[: _CALIBRATION_SAMPLES - num_samples].copy())
            async with in_worker(test, state, batch.x, batch.y, executor=executor) as tested:
                following = await anext(batches, None)
                batch_losses, batch_correct = await tested
            is_finite = np.isfinite(batch_losses)
            for sample in batch.ids[~is_finite].tolist():
                leave_out(sample, LOSS_NOT_FINITE)
            losses.append(batch_losses[is_finite])
            num_correct, num_samples = num_correct + batch_correct, num_samples + len(batch)
            count()
            batch = following
    return Evaluation(np.concatenate(losses), num_correct, np.concatenate(calibration) if calibration else None)


@dataclass(frozen=True, slots=True)
class EndedEpoch:
    """An epoch as it ended."""

    metrics: EpochMetrics
    tally: Tally
    lane_time: LaneTime
    test_samples: int

    def log(self) -> None:
        """Log the epoch's metrics."""
        metrics, tally, blocked = self.metrics, self.tally, self.lane_time.blocked_fraction
        logger().info(
            "train.epoch",
            epoch=metrics.epoch,
            step=metrics.step,
            loss=round(metrics.loss, 6),
            **{
                name: round(value, 6)
                for name in ("train_accuracy", "test_loss", "test_accuracy", "anomaly_threshold")
                if (value := getattr(metrics, name)) is not None
            },
            test_samples=self.test_samples,
            samples=tally.num_samples,
            samples_per_s=round(tally.num_samples / tally.seconds, 1) if tally.seconds else 0.0,
            seconds=round(tally.seconds, 3),
            wait_s=round(tally.wait_s, 3),
            wait_fraction=round(tally.wait_s / max(tally.seconds, 1e-9), 4),
            blocked_fraction=None if blocked is None else round(blocked, 4),
            decode_s=round(tally.decode_s, 3),
            decode_fraction=round(tally.decode_s / max(tally.seconds, 1e-9), 4),
        )


def end_epoch(
    training: Training,
    state: TrainState,
    own: Evaluation,
    *,
    num_samples: int | None = None,
    num_correct: int = 0,
    loss: float = 0.0,
    counts: bool = True,
) -> EndedEpoch:
    """Close the present epoch of `state` and start the next: its metrics go into the history. Does not wait.

    `own`: what was tested here; the sums, where given, are over all members of a group. An epoch that does not count
    leaves no metrics.
    """
    if num_samples is None:
        num_samples, num_correct = own.num_samples, own.num_correct
        loss = float(own.losses.mean(dtype=np.float64)) * num_samples if num_samples else 0.0
    position, tally = state.position, state.tally
    is_classifier = training.loss == "cross_entropy"
    metrics = EpochMetrics(
        position.epoch,
        position.step,
        tally.loss / max(tally.num_samples, 1),
        tally.num_correct / max(tally.num_samples, 1) if is_classifier else None,
        loss / num_samples if num_samples else None,
        num_correct / num_samples if num_samples and is_classifier else None,
        None if is_classifier else anomaly.threshold(own.losses),
    )
    if counts:
        state.history = (*state.history, metrics)[-MAX_HISTORY:]
    state.position = replace(position, epoch=position.epoch + 1, sample=0)
    lane_time = state.lane_time
    state.tally, state.lane_time, state.ends, state.plan = Tally(), LaneTime(), None, ""
    return EndedEpoch(metrics, tally, lane_time, num_samples)
