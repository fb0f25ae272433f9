"""A group's log folded again: every step made as its members made it, and the proof that they came to the same weights.

Pure: records in, what they meant out. Reading the log and showing what it meant is the command's (`cli.replay`).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from edged.domain.group import step as group_step
from edged.domain.group.gradient_log import fold_blob
from edged.domain.group.records import Contribution
from edged.domain.group.state import Abandoned, Begun, Closed, Diverged, Fold, HeldOutSums, Late, Rejected, Rules, State
from edged.domain.nn import param_vector
from edged.domain.topology import Training
from edged.domain.training.state import TrainState


class Claim(NamedTuple):
    """What somebody says of the weights behind `step` updates: `weights`, their `flat.digest`."""

    name: str
    step: int
    weights: str


class Proof(NamedTuple):
    """A claim beside what the replay came to; `weights` is empty where the log does not lead there."""

    claim: Claim
    weights: str

    @property
    def holds(self) -> bool:
        return self.weights == self.claim.weights


class EpochBegun(NamedTuple):
    """`tested`: over the samples held out, after the epoch before."""

    epoch: int
    step: int
    num_steps: int
    edge: str
    shares: dict[str, float]
    tested: HeldOutSums


class StepApplied(NamedTuple):
    """A step with the offset of the record that closed it. `missing`: who was awaited in vain."""

    epoch: int
    step: int
    offset: int
    contributions: tuple[Contribution, ...]
    missing: tuple[str, ...]


class EpochAbandoned(NamedTuple):
    """None of its members was heard any more, with so many steps left."""

    epoch: int
    steps_left: int


class RolledBack(NamedTuple):
    """Training had diverged by this step: on from the weights of `restored_step`, or not at all."""

    step: int
    restored_step: int
    continues: bool


class NotCounted(NamedTuple):
    """A gradient that came too late, or a record that breaks a rule; `edge` is empty where nobody is named."""

    offset: int
    edge: str
    reason: str


ReplayEvent = Proof | EpochBegun | StepApplied | EpochAbandoned | RolledBack | NotCounted

LATE = "late"
"""The reason of a gradient that came too late: its sender added it to its next one."""


class Replay:
    """Folds a log from where `state`, which it changes, and `group` stand: a checkpoint, or the very beginning.

    `claims` are proven as their steps come by, beside those of each epoch's Begin.
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
        """Of the record to take next."""
        return self._group.next_offset

    @property
    def step(self) -> int:
        """Updates so far."""
        return self._group.step

    @property
    def tested(self) -> HeldOutSums:
        """Over the samples held out, after the running epoch, by those who have tested so far."""
        return self._group.held_out_sums

    def weights(self) -> str:
        """The digest of the weights as they are."""
        return param_vector.digest(self._state.params)

    def begin(self) -> Iterator[ReplayEvent]:
        """What is claimed of the weights to begin with."""
        yield from self._prove()

    def take(self, blob: bytes, offset: int) -> Iterator[ReplayEvent]:
        """What the record at `offset` means. Raises LogGap if it is not the next one."""
        self._group, actions = fold_blob(self._fold, self._rules, self._group, blob, offset)
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
        """The claims that the log did not lead to."""
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
        yield EpochBegun(begin.epoch, self.step, begin.num_steps, begin.edge, shares, action.tested)
        yield Proof(Claim(f"epoch {begin.epoch} as {begin.edge} began it", self.step, begin.weights), self.weights())

    def _prove(self) -> Iterator[Proof]:
        here = [claim for claim in self._claims if claim.step == self.step]
        if here:
            self._claims = [claim for claim in self._claims if claim.step != self.step]
            weights = self.weights()
            yield from (Proof(claim, weights) for claim in here)
