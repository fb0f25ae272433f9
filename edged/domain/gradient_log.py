"""What a training group's log means: a pure fold of its records into the group's state and the updates it makes.

Covers which gradients make a step, who is waited for, when an epoch begins, and what is refused. All who have read
the same prefix of the log hold the same state and have been given the same actions, bit for bit. Does not read or
write the log, decode gradients (`Rules.decode` does), or know time: whoever has waited long enough appends a Close.
See also: `exchange_records` for the records, `update_log` for what members of a parameter server read instead.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edged.domain import exchange_records
from edged.domain.exchange_records import (
    Begin,
    Close,
    Contribution,
    Join,
    Leave,
    Part,
    Record,
    Tested,
    Update,
)
from edged.domain.training.learner import MOST_SLOWDOWNS
from edged.errors import FormatError, LogGap

Vector = npt.NDArray[np.float32]

MOST_MISSED = 2
"""A member that has missed so many steps in a row is not awaited any more."""

MOST_BARREN = 3
"""So many steps in a row that only diverged are no accident: the weights stay the same in them, the samples do not."""

MOST_NORM = 1e4
"""A gradient's largest magnitude. This norm, for comparing is exact: sums of squares differ from machine to machine
in the last bits, and with them what is refused, and then the weights."""


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
    def most_payload_bytes(self) -> int:
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
    `is_abandoned`: it has ended before, for none of its members was heard any more. `barren`: steps since the last one
    with a mean in which all who had samples diverged; `setbacks`: how often in a row that led back to older weights.
    `members`: by edge. `tested`: of the running epoch, by edge. `told`: the digest of the present weights, by each edge
    that has told its own. `pending`, `gradients`: of the present step, by edge: parts of unfinished gradients, and
    whole ones. Held arrays and chunks are at most one gradient's for each member and one unfinished payload's.
    """

    step: int = 0
    end_step: int = 0
    next_offset: int = 0
    begin: Begin | None = None
    is_abandoned: bool = False
    barren: int = 0
    setbacks: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    tested: Mapping[str, Tested] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    pending: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    gradients: Mapping[str, Gradient] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether an epoch runs and has steps left."""
        return self.step < self.end_step and not self.is_abandoned and not self.is_given_up

    @property
    def is_given_up(self) -> bool:
        """Whether training diverged so often that it ends: nothing begins any more."""
        return self.setbacks > MOST_SLOWDOWNS

    @property
    def is_boundary(self) -> bool:
        """Whether nothing of the present step is there yet: `to_json` says it all. So behind each Closed and Begun."""
        return not self.pending and not self.gradients

    @property
    def first_step(self) -> int:
        """The running epoch's first step."""
        return self.end_step - (self.begin.num_steps if self.begin else 0)

    def behind_hole(self, offset: int) -> "State":
        """The state if the records before `offset` that are not folded yet cannot be read, by any member."""
        return self if offset <= self.next_offset else replace(self, next_offset=offset)

    @property
    def awaited(self) -> tuple[str, ...]:
        """The running epoch's members that are waited for, in rising order."""
        return tuple(sorted(edge for edge in (self.begin.members if self.begin else ()) if self.is_awaited(edge)))

    def is_awaited(self, edge: str) -> bool:
        """Whether `edge`, a member of the running epoch, is waited for."""
        member = self.members.get(edge, _UNKNOWN)
        return member.joined and member.missed is not None and member.missed < MOST_MISSED

    @property
    def candidates(self) -> tuple[str, ...]:
        """Who may be in the next Begin, in rising order: all who joined or tested since, or are not given up.

        A member that finds itself left out of a Begin joins again, to be in the next.
        """
        return tuple(
            edge
            for edge, member in sorted(self.members.items())
            if member.joined and (edge in self.tested or member.missed is None or member.missed < MOST_MISSED)
        )

    @property
    def weights(self) -> str:
        """The digest of the group's weights: what most have told, or else the first edge of those that most agree with.

        Empty where nobody has told its own. A member whose weights are others is wrong, and not the group.
        """
        agree = Counter(self.told.values())
        most = max(agree.values(), default=0)
        return next((self.told[edge] for edge in sorted(self.told) if agree[self.told[edge]] == most), "")

    @property
    def holders(self) -> tuple[str, ...]:
        """Those who have told that they have the group's weights, in rising order."""
        weights = self.weights
        return tuple(edge for edge in sorted(self.told) if self.told[edge] == weights)

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
    """MOST_BARREN steps came to nothing: back to weights that were good. `goes_on`: or that was the end of training."""

    goes_on: bool


