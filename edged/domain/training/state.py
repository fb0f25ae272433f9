"""The state of a training job: weights, optimizer state and how far it has come."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edged.domain.nn.model import Division

Params = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Position:
    """What has been trained, and so where to go on.

    `epoch`: epochs finished. `sample`: index in the present epoch of the next sample (of the archive's plan; with
    live training the number of samples since the last epoch). `step`: updates of the weights so far.
    `live_offset`, `live_row`: next fresh sample, in the edge's archive topic; -1 before the first start.
    """

    epoch: int = 0
    sample: int = 0
    step: int = 0
    live_offset: int = -1
    live_row: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over the samples trained in the present epoch. The times leave out what lies between two runs."""

    num_samples: int = 0
    num_correct: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    wait_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """How an epoch ended. `loss` and `test_loss` are means by sample.

    Without held-out samples there is nothing of test; without classes no accuracy. `anomaly_threshold`: see
    `domain.anomaly`, of an autoencoder alone.
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
    """Weights and optimizer state as they were after `step` updates, to go back to. Its arrays are never changed."""

    step: int
    params: Params
    slots: Mapping[str, Params]


@dataclass(slots=True)
class TrainState:
    """The training job at a moment. `params` and each of the optimizer's `slots`: float32, the same names and shapes.

    `job`: see `job_digest`. `ends`: of the running epoch's snapshot, None between epochs; `plan`: its order's digest.
    `slowdowns`: how often the learning rate was halved because training diverged. `division`: how mini-batches are cut,
    here because going on with another would end with other bits. `learnt`: of the running epoch's samples so far, as
    `services.epoch_choice` has it; empty between epochs and where plans do not follow from it. `exchange`: where in the
    group's log these weights stand, as gradient_log or update_log writes it; "" for a job of one edge alone, and before
    the first start. `fallback`: what a group goes back to when its training diverges; None before its first step.
    """

    params: Params
    slots: dict[str, Params]
    job: str
    division: Division
    position: Position = Position()
    tally: Tally = Tally()
    ends: Mapping[str, int] | None = None
    plan: str = ""
    history: tuple[EpochMetrics, ...] = field(default=())
    slowdowns: int = 0
    learnt: bytes = b""
    exchange: str = ""
    fallback: Fallback | None = None

    @property
    def generation(self) -> int:
        """The number of its checkpoint: steps so far."""
        return self.position.step

    def is_finite(self) -> bool:
        """Whether no weight has overflowed."""
        return all(bool(np.isfinite(param).all()) for param in self.params.values())
