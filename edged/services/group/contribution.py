"""What one member contributes to one step of its group: a gradient, or how far a round of its own steps came.

Covers the arithmetic and the error feedback, all synchronous: run it in a worker thread. What is sent and when is
`member_steps`' subject.
"""

from dataclasses import dataclass, replace

import numpy as np

from edged.domain.group import compression
from edged.domain.group.gradient_log import MAX_NORM
from edged.domain.group.records import MAX_LOSS
from edged.domain.nn import param_vector
from edged.domain.nn.model import Map
from edged.domain.topology import Training
from edged.domain.training.learner import OUTER, DivergedError, Learner
from edged.domain.training.state import Params, Tally, TrainState
from edged.services.batches.batcher import MiniBatch


@dataclass(frozen=True, slots=True)
class PendingGradient:
    """What was made for `step`: `blob`, compressed, over `count` samples; `loss`: the sum over them.

    `slots`: the optimizer's state behind a round of several steps; None for a single one. `is_diverged`: it is empty,
    for what was computed is of no use.
    """

    step: int
    blob: bytes
    count: int
    loss: float
    num_correct: int
    slots: dict[str, Params] | None = None
    is_diverged: bool = False


class ContributionMaker:
    """Makes a member's contributions and keeps what they leave out, by compression or because they came too late.

    Memory: two vectors; with `sync_every` above 1 also a copy of weights and optimizer state. What it keeps is lost in
    a restart: it only ever makes the group learn a little more from this member's samples.
    """

    def __init__(self, training: Training, learner: Learner, num_parameters: int, map: Map) -> None:  # noqa: A002
        self._training = training
        self._learner = learner
        self._map = map
        self._residual = compression.Residual(num_parameters)
        self._is_late = False
        self._local: TrainState | None = None

    def begin(self, state: TrainState) -> None:
        """A round begins at `state`, which is left as it is until it is settled."""
        self._local = None
        if self._training.exchange.sync_every > 1:
            own = {slot: values for slot, values in state.slots.items() if slot != OUTER}
            self._local = replace(
                state,
                params={name: param.copy() for name, param in state.params.items()},
                slots={slot: {name: array.copy() for name, array in values.items()} for slot, values in own.items()},
                tally=Tally(),
                position=replace(state.position, step=state.position.step * self._training.exchange.sync_every),
            )

    def local_step(self, batch: MiniBatch, progress: float) -> None:
        """One step of a round of several. Raises DivergedError when the loss says so."""
        assert self._local is not None, "a round of one step has no way of its own"
        if len(batch):
            self._learner.step(
                self._local, batch.x, batch.y, batch.ids, batch.weights, progress=progress, map=self._map
            )
        else:
            self._local.position = replace(self._local.position, step=self._local.position.step + 1)

    def gradient(self, state: TrainState, batch: MiniBatch) -> PendingGradient:
        """A step's gradient. Of no samples, or one that is not of use, `count` is 0. Raises DivergedError."""
        step = state.position.step
        if not len(batch):
            return PendingGradient(step, b"", 0, 0.0, 0)
        found = self._learner.gradient(state, batch.x, batch.y, batch.ids, batch.weights, map=self._map)
        loss = float(found.losses.sum(dtype=np.float64))
        return self._compressed(step, param_vector.flatten(found.grads), len(batch), loss, found.num_correct)

    def delta(self, state: TrainState) -> PendingGradient:
        """How far the round came, seen from where it began, `state`. Raises DivergedError."""
        assert self._local is not None, "begin() first"
        tally, step = self._local.tally, state.position.step
        if not tally.num_samples:
            return PendingGradient(step, b"", 0, 0.0, 0)
        vector = param_vector.flatten(state.params) - param_vector.flatten(self._local.params)
        made = self._compressed(step, vector, tally.num_samples, tally.loss, tally.num_correct)
        return replace(made, slots=self._local.slots)

    def acknowledge(self, made: PendingGradient, *, is_counted: bool) -> None:
        """The step is closed, with the contribution or without it.

        What came too late goes into the next one, once: if that is too late as well, both are given up, for they were
        found at weights that are long gone, and many at once would be a leap.
        """
        if is_counted:
            self._is_late = False
        elif made.count and not self._is_late:
            self._is_late = True
            self._residual.put_back(made.blob, made.count)

    def reset(self) -> None:
        """What was left out is of no use: it belongs to other weights, or was refused."""
        self._residual.clear()
        self._is_late = False

    def _compressed(
        self, step: int, vector: param_vector.Vector, count: int, loss: float, num_correct: int
    ) -> PendingGradient:
        if not (_is_usable(vector) and abs(loss) <= MAX_LOSS):
            raise DivergedError
        exchange = self._training.exchange
        blob = self._residual.compress(vector, count, exchange.compression, top_k=exchange.top_k)
        if not _is_usable(compression.decompress(blob, len(vector))):  # with what was left out before
            self.reset()
            blob = self._residual.compress(vector, count, exchange.compression, top_k=exchange.top_k)
        return PendingGradient(step, blob, count, loss, num_correct)


def _is_usable(vector: param_vector.Vector) -> bool:
    return bool(vector.min() >= -MAX_NORM and vector.max() <= MAX_NORM)  # neither is so with a NaN
