"""One step of training: from a mini-batch to its gradient, from a gradient to changed weights; and testing.

See also: `services.training.trainer` for where mini-batches come from and when state is saved.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.domain.nn.loss import LOSSES
from edged.domain.nn.model import Division, Gradient, Map, Model, Noise
from edged.domain.nn.optimizer_steps import NUMPY_STEPS, OptimizerSteps
from edged.domain.topology import Training
from edged.domain.training import augment, optim, schedule
from edged.domain.training.state import Params, TrainState
from edged.errors import EdgedError

EXPLODED_LOSS_RATIO = 20.0
"""A mini-batch's loss has exploded if its mean is that many times the mean of the worst epoch so far, or of guessing.

The mean is over the three quarters of its samples with the smallest losses: exploding weights spoil nearly all of
them, while a few samples of large loss are only unusual, and no smaller step would ever change that.
"""

MAX_SLOWDOWNS = 3
"""Consecutive rollbacks, without a completed epoch between, after which training ends instead of slowing down again.

A rollback returns to the last good weights, and halves the learning rate."""

OUTER = "outer"
"""The optimizer slot of a group's outer step, with local SGD."""


class BatchResult(NamedTuple):
    """Per-sample results of a trained mini-batch: losses and `Gradient.scores`, float32 [n] each.

    Both are NaN for a sample that was left out: its loss was not finite, while those of others were.
    """

    losses: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


_Samples = npt.NDArray[np.float32]
_Integers = npt.NDArray[np.int64]


class DivergedError(EdgedError):
    """Loss or weights are no longer finite, or the loss has exploded. `losses`: of the mini-batch, where known."""

    def __init__(self, losses: _Samples | None = None) -> None:
        super().__init__()
        self.losses = losses