@dataclass(frozen=True, slots=True)
class Late:
    """A gradient came to its end behind its step's close, and does not count. At most one for each gradient."""

    edge: str
    step: int
    attempt: str


@dataclass(frozen=True, slots=True)
class TookTest:
    """A member's test of the running epoch was taken into the sums."""

    tested: Tested


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record broke a rule and changed nothing. `edge`: its author as it says; empty where it cannot be read."""

    edge: str
    reason: str


Action = Begun | Closed | Abandoned | Diverged | Late | TookTest | Rejected
Folded = tuple[State, tuple[Action, ...]]
Fold = Callable[[Rules, State, Record, int], Folded]


def fold_blob(fold: Fold, rules: Rules, state: State, blob: bytes, offset: int) -> Folded:
    """What `fold` (of this module or of `update_log`) makes of the record in `blob`; Rejected if it is none."""
    try:
        record = exchange_records.decode(blob)
    except FormatError as error:
        return _next(state, offset), (Rejected("", str(error)),)
    return fold(rules, state, record, offset)


def fold(rules: Rules, state: State, record: Record, offset: int) -> Folded:
    """The state behind the record at `offset`, and what follows from it. Never fails for what a record says.

    Raises LogGap if `offset` is not the next one.
    """
    return fold_by(_meaning, rules, state, record, offset)


def fold_by(
    meaning: Callable[[Rules, State, Record], Folded], rules: Rules, state: State, record: Record, offset: int
) -> Folded:
    """What `meaning` makes of a record; where it raises FormatError, nothing but a Rejected."""
    state = _next(state, offset)
    try:
        return meaning(rules, state, record)
    except FormatError as error:
        return state, (Rejected(getattr(record, "edge", ""), str(error)),)


def _next(state: State, offset: int) -> State:
    if offset != state.next_offset:
        raise LogGap(state.next_offset, offset)
    return replace(state, next_offset=offset + 1)


def _meaning(rules: Rules, state: State, record: Record) -> Folded:
    _check_author(rules, state, record)
    match record:
        case Part():
            return _part(rules, state, record)
        case Close():
            return _close(state, record)
        case Begin():
            return _begin(state, record)
        case Tested():
            return take_test(state, record)
        case Join() | Leave():
            return take_presence(rules, state, record)
        case Update():
            raise FormatError("an update among gradients")


def _check_author(rules: Rules, state: State, record: Record) -> None:
    if isinstance(record, Update) or (isinstance(record, Begin | Close) and record.edge == rules.server):
        return
    if record.edge not in rules.edges:
        raise FormatError("not an edge of the job")
    if not isinstance(record, Join | Leave) and not is_joined(state, record.edge):
        raise FormatError("has not joined")


def is_joined(state: State, edge: str) -> bool:
    """Whether `edge` has joined and not left since."""
    return edge in state.members and state.members[edge].joined


def take_presence(rules: Rules, state: State, record: Join | Leave) -> Folded:
    """Somebody comes or goes."""
    return _join(rules, state, record) if isinstance(record, Join) else _leave(state, record)


def _join(rules: Rules, state: State, join: Join) -> Folded:
    """A member of the running epoch is awaited again from its next gradient on; what it had begun to send is void."""
    if join.job_digest != rules.job:
        raise FormatError("joins with another job")
    known = state.members.get(join.edge, Member())
    state = _with_member(state, join.edge, replace(known, joined=True, missed=None))
    if join.step == state.step:
        state = replace(state, told={**state.told, join.edge: join.weights})
    return _close_if_whole(replace(state, pending=_without(state.pending, join.edge)))


def _leave(state: State, leave: Leave) -> Folded:
    if not is_joined(state, leave.edge):
        return state, ()
    state = _with_member(state, leave.edge, replace(state.members[leave.edge], joined=False))
    return _close_if_whole(replace(state, pending=_without(state.pending, leave.edge)))


def _begin(state: State, begin: Begin) -> Folded:
    if not begin.members.keys() <= state.members.keys():
        raise FormatError("begins with an edge that never joined")
    return take_begin(state, begin)


def take_begin(state: State, begin: Begin) -> Folded:
    """The next epoch begins, all its members awaited; but the first Begin of an epoch with the group's weights wins.

    Where nobody has told its weights, those of the Begin are the group's.
    """
    epoch = state.begin.epoch if state.begin else -1
    if begin.epoch <= epoch:
        return state, ()
    if begin.epoch > epoch + 1 or state.is_open:
        raise FormatError("begins an epoch out of turn")
    if state.is_given_up:
        raise FormatError("begins an epoch though training has diverged too often")
    if state.told and begin.weights != state.weights:
        raise FormatError("begins with other weights than the group's")
    anew = {edge: replace(member, missed=0) for edge, member in state.members.items() if edge in begin.members}
    begun = Begun(begin, state.held_out_sums)
    setbacks = state.setbacks if state.barren else 0
    end_step = state.step + begin.num_steps
    state = replace(state, begin=begin, end_step=end_step, is_abandoned=False, setbacks=setbacks)
    return replace(state, tested={}, members={**state.members, **anew}), (begun,)


def take_test(state: State, tested: Tested) -> Folded:
    """A member's first test behind the epoch's last step counts."""
    if state.begin is None or tested.edge not in state.begin.members:
        raise FormatError("tests without being a member of the epoch")
    if tested.epoch < state.begin.epoch or tested.edge in state.tested:
        return state, ()
    if tested.epoch > state.begin.epoch or state.is_open:
        raise FormatError("tests an epoch that is not over")
    told = {**state.told, tested.edge: tested.weights}
    return replace(state, tested={**state.tested, tested.edge: tested}, told=told), (TookTest(tested),)


def _part(rules: Rules, state: State, part: Part) -> Folded:
    if part.step < state.step:
        return _late_part(state, part)
    if part.step > state.step:
        raise FormatError("sends a gradient of a step that has not begun")  # here; its author's fold is another
    if not state.is_open or part.edge in state.gradients:
        return state, ()
    if state.begin is None or part.edge not in state.begin.members:
        raise FormatError("sends a gradient without being a member of the epoch")
    parts = with_part(rules, state.pending.get(part.edge, {}), part, _SAME_IN_ALL_PARTS)
    if len(parts) < part.parts:
        return replace(state, pending={**state.pending, part.edge: parts}), ()
    gradient = Gradient(
        Contribution(part.edge, part.count, part.loss, part.num_correct),
        payload_vector(rules, parts, MOST_NORM) if part.count else None,
        part.is_diverged,
    )
    state = _with_member(state, part.edge, _heard(state, part, missed=0))
    return _close_if_whole(
        replace(
            state,
            gradients={**state.gradients, part.edge: gradient},
            pending=_without(state.pending, part.edge),
        )
    )


_SAME_IN_ALL_PARTS = attrgetter("attempt", "parts", "count", "loss", "num_correct", "samples_per_s")

P = TypeVar("P", Part, Update)


def with_part(rules: Rules, parts: Mapping[int, P], part: P, same_in_all: Callable[[P], object]) -> Mapping[int, P]:
    """`parts` and `part`, in any order and each once; `part` alone if the others are of another attempt.

    Raises FormatError if together they are more bytes than a payload can be.
    """
    if parts and same_in_all(next(iter(parts.values()))) != same_in_all(part):
        parts = {}
    parts = {**parts, part.part: part}
    if sum(len(each.chunk) for each in parts.values()) > rules.most_payload_bytes:
        raise FormatError("sends more bytes than the model can have")
    return parts


def payload_vector(rules: Rules, parts: Mapping[int, P], most: float) -> Vector:
    """What all the parts together hold: float32 [num_parameters], finite and within `most`. Raises FormatError."""
    vector = rules.decode(b"".join(parts[i].chunk for i in range(len(parts))))
    if vector.shape != (rules.num_parameters,) or vector.dtype != np.float32:
        raise FormatError(f"sends {vector.dtype} {vector.shape}, not float32 ({rules.num_parameters},)")
    if not (vector.min() >= -most and vector.max() <= most):  # neither is so with a NaN
        raise FormatError("sends numbers that are not finite or far too large")
    return vector


def _late_part(state: State, part: Part) -> Folded:
    """A gradient's last part says that it is late. One step late is near enough for its sender to be awaited again.

    Otherwise a member that comes back in mid-epoch, no faster than the others, would be one step late for ever.
    """
    member = state.members[part.edge]
    if part.part < part.parts - 1 or part.step <= member.last_step:
        return state, ()
    missed = 0 if part.step == state.step - 1 else member.missed
    return _with_member(state, part.edge, _heard(state, part, missed)), (Late(part.edge, part.step, part.attempt),)


def _heard(state: State, part: Part, missed: int | None) -> Member:
    member = state.members[part.edge]
    speed = part.samples_per_s or member.samples_per_s
    return replace(member, missed=missed, samples_per_s=speed, last_step=part.step)


def _close(state: State, close: Close) -> Folded:
    """Without a gradient only somebody who waits for the epoch's end can close a step: a member could send its own."""
    if close.step > state.step:
        raise FormatError("closes a step that has not begun")
    if close.step < state.step or not state.is_open or state.begin is None:
        return state, ()
    is_outside = is_joined(state, close.edge) and close.edge not in state.begin.members
    return _closed(state) if state.gradients or is_outside else (state, ())


