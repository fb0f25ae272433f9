"""Folds a group's log again: repeats every step as its members made it, and proves that their weights are the log's.

Pure: records in, events out. See also: `cli.replay`, which reads the log and prints the events.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from edged.domain.archive.snapshot import QUARANTINE_SOURCE
from edged.domain.group import step as group_step
from edged.domain.group.gradient_log import fold_blob
from edged.domain.group.records import Contribution
from edged.domain.group.state import Abandoned, Begun, Closed, Diverged, Fold, HeldOutSums, Late, Rejected, Rules, State
from edged.domain.nn import param_vector
from edged.domain.nn.backend import NUMPY
from edged.domain.topology import Training
from edged.domain.training.state import TrainState


class Claim(NamedTuple):
    """A claim, from the source `name`, about the weights after `step` updates: their `param_vector.digest`."""

    name: str
    step: int
    weights: str


class Proof(NamedTuple):
    """A claim, and the replay's own `weights` at its step; empty if the replay never got there."""

    claim: Claim
    weights: str

    @property
    def holds(self) -> bool:
        """Whether both are the same."""
        return self.weights == self.claim.weights


class EpochBegun(NamedTuple):
    """An epoch began. `tested`: the previous epoch's sums over the held-out samples.

    `quarantine_end`: the end of the quarantine's source; what is recorded below it was in effect. `backend`: what the
    members computed their gradients by; the replay takes them from the log, and needs it not.
    """

    epoch: int
    step: int
    num_steps: int
    edge: str
    shares: dict[str, float]
    tested: HeldOutSums
    quarantine_end: int = 0
    backend: str = NUMPY


class StepApplied(NamedTuple):
    """A step was applied. `offset`: of the record that closed it. `missing`: expected members without a gradient."""

    epoch: int
    step: int
    offset: int
    contributions: tuple[Contribution, ...]
    missing: tuple[str, ...]


class EpochAbandoned(NamedTuple):
    """None of the epoch's members sent anything any more; it ended with `steps_left`."""

    epoch: int
    steps_left: int


class RolledBack(NamedTuple):
    """Training had diverged by this step: back to the weights of `restored_step`. `continues`: or that was the end."""

    step: int
    restored_step: int
    continues: bool


class NotCounted(NamedTuple):
    """A gradient that was late, or a record that breaks a rule; `edge` is empty if it names none."""

    offset: int
    edge: str
    reason: str


ReplayEvent = Proof | EpochBegun | StepApplied | EpochAbandoned | RolledBack | NotCounted

LATE = "late"
"""The reason of a late gradient: its sender added it to its next one."""


class Replay:
    """Folds a log from the position of `state`, which it changes, and `group`: a checkpoint's, or the log's beginning.

    `claims` are checked when the replay reaches their steps, as is the claim in each epoch's Begin.
    """

    def __init__(
        self, training: Training, rules: Rules, state: TrainState, group: State, claims: Iterable[Claim] = ()
    ) -> None:
        self._training = training
        self._rules = rules
        self._fold: Fold = group_step.fold_of(training)
        self._state = state
        self._group = group
        self._claims = sorted(claims, key=lambda claim: claim.step)

    @property
    def next_offset(self) -> int:
        """The offset of the next record to take."""
        return self._group.next_offset

    @property
    def step(self) -> int:
        """Updates so far."""
        return self._group.step

    @property
    def tested(self) -> HeldOutSums:
        """The running epoch's sums over the held-out samples, of those who have tested so far."""
        return self._group.held_out_sums

    def weights(self) -> str:
        """The digest of the current weights."""
        return param_vector.digest(self._state.params)

    def begin(self) -> Iterator[ReplayEvent]:
        """Proofs of claims about the initial weights."""
        yield from self._prove()

    def take(self, blob: bytes, offset: int) -> Iterator[ReplayEvent]:
        """The events of the record at `offset`; those between it and the one before hold no record."""
        group = self._group.skip_to(offset)
        self._group, actions = fold_blob(self._fold, self._rules, group, blob, offset)
        for action in actions:
            match action:
                case Begun():
                    yield from self._begun(action)
                case Closed():
                    group_step.apply_step(self._training, self._state, self._group, action)
                    yield StepApplied(self._epoch, action.step, offset, action.contributions, action.missing)
                    yield from self._prove()
                case Abandoned():
                    yield EpochAbandoned(action.epoch, action.steps_left)
                case Diverged():
                    group_step.roll_back(self._state, action)
                    fallback = self._state.fallback
                    yield RolledBack(self.step, 0 if fallback is None else fallback.step, action.continues)
                case Late():
                    yield NotCounted(offset, action.edge, LATE)
                case Rejected():
                    yield NotCounted(offset, action.edge, action.reason)

    def end(self) -> Iterator[Proof]:
        """Failed proofs of the claims whose steps the log did not reach."""
        for claim in self._claims:
            yield Proof(claim, "")

    @property
    def _epoch(self) -> int:
        assert self._group.begin is not None, "a step is of an epoch"
        return self._group.begin.epoch

    def _begun(self, action: Begun) -> Iterator[ReplayEvent]:
        begin = action.begin
        group_step.apply_begin(self._state, begin)
        shares = {edge: begin.members[edge] for edge in sorted(begin.members)}
        quarantine_end = begin.ends.get(QUARANTINE_SOURCE, 0)
        yield EpochBegun(
            begin.epoch, self.step, begin.num_steps, begin.edge, shares, action.tested, quarantine_end, begin.backend
        )
        yield Proof(Claim(f"epoch {begin.epoch} as {begin.edge} began it", self.step, begin.weights), self.weights())

    def _prove(self) -> Iterator[Proof]:
        claims = [claim for claim in self._claims if claim.step == self.step]
        if claims:
            self._claims = [claim for claim in self._claims if claim.step != self.step]
            weights = self.weights()
            yield from (Proof(claim, weights) for claim in claims)
