"""The state of a training job: weights, optimizer state and progress.

See also: `checkpoint` for its encoding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edged.domain.nn.model import Division

Params = dict[str, npt.NDArray[np.float32]]

MAX_HISTORY = 100
"""Epochs whose metrics are kept."""


@dataclass(frozen=True, slots=True)
class Position:
    """How much has been trained, and where to resume.

    `epoch`: epochs finished. `sample`: index of the next sample in the current epoch's plan (with live training: the
    number of samples since the last epoch). `step`: updates of the weights so far. `live_offset`, `live_row`: the next
    live sample, in the edge's archive topic; -1 before the first start. `live_log`: the edge's name of that log.
    """

    epoch: int = 0
    sample: int = 0
    step: int = 0
    live_offset: int = -1
    live_row: int = 0
    live_log: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over the samples trained in the current epoch. Times exclude those between two runs of the process."""

    num_samples: int = 0
    num_correct: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    wait_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LaneTime:
    """How long this process has trained in the current epoch, and its lanes were blocked meanwhile, whatever for.

    `blocked_s` is the mean of the lanes; None: not readable on this host. Not kept in a checkpoint: a time of threads.
    """

    seconds: float = 0.0
    blocked_s: float | None = None

    @property
    def blocked_fraction(self) -> float | None:
        """The share of the time in which the lanes were blocked."""
        if self.blocked_s is None or not self.seconds:
            return None
        return min(max(self.blocked_s / self.seconds, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """An epoch's results. `loss` and `test_loss` are means over samples.

    Without held-out samples the test values are None, without classes the accuracies. `anomaly_threshold`: see
    `anomaly`, for an autoencoder only.
    """

    epoch: int
    step: int
    loss: float
    train_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    anomaly_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Fallback:
    """Weights and optimizer state after `step` updates, to roll back to. Its arrays are never changed."""

    step: int
    params: Params
    slots: Mapping[str, Params]


@dataclass(slots=True)
class TrainState:
    """A training job at one moment. `params` and each of the optimizer's `slots`: float32, the same names and shapes.

    `job`: see `topology.job.job_digest`. `ends`: of the running epoch's snapshot, None between epochs; `plan`: its
    plan's digest. `slowdowns`: how often the learning rate was halved because training diverged. `division`: of
    mini-batches; part of the state because another division gives other bits. `learnt`: what the sampler has learnt of
    the running epoch's samples, see `services.epochs.planner`; empty between epochs and for modes whose plans do not
    depend on it. `exchange`: the group's state at these weights, and so their position in its log, see
    `group.state_json`; "" for a job without a group, and before the first start. `fallback`: what a group rolls back to
    when its training diverges; None before its first step.
    """

    params: Params
    slots: dict[str, Params]
    job: str
    division: Division
    position: Position = Position()
    tally: Tally = Tally()
    lane_time: LaneTime = LaneTime()
    ends: Mapping[str, int] | None = None
    plan: str = ""
    history: tuple[EpochMetrics, ...] = field(default=())
    slowdowns: int = 0
    learnt: bytes = b""
    exchange: str = ""
    fallback: Fallback | None = None

    @property
    def generation(self) -> int:
        """The number of its checkpoint: its step."""
        return self.position.step

    @property
    def num_useless(self) -> int:
        """Epochs so far that had nothing to train on: in a group they have a number, but no metrics, and do not count.

        Those before the oldest of MAX_HISTORY metrics are forgotten.
        """
        oldest = self.history[0].epoch if len(self.history) >= MAX_HISTORY else 0
        return self.position.epoch - oldest - len(self.history)

    def is_finite(self) -> bool:
        """Whether all weights are finite."""
        return all(bool(np.isfinite(param).all()) for param in self.params.values())