def _close_if_whole(state: State) -> Folded:
    """Closes the step if a gradient is there and everybody awaited has one."""
    if not state.gradients or state.begin is None:
        return state, ()
    is_waiting = any(edge not in state.gradients and state.is_awaited(edge) for edge in state.begin.members)
    return (state, ()) if is_waiting else _closed(state)


def _closed(state: State) -> Folded:
    assert state.begin is not None, "a step is of an epoch"
    gradients = [state.gradients[edge] for edge in sorted(state.gradients)]
    mean = _mean(gradients)
    members = {edge: _after_step(state, edge, member) for edge, member in state.members.items()}
    told = state.told if mean is None else {}
    behind = replace(state, step=state.step + 1, members=members, told=told, pending={}, gradients={})
    if not gradients and behind.is_open:
        is_hopeless = all((members[edge].missed or 0) >= MOST_MISSED for edge in state.begin.members)
        behind = replace(behind, is_abandoned=is_hopeless)
    if mean is not None:
        behind = replace(behind, barren=0)
    elif any(gradient.is_diverged for gradient in gradients):
        behind = _diverged(behind)
    return behind, closed_actions(state, behind, mean, tuple(each.contribution for each in gradients))


def _diverged(behind: State) -> State:
    barren = behind.barren + 1
    if barren % MOST_BARREN:
        return replace(behind, barren=barren)
    return replace(behind, barren=barren, setbacks=behind.setbacks + 1, told={})


