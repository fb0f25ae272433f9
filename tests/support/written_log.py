"""A group's log, written record by record, and the weights that it gives, computed independently.

Gradients are random numbers: a log does not depend on where they come from. Supports SGD with momentum only.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edged.domain.group import compression, gradient_log, state_json
from edged.domain.group import records as exchange_records
from edged.domain.group import state as state_module
from edged.domain.group import step as group_step
from edged.domain.group.records import Begin, Close, Join, Part, Record, Tested
from edged.domain.nn import param_vector
from edged.domain.nn.model import Model
from edged.domain.topology import Sgd, Topology
from edged.domain.training import checkpoint
from edged.domain.training.learner import Learner
from edged.domain.training.state import TrainState

Vector = npt.NDArray[np.float32]


class WrittenLog:
    """`blobs`: the log so far. `weights`, `velocity`: of all members, as flat vectors."""

    def __init__(self, topology: Topology) -> None:
        [self._training] = topology.jobs
        job = topology.resolve(self._training)
        self.job = job.digest
        self._begun_with = Learner(self._training, Model(job.input_shape, self._training.model)).initial(self.job)
        self.weights = param_vector.flatten(self._begun_with.params)
        self.velocity = np.zeros_like(self.weights)
        self.rules = group_step.rules(job, len(self.weights))
        self.state = state_module.State()
        self.quarantine_end = 0
        self.blobs: list[bytes] = []
        self._random = np.random.default_rng(1)

    def add(self, *records: Record) -> tuple[state_module.Action, ...]:
        """Append the records; return the actions of the last one."""
        actions: tuple[state_module.Action, ...] = ()
        for record in records:
            actions = self.add_blob(exchange_records.encode(record))
        return actions

    def add_blob(self, blob: bytes) -> tuple[state_module.Action, ...]:
        """Append a blob that need not be a record; return its actions."""
        self.blobs.append(blob)
        fold = gradient_log.fold
        self.state, actions = gradient_log.fold_blob(fold, self.rules, self.state, blob, len(self.blobs) - 1)
        return actions

    def join(self, *edges: str) -> None:
        self.add(*(Join(edge, self.job, self.state.step, self.digest()) for edge in edges))

    def begin(self, *edges: str, num_steps: int, weights: str | None = None) -> None:
        """The next epoch, with equal shares; `weights`: as its proposer claims, the true ones by default."""
        epoch = self.state.begin.epoch + 1 if self.state.begin else 0
        members = dict.fromkeys(edges, 1 / len(edges))
        ends = {"pi-a": 80} | ({"_quarantine": self.quarantine_end} if self.quarantine_end else {})
        self.add(Begin(epoch, members, ends, num_steps, weights or self.digest(), edges[0]))

    def gradient(self, edge: str, count: int, *, step: int | None = None) -> tuple[list[Part], Vector]:
        """The records of a gradient, not yet in the log, and the vector that they decode to."""
        vector = self._random.standard_normal(len(self.weights), np.float32)
        exchange = self._training.exchange
        blob = compression.compress(vector, exchange.compression, top_k=exchange.top_k)
        chunks = compression.split(blob) if count else [b""]
        step = self.state.step if step is None else step
        parts = [
            Part(edge, step, "0" * 8, number, len(chunks), count, 0.5 * count, count // 2, 10.0, chunk)
            for number, chunk in enumerate(chunks)
        ]
        return parts, compression.decompress(blob, len(vector))

    def step(self, counts: dict[str, int], *, closed_by: str = "") -> None:
        """A step of these members, closed by the last one's gradient or by `closed_by`; updates the weights, too."""
        total, num_samples = np.zeros_like(self.weights), 0
        for edge in sorted(counts):
            parts, vector = self.gradient(edge, counts[edge])
            self.add(*parts)
            total += vector * np.float32(counts[edge])
            num_samples += counts[edge]
        if closed_by:
            self.add(Close(self.state.step, closed_by))
        optimizer = self._training.optimizer
        assert isinstance(optimizer, Sgd)
        self.velocity = self.velocity * np.float32(optimizer.momentum) + total / np.float32(num_samples)
        self.weights = self.weights - np.float32(optimizer.learning_rate) * self.velocity

    def test(self, *edges: str) -> None:
        assert self.state.begin is not None
        self.add(*(Tested(edge, self.state.begin.epoch, 10, 5, 7.5, self.digest()) for edge in edges))

    def digest(self) -> str:
        """The digest of the current weights."""
        return param_vector.digest({"all": self.weights})

    def train_state(self) -> TrainState:
        """A member's state at this position in the log."""
        state = self._begun_with
        return replace(
            state,
            params=param_vector.split(self.weights.copy(), state.params),
            slots={"velocity": param_vector.split(self.velocity.copy(), state.params)},
            position=replace(state.position, step=self.state.step),
            exchange=state_json.to_json(self.state),
        )

    def checkpoint(self) -> bytes:
        return checkpoint.encode(self.train_state())
