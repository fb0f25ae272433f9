"""Computes a member's contribution to a step: a gradient, or with local SGD the weight delta of `sync_every` steps.

Covers the arithmetic and the error feedback, all synchronous: run it in a worker thread. See also:
`services.group.steps` for what is sent and when.
"""

import secrets
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edged.domain.group import compression
from edged.domain.group.gradient_log import MAX_NORM
from edged.domain.group.records import MAX_LOSS, Part
from edged.domain.nn import param_vector
from edged.domain.nn.model import Map
from edged.domain.topology import Training
from edged.domain.training.learner import OUTER, DivergedError, Learner, counted
from edged.domain.training.state import Params, Tally, TrainState
from edged.services.batches.batcher import MiniBatch


@dataclass(frozen=True, slots=True)
class PendingGradient:
    """A contribution to `step`: `blob`, compressed, the mean over `count` samples; `loss`: the sum over them.

    `slots`: the optimizer's state after a round of several local steps; None for a single one. `is_diverged`: it is
    empty because what was computed is not finite.
    """

    step: int
    blob: bytes
    count: int
    loss: float
    num_correct: int
    slots: dict[str, Params] | None = None
    is_diverged: bool = False

    def parts(self, edge: str, samples_per_s: float) -> list[Part]:
        """The records that carry it; without samples, one that is empty. Each call is an attempt of its own."""
        attempt = secrets.token_hex(4)
        chunks = compression.split(self.blob) if self.count else [b""]
        return [
            Part(
                edge,
                self.step,
                attempt,
                i,
                len(chunks),
                self.count,
                self.loss,
                self.num_correct,
                samples_per_s,
                chunk,
                self.is_diverged,
            )
            for i, chunk in enumerate(chunks)
        ]


class ContributionMaker:
    """Computes contributions, and keeps what they leave out because of compression or because they came late.

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
        self._left_out: list[int] = []

    def begin(self, state: TrainState) -> None:
        """Start a round at `state`, which the round leaves unchanged."""
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
        """Make one local step of a round of several. Raises DivergedError when the loss is not finite."""
        assert self._local is not None, "only a round of several steps has weights of its own"
        if len(batch):
            x = self._learner.views(batch.x, batch.ids, self._local.position.epoch)
            result = self._learner.step(self._local, x, batch.y, batch.weights, progress=progress, map=self._map)
            self._note_left_out(batch, result.losses)
        else:
            self._local.position = replace(self._local.position, step=self._local.position.step + 1)

    def gradient(self, state: TrainState, batch: MiniBatch) -> PendingGradient:
        """A step's gradient; of no samples, one whose `count` is 0. Raises DivergedError."""
        step = state.position.step
        if not len(batch):
            return PendingGradient(step, b"", 0, 0.0, 0)
        x = self._learner.views(batch.x, batch.ids, state.position.epoch)
        gradient = self._learner.gradient(state, x, batch.y, batch.weights, map=self._map)
        self._note_left_out(batch, gradient.losses)
        count, loss = counted(gradient.losses)
        return self._compressed(step, param_vector.flatten(gradient.grads), count, loss, gradient.num_correct)

    def delta(self, state: TrainState) -> PendingGradient:
        """The weights at the round's start, `state`, minus those after its local steps. Raises DivergedError."""
        assert self._local is not None, "begin() first"
        tally, step = self._local.tally, state.position.step
        if not tally.num_samples:
            return PendingGradient(step, b"", 0, 0.0, 0)
        vector = param_vector.flatten(state.params) - param_vector.flatten(self._local.params)
        pending = self._compressed(step, vector, tally.num_samples, tally.loss, tally.num_correct)
        return replace(pending, slots=self._local.slots)

    def take_left_out(self) -> list[int]:
        """Ids of the samples whose losses were not finite, while those of others were, since the last call."""
        left_out, self._left_out = self._left_out, []
        return left_out

    def _note_left_out(self, batch: MiniBatch, losses: npt.NDArray[np.float32]) -> None:
        self._left_out += batch.ids[~np.isfinite(losses)].tolist()

    def acknowledge(self, pending: PendingGradient, *, is_counted: bool) -> None:
        """Take note that the step is closed, with the contribution or without it.

        A late contribution is added to the next one, once: if that is late as well, both are dropped, for they were
        computed at weights long gone, and many at once would be too large a step.
        """
        if is_counted:
            self._is_late = False
        elif pending.count and not self._is_late:
            self._is_late = True
            self._residual.put_back(pending.blob, pending.count)

    def reset(self) -> None:
        """Drop what was left out: it belongs to other weights, or was refused."""
        self._residual.clear()
        self._is_late = False

    def _compressed(
        self, step: int, vector: param_vector.Vector, count: int, loss: float, num_correct: int
    ) -> PendingGradient:
        if not (_is_usable(vector) and abs(loss) <= MAX_LOSS):
            raise DivergedError
        exchange = self._training.exchange
        blob = self._residual.compress(vector, count, exchange.compression, top_k=exchange.top_k)
        if not _is_usable(compression.decompress(blob, len(vector))):  # together with what was left out before
            self.reset()
            blob = self._residual.compress(vector, count, exchange.compression, top_k=exchange.top_k)
        return PendingGradient(step, blob, count, loss, num_correct)


def _is_usable(vector: param_vector.Vector) -> bool:
    return bool(vector.min() >= -MAX_NORM and vector.max() <= MAX_NORM)  # both are false with a NaN
