"""What a prefix of a training group's log amounts to, and what follows from its records: values."""

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
"""A member that has missed so many steps in a row is not awaited any more."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is agreed before the log begins.

    `edges`: who may be a member. `job`: the digest that a Join must have. `decode`: turns a gradient's joined chunks
    into float32 [num_parameters], raising FormatError where it cannot. `server`: the parameter server's node, which
    may begin and close though it is no member; empty without one.
    """

    edges: frozenset[str]
    job: str
    num_parameters: int
    decode: Callable[[bytes], Vector]
    server: str = ""

    @property
    def max_payload_bytes(self) -> int:
        """No payload needs more: 8 bytes a parameter, and what surrounds them."""
        return 8 * self.num_parameters + 65536


@dataclass(frozen=True, slots=True)
class Member:
    """What is known of an edge that has joined at some time.

    `missed`: closed steps in a row without its gradient; None from its Join until it sends one or an epoch begins with
    it. `samples_per_s`: the newest it told; 0 before. `last_step`: the newest step of which a whole gradient of it was
    in the log, in time or late; -1 before.
    """

    joined: bool = True
    missed: int | None = None
    samples_per_s: float = 0.0
    last_step: int = -1


_UNKNOWN = Member(joined=False)


@dataclass(frozen=True, slots=True, eq=False)
class Gradient:
    """A whole gradient of the present step. `vector`: float32 [num_parameters], None without samples."""

    contribution: Contribution
    vector: Vector | None
    is_diverged: bool = False


class HeldOutSums(NamedTuple):
    """Sums over the held-out samples of all members that tested. `loss`: the sum over the samples."""

    num_members: int
    num_samples: int
    num_correct: int
    loss: float


@dataclass(frozen=True, slots=True)
class State:
    """What a prefix of the log amounts to; never changed, so an older one may be kept.

    `step`: updates so far, and so the number of the present step; `end_step`: where the running epoch, `begin`, ends;
    `is_abandoned`: it has ended before, for none of its members was heard any more. `diverged_steps`: steps since the
    last one with a mean in which all who had samples diverged; `rollbacks`: how often in a row that led back to older
    weights. `members`: by edge. `tested`: of the running epoch, by edge. `weights_by_edge`: the digest of the present
    weights, by each edge that has told its own. `pending`, `gradients`: of the present step, by edge: parts of
    unfinished gradients, and whole ones. Held arrays and chunks are at most one gradient's for each member and one
    unfinished payload's.
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
        """Whether an epoch runs and has steps left."""
        return self.step < self.end_step and not self.is_abandoned and not self.has_failed

    @property
    def has_failed(self) -> bool:
        """Whether training diverged so often that it ends: nothing begins any more."""
        return self.rollbacks > MAX_SLOWDOWNS

    @property
    def is_between_steps(self) -> bool:
        """Whether nothing of the present step is there yet: `to_json` says it all. So behind each Closed and Begun."""
        return not self.pending and not self.gradients

    @property
    def epoch_first_step(self) -> int:
        """The running epoch's first step."""
        return self.end_step - (self.begin.num_steps if self.begin else 0)

    def skip_to(self, offset: int) -> "State":
        """The state if the records before `offset` that are not folded yet cannot be read, by any member."""
        return self if offset <= self.next_offset else replace(self, next_offset=offset)

    @property
    def expected(self) -> tuple[str, ...]:
        """The running epoch's members that are waited for, in rising order."""
        return tuple(sorted(edge for edge in (self.begin.members if self.begin else ()) if self.is_expected(edge)))

    def is_expected(self, edge: str) -> bool:
        """Whether `edge`, a member of the running epoch, is waited for."""
        member = self.members.get(edge, _UNKNOWN)
        return member.joined and member.missed is not None and member.missed < MAX_MISSED

    @property
    def eligible(self) -> tuple[str, ...]:
        """Who may be in the next Begin, in rising order: all who joined or tested since, or are not given up.

        A member that finds itself left out of a Begin joins again, to be in the next.
        """
        return tuple(
            edge
            for edge, member in sorted(self.members.items())
            if member.joined and (edge in self.tested or member.missed is None or member.missed < MAX_MISSED)
        )

    @property
    def weights(self) -> str:
        """The digest of the group's weights: what most have told, or else the first edge of those that most agree with.

        Empty where nobody has told its own. A member whose weights are others is wrong, and not the group.
        """
        agree = Counter(self.weights_by_edge.values())
        most = max(agree.values(), default=0)
        return next(
            (
                self.weights_by_edge[edge]
                for edge in sorted(self.weights_by_edge)
                if agree[self.weights_by_edge[edge]] == most
            ),
            "",
        )

    @property
    def in_sync(self) -> tuple[str, ...]:
        """Those who have told that they have the group's weights, in rising order."""
        weights = self.weights
        return tuple(edge for edge in sorted(self.weights_by_edge) if self.weights_by_edge[edge] == weights)

    @property
    def held_out_sums(self) -> HeldOutSums:
        """Over those of the running epoch that have tested so far."""
        tested = [self.tested[edge] for edge in sorted(self.tested)]
        return HeldOutSums(
            len(tested),
            sum(each.num_samples for each in tested),
            sum(each.num_correct for each in tested),
            math.fsum(each.loss for each in tested),
        )


@dataclass(frozen=True, slots=True)
class Begun:
    """An epoch begins. `tested`: of the epoch before, by all who tested in time."""

    begin: Begin
    tested: HeldOutSums


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """A step is made. `mean`: float32 [num_parameters], read-only, or None: without samples nothing changes.

    `contributions`: rising by edge; none of a step that was closed in vain. `missing`: awaited members that are not
    among them, rising. A sender that has no place here keeps its gradient for the next step, even if only some of its
    parts reached the log.
    """

    step: int
    mean: Vector | None
    contributions: tuple[Contribution, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The epoch ends before its time, with `steps_left`: steps were closed in vain until all its members were given up.

    Somebody who has joined since may begin the next.
    """

    epoch: int
    steps_left: int


@dataclass(frozen=True, slots=True)
class Diverged:
    """MAX_DIVERGED_STEPS consecutive steps diverged: roll back to good weights, or end training if not `continues`."""

    continues: bool


@dataclass(frozen=True, slots=True)
class Late:
    """A gradient came to its end behind its step's close, and does not count. At most one for each gradient."""

    edge: str
    step: int
    attempt: str


@dataclass(frozen=True, slots=True)
class CountedTest:
    """A member's test of the running epoch was taken into the sums."""

    tested: Tested


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record broke a rule and changed nothing. `edge`: its author as it says; empty where it cannot be read."""

    edge: str
    reason: str


Action = Begun | Closed | Abandoned | Diverged | Late | CountedTest | Rejected
Folded = tuple[State, tuple[Action, ...]]
Fold = Callable[[Rules, State, Record, int], Folded]