def _after_step(state: State, edge: str, member: Member) -> Member:
    """Who joined anew and has sent nothing yet is let off, unless nobody has sent anything."""
    assert state.begin is not None, "a step is of an epoch"
    if edge in state.gradients or edge not in state.begin.members or (member.missed is None and state.gradients):
        return member
    return replace(member, missed=(member.missed or 0) + 1)


def closed_actions(
    before: State, behind: State, mean: Vector | None, contributions: tuple[Contribution, ...]
) -> tuple[Action, ...]:
    """What follows from a closed step, by the states before its last record and behind it.

    Missing is who has missed this one, and not so many before that nobody waited.
    """
    assert behind.begin is not None, "a step is of an epoch"
    contributed = {each.edge for each in contributions}
    missing = tuple(
        edge
        for edge, member in sorted(behind.members.items())
        if member.joined
        and 1 <= (member.missed or 0) <= MOST_MISSED
        and edge in behind.begin.members.keys() - contributed
    )
    closed = Closed(behind.step - 1, mean, contributions, missing)
    actions: list[Action] = [closed]
    if behind.is_abandoned:
        actions.append(Abandoned(behind.begin.epoch, behind.end_step - behind.step))
    if behind.setbacks > before.setbacks:
        actions.append(Diverged(goes_on=not behind.is_given_up))
    return tuple(actions)


