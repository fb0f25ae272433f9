"""The state that a prefix of a training group's log folds into, and the actions that follow from its records: values.

See also: `gradient_log` and `update_log` for the folds, `state_json` for the state as text.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edged.domain.group.records import Begin, Contribution, Record, Tested
from edged.domain.training.learner import MAX_SLOWDOWNS

Vector = npt.NDArray[np.float32]

MAX_MISSED = 2
"""Consecutive missed steps after which a member is no longer expected."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What all members agree on before the log begins.

    `edges`: who may be a member. `job`: the digest that a Join must carry. `decode`: turns a gradient's joined chunks
    into float32 [num_parameters], or raises FormatError. `server`: the parameter server's node, which may write Begin
    and Close without being a member; empty without one.
    """

    edges: frozenset[str]
    job: str
    num_parameters: int
    decode: Callable[[bytes], Vector]
    server: str = ""

    @property
    def max_payload_bytes(self) -> int:
        """Upper bound of a payload: 8 bytes per parameter, and the overhead of its encoding."""
        return 8 * self.num_parameters + 65536


@dataclass(frozen=True, slots=True)
class Member:
    """What is known of an edge that has joined at least once.

    `missed`: consecutive closed steps without its gradient; None from its Join until it sends one or an epoch begins
    with it. `samples_per_s`: as last reported; 0 before. `last_step`: the newest step for which a complete gradient of
    it was in the log, in time or late; -1 before.
    """

    joined: bool = True
    missed: int | None = None
    samples_per_s: float = 0.0
    last_step: int = -1


_UNKNOWN = Member(joined=False)


@dataclass(frozen=True, slots=True, eq=False)
class Gradient:
    """A complete gradient of the current step. `vector`: float32 [num_parameters], None without samples."""

    contribution: Contribution
    vector: Vector | None
    is_diverged: bool = False


class HeldOutSums(NamedTuple):
    """Sums over the held-out samples of all members that tested. `loss`: summed over the samples."""

    num_members: int
    num_samples: int
    num_correct: int
    loss: float


@dataclass(frozen=True, slots=True)
class State:
    """The fold of a prefix of the log; immutable, so an older one may be kept.

    `step`: updates so far, hence the number of the current step. `next_offset`: of the next record to fold.
    `end_step`: where the running epoch, `begin`, ends; `is_abandoned`: it ended earlier, because none of its members
    sent anything any more. `diverged_steps`: steps since the last one with a mean in which every member with samples
    diverged; `rollbacks`: consecutive rollbacks because of them. `members`: by edge. `tested`: of the running epoch, by
    edge. `weights_by_edge`: SHA-256 of the current weights, as each edge last reported it. `pending`, `gradients`: of
    the current step, by edge: parts of incomplete gradients, and complete ones. The arrays and chunks held are at most
    one gradient and one incomplete payload per member.
    """

    step: int = 0
    end_step: int = 0
    next_offset: int = 0
    begin: Begin | None = None
    is_abandoned: bool = False
    diverged_steps: int = 0
    rollbacks: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    tested: Mapping[str, Tested] = field(default_factory=dict)
    weights_by_edge: Mapping[str, str] = field(default_factory=dict)
    pending: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    gradients: Mapping[str, Gradient] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether an epoch is running and has steps left."""
        return self.step < self.end_step and not self.is_abandoned and not self.has_failed

    @property
    def has_failed(self) -> bool:
        """Whether training has diverged too often: it ends, and no epoch begins any more."""
        return self.rollbacks > MAX_SLOWDOWNS

    @property
    def is_between_steps(self) -> bool:
        """Whether the current step has no parts yet, so that `to_json` is complete: so after each Closed and Begun."""
        return not self.pending and not self.gradients

    @property
    def epoch_first_step(self) -> int:
        """The running epoch's first step."""
        return self.end_step - (self.begin.num_steps if self.begin else 0)

    def skip_to(self, offset: int) -> "State":
        """The state if no member can read the records before `offset` that are not folded yet."""
        return self if offset <= self.next_offset else replace(self, next_offset=offset)

    @property
    def expected(self) -> tuple[str, ...]:
        """The running epoch's members whose gradient a step waits for, in rising order."""
        return tuple(sorted(edge for edge in (self.begin.members if self.begin else ()) if self.is_expected(edge)))

    def is_expected(self, edge: str) -> bool:
        """Whether a step waits for the gradient of `edge`, a member of the running epoch."""
        member = self.members.get(edge, _UNKNOWN)
        return member.joined and member.missed is not None and member.missed < MAX_MISSED

    @property
    def eligible(self) -> tuple[str, ...]:
        """Who may be in the next Begin, in rising order: all who are expected, or joined or tested since they were not.

        A member that finds itself left out of a Begin joins again, to be in the next.
        """
        return tuple(
            edge
            for edge, member in sorted(self.members.items())
            if member.joined and (edge in self.tested or member.missed is None or member.missed < MAX_MISSED)
        )

    @property
    def weights(self) -> str:
        """The digest of the group's weights: the one that most edges reported; in a tie the first edge's among them.

        Empty while nobody has reported any. A member with other weights is wrong, not the group.
        """
        votes = Counter(self.weights_by_edge.values())
        max_votes = max(votes.values(), default=0)
        in_order = (self.weights_by_edge[edge] for edge in sorted(self.weights_by_edge))
        return next((weights for weights in in_order if votes[weights] == max_votes), "")

    @property
    def in_sync(self) -> tuple[str, ...]:
        """The edges that reported the group's weights as theirs, in rising order."""
        weights = self.weights
        return tuple(edge for edge in sorted(self.weights_by_edge) if self.weights_by_edge[edge] == weights)

    @property
    def held_out_sums(self) -> HeldOutSums:
        """Over the members of the running epoch that have tested so far."""
        tested = [self.tested[edge] for edge in sorted(self.tested)]
        return HeldOutSums(
            len(tested),
            sum(each.num_samples for each in tested),
            sum(each.num_correct for each in tested),
            math.fsum(each.loss for each in tested),
        )


@dataclass(frozen=True, slots=True)
class Begun:
    """An epoch begins. `tested`: the previous epoch's sums, over all who tested in time."""

    begin: Begin
    tested: HeldOutSums


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """A step is closed. `mean`: float32 [num_parameters], read-only, or None: without samples nothing changes.

    `contributions`: rising by edge; empty if the step was closed without any gradient. `missing`: expected members that
    are not among them, rising. A sender that is not among them keeps its gradient for the next step, even if only some
    of its parts reached the log.
    """

    step: int
    mean: Vector | None
    contributions: tuple[Contribution, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The epoch ends early, with `steps_left`: steps were closed empty until none of its members was expected any more.

    An edge that has joined since may begin the next.
    """

    epoch: int
    steps_left: int


@dataclass(frozen=True, slots=True)
class Diverged:
    """MAX_DIVERGED_STEPS consecutive steps diverged: roll back to good weights, or end training if not `continues`."""

    continues: bool


@dataclass(frozen=True, slots=True)
class Late:
    """A gradient was complete only after its step closed, and does not count. At most one for each gradient."""

    edge: str
    step: int
    attempt: str


@dataclass(frozen=True, slots=True)
class CountedTest:
    """A member's test of the running epoch was added to the sums."""

    tested: Tested


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record broke a rule and changed nothing. `edge`: its author, as it claims; empty if it cannot be decoded."""

    edge: str
    reason: str


Action = Begun | Closed | Abandoned | Diverged | Late | CountedTest | Rejected
Folded = tuple[State, tuple[Action, ...]]
Fold = Callable[[Rules, State, Record, int], Folded]