class Learner:
    """Trains `model` as `training` configures. All state is the caller's TrainState; the learner has none."""

    def __init__(self, training: Training, model: Model) -> None:
        self._training = training
        self._model = model
        self._class_weights = np.array(training.class_weights, np.float32)
        # Perfect epochs would make samples of another kind, which are to be learnt, look like divergence.
        self._loss_of_guessing = math.log(model.num_outputs) if training.loss == "cross_entropy" else 0.0

    def initial(self, job: str) -> TrainState:
        """The initial state, a pure function of the seed."""
        params = self._model.initial(self._training.seed)
        slots = optim.initial_slots(self._training.optimizer, params)
        if self._training.exchange.sync_every > 1:
            slots[OUTER] = {name: np.zeros_like(param) for name, param in params.items()}
        return TrainState(params, slots, job, self._model.division)

    @property
    def backend(self) -> str:
        """The name of the backend that the model was made with."""
        return self._model.own.backend

    @property
    def num_computed(self) -> int:
        """Samples trained or tested so far, within a mini-batch too; for any thread. Another division begins again."""
        return self._model.num_computed

    def division(self, state: TrainState) -> Division:
        """How the next mini-batch of `state` is divided: as it says, or, its backend gone, as the model was made."""
        return state.division if self._model.has(state.division.backend) else self._model.own

    def use(self, state: TrainState, backend: str) -> bool:
        """Compute by `backend` from here on, and say so in `state`; False, and nothing changes, if it is not here.

        Mini-batches are divided as `state` says, for with another division the bits would differ; where the model was
        made with `backend` and the state has another, as the model was then.
        """
        if not self._model.has(backend):
            return False
        if backend != state.division.backend:
            own = self._model.own
            state.division = own if backend == own.backend else replace(state.division, backend=backend)
        self._model.divide(state.division)
        return True

    def views(self, x: _Samples, ids: _Integers, epoch: int) -> _Samples:
        """What `step` and `gradient` get of the samples `x` in `epoch`: augmented; `x` itself without augmentation."""
        return augment.augmented(x, ids, self._training.augment, seed=self._training.seed, epoch=epoch)

    def step(
        self,
        state: TrainState,
        x: _Samples,
        y: _Integers,
        weights: npt.NDArray[np.float32],
        *,
        progress: float,
        map: Map = map,  # noqa: A002
    ) -> BatchResult:
        """Change weights, optimizer state, tally and step count by one mini-batch; a pure function of its arguments.

        Arguments and errors: those of `gradient`; `progress`: epochs trained, with their fraction.
        """
        gradient = self.gradient(state, x, y, weights, map=map)
        count, loss = counted(gradient.losses)
        apply(self._training, state, gradient.grads, progress, self._model.optimizer_steps)
        state.tally = replace(
            state.tally,
            num_samples=state.tally.num_samples + count,
            num_correct=state.tally.num_correct + gradient.num_correct,
            loss=state.tally.loss + loss,
        )
        state.position = replace(state.position, step=state.position.step + 1)
        return BatchResult(gradient.losses, gradient.scores)

    def gradient(
        self,
        state: TrainState,
        x: _Samples,
        y: _Integers,
        weights: npt.NDArray[np.float32],
        *,
        map: Map = map,  # noqa: A002
    ) -> Gradient:
        """The gradient of one mini-batch at `state`, which is not changed; valid until the next call.

        `x`: the samples' views, [n, *sample shape]; `y`: classes [n]; `weights` [n]: of their losses.
        A sample whose loss is not finite, while those of others are, is left out: the gradient is that of the others,
        and its loss and score are NaN. Raises DivergedError if no loss is finite, or the loss has exploded.
        """
        noise = Noise(self._training.seed, state.position.step)
        counts = weights * self._class_weights[y] if len(self._class_weights) else weights
        targets = self._targets(x, y)
        kept = np.arange(len(x))
        with np.errstate(all="ignore"):  # what overflows shows in the losses
            gradient = self._model.gradient(state.params, x, targets, counts, noise=noise, map=map)
            while not are_finite(gradient.losses) and (good := np.isfinite(gradient.losses)).any():
                kept = kept[good]
                gradient = self._model.gradient(
                    state.params, x[kept], targets[kept], counts[kept], noise=noise, map=map
                )
        self._check(state, gradient.losses)
        if len(kept) == len(x):
            return gradient
        losses, scores = (np.full(len(x), np.nan, np.float32) for _ in range(2))
        losses[kept], scores[kept] = gradient.losses, gradient.scores
        return replace(gradient, losses=losses, scores=scores)

    def test(
        self,
        state: TrainState,
        x: _Samples,
        y: _Integers,
        *,
        map: Map = map,  # noqa: A002
    ) -> tuple[_Samples, int]:
        """The samples' losses [n] and the number classified correctly. Changes nothing.

        As in training, a loss that is not finite does not count; it is NaN. Raises DivergedError if none is finite.
        """
        with np.errstate(all="ignore"):
            outputs = self._model.logits(state.params, x, map=map)
            losses, _ = LOSSES[self._training.loss](outputs, self._targets(x, y))
        good = np.isfinite(losses)
        if len(losses) and not good.any():
            raise DivergedError
        losses[~good] = np.nan
        return losses, int((outputs.argmax(axis=1) == y)[good].sum())

    def _targets(self, x: _Samples, y: _Integers) -> npt.NDArray[np.float32] | _Integers:
        return y if self._training.loss == "cross_entropy" else x.reshape(len(x), -1)

    def _check(self, state: TrainState, losses: _Samples) -> None:
        worst = max((metrics.loss for metrics in state.history if metrics.loss), default=np.inf)
        most = EXPLODED_LOSS_RATIO * max(worst, self._loss_of_guessing)
        if not are_finite(losses):
            raise DivergedError(losses)
        if losses.mean(dtype=np.float64) > most:  # that of the smallest is no larger: sorting takes long
            smallest = np.sort(losses)[: -(-3 * len(losses) // 4)]
            if smallest.mean(dtype=np.float64) > most:
                raise DivergedError(losses)


def are_finite(losses: _Samples) -> bool:
    """Whether all losses of a mini-batch are: their sum is, which cannot overflow in float64."""
    return math.isfinite(losses.sum(dtype=np.float64))


def counted(losses: _Samples) -> tuple[int, float]:
    """How many samples of a mini-batch were not left out, and the sum of their losses."""
    total = float(losses.sum(dtype=np.float64))
    if math.isfinite(total):
        return len(losses), total
    good = np.isfinite(losses)
    return int(good.sum()), float(losses[good].sum(dtype=np.float64))


def apply(
    training: Training, state: TrainState, grads: Params, progress: float, steps: OptimizerSteps = NUMPY_STEPS
) -> None:
    """Change weights and optimizer state, and nothing else in `state`, by the gradient of a mean loss.

    `grads` may be clipped in place. `progress`: epochs trained, with their fraction. `steps`: who computes.
    """
    with np.errstate(all="ignore"):  # an overflow shows in the results
        if training.clip_norm is not None:
            optim.clip(grads, training.clip_norm)
        factor = schedule.factor(training.schedule, progress, training.epochs) / 2**state.slowdowns
        factor *= schedule.batch_factor(training.optimizer, training.global_batch, training.reference_batch)
        optim.update(
            training.optimizer,
            state.params,
            state.slots,
            grads,
            learning_rate=training.optimizer.learning_rate * factor,
            step=state.position.step,
            weight_decay=training.weight_decay,
            steps=steps,
        )