def _mean(gradients: list[Gradient]) -> Vector | None:
    """sum(count * vector) / sum(count) in float32, one member after the other: the same bits on every machine."""
    total: Vector | None = None
    num_samples = 0
    for gradient in gradients:
        if gradient.vector is None:
            continue
        count = gradient.contribution.count
        num_samples += count
        if total is None:
            total = gradient.vector * np.float32(count)
            scratch = np.empty_like(total)
        else:
            total += np.multiply(gradient.vector, np.float32(count), out=scratch)
    if total is not None:
        total /= np.float32(num_samples)
        total.setflags(write=False)
    return total


def _with_member(state: State, edge: str, member: Member) -> State:
    return replace(state, members={**state.members, edge: member})


def _without(pending: Mapping[str, Mapping[int, Any]], edge: str) -> Mapping[str, Mapping[int, Any]]:
    return {name: parts for name, parts in pending.items() if name != edge} if edge in pending else pending


def to_json(state: State) -> str:
    """The state at a boundary as JSON; equal states give equal texts. `from_json` turns it back."""
    if not state.is_boundary:
        raise ValueError("in the middle of a step the state is more than its JSON")
    return json.dumps(
        {
            "step": state.step,
            "end_step": state.end_step,
            "next_offset": state.next_offset,
            "begin": state.begin and exchange_records.to_values(state.begin),
            "is_abandoned": state.is_abandoned,
            "barren": state.barren,
            "setbacks": state.setbacks,
            "members": {edge: astuple(member) for edge, member in state.members.items()},
            "tested": [exchange_records.to_values(state.tested[edge]) for edge in sorted(state.tested)],
            "told": dict(state.told),
        },
        sort_keys=True,
        separators=(",", ":"),
    )


def from_json(text: str) -> State:
    """The state that `to_json` wrote. Raises FormatError for anything else."""
    try:
        values = json.loads(text)
        state = _state(values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError("the state of the log's fold is malformed") from error
    for edge in state.members:
        exchange_records.check_name(edge)
    for weights in state.told.values():
        exchange_records.check_digest(weights)
    if not state.told.keys() | (state.begin.members.keys() if state.begin else set()) <= state.members.keys():
        raise FormatError("the state has weights or a share of somebody who never joined")
    if values.keys() != _IN_JSON or not all(
        type(values[name]) is int and 0 <= values[name] < 1 << 62 for name in _SIZES
    ):
        raise FormatError("the state of the log's fold has other fields or sizes")
    if not (0 <= state.first_step <= state.step <= state.end_step and (state.begin or not state.end_step)):
        raise FormatError("the state's step is not one of its epoch")
    if type(state.is_abandoned) is not bool or (state.is_abandoned and state.step == state.end_step):
        raise FormatError("the state's epoch is neither abandoned nor not")
    if state.tested and (state.begin is None or state.is_open or not state.tested.keys() <= state.begin.members.keys()):
        raise FormatError("the state's tests are not of its epoch")
    return state


_SIZES = ("step", "end_step", "next_offset", "barren", "setbacks")
_IN_JSON = {*_SIZES, "begin", "is_abandoned", "members", "tested", "told"}


def _state(values: Any) -> State:
    begin = None if values["begin"] is None else exchange_records.from_values(values["begin"])
    tested = [exchange_records.from_values(each) for each in values["tested"]]
    return State(
        values["step"],
        values["end_step"],
        values["next_offset"],
        begin if begin is None else _of(Begin, begin),
        values["is_abandoned"],
        values["barren"],
        values["setbacks"],
        {edge: _member(*row) for edge, row in values["members"].items()},
        {each.edge: each for each in (_of(Tested, each) for each in tested)},
        dict(values["told"]),
    )


R = TypeVar("R", Begin, Tested)


def _of(kind: type[R], record: Record) -> R:
    if not isinstance(record, kind):
        raise FormatError(f"the state's {kind.__name__} is something else")
    return record


def _member(joined: Any, missed: Any, samples_per_s: Any, last_step: Any) -> Member:
    is_missed_sane = missed is None or (type(missed) is int and missed >= 0)
    is_speed_sane = type(samples_per_s) is float and math.isfinite(samples_per_s) and samples_per_s >= 0
    if not (type(joined) is bool and is_missed_sane and is_speed_sane and type(last_step) is int and last_step >= -1):
        raise FormatError("the state's member is malformed")
    return Member(joined, missed, samples_per_s, last_step)
