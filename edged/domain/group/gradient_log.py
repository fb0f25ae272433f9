"""What a training group's log means: a pure fold of its records into the group's state and the updates it makes.

Covers which gradients make a step, who is waited for, when an epoch begins, and what is refused. All who have read
the same prefix of the log hold the same state and have been given the same actions, bit for bit. Does not read or
write the log, decode gradients (`Rules.decode` does), or know time: whoever has waited long enough appends a Close.
See also: `exchange_records` for the records, `update_log` for what members of a parameter server read instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np

from edged.domain.group import records
from edged.domain.group.records import Begin, Close, Contribution, Join, Leave, Part, Record, Tested, Update
from edged.domain.group.state import (
    MAX_MISSED,
    Abandoned,
    Action,
    Begun,
    Closed,
    CountedTest,
    Diverged,
    Fold,
    Folded,
    Gradient,
    Late,
    Member,
    Rejected,
    Rules,
    State,
    Vector,
)
from edged.errors import FormatError, LogGap

MAX_DIVERGED_STEPS = 3
"""So many steps in a row that only diverged are no accident: the weights stay the same in them, the samples do not."""

MAX_NORM = 1e4
"""A gradient's largest magnitude. This norm, for comparing is exact: sums of squares differ from machine to machine
in the last bits, and with them what is refused, and then the weights."""


def fold_blob(fold: Fold, rules: Rules, state: State, blob: bytes, offset: int) -> Folded:
    """What `fold` (of this module or of `update_log`) makes of the record in `blob`; Rejected if it is none."""
    try:
        record = records.decode(blob)
    except FormatError as error:
        return _next(state, offset), (Rejected("", str(error)),)
    return fold(rules, state, record, offset)


def fold(rules: Rules, state: State, record: Record, offset: int) -> Folded:
    """The state behind the record at `offset`, and what follows from it. Never fails for what a record says.

    Raises LogGap if `offset` is not the next one.
    """
    return fold_with(_meaning, rules, state, record, offset)


def fold_with(
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
            return fold_tested(state, record)
        case Join() | Leave():
            return fold_membership(rules, state, record)
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


def fold_membership(rules: Rules, state: State, record: Join | Leave) -> Folded:
    """Somebody comes or goes."""
    return _join(rules, state, record) if isinstance(record, Join) else _leave(state, record)


def _join(rules: Rules, state: State, join: Join) -> Folded:
    """A member of the running epoch is awaited again from its next gradient on; what it had begun to send is void."""
    if join.job_digest != rules.job:
        raise FormatError("joins with another job")
    known = state.members.get(join.edge, Member())
    state = _with_member(state, join.edge, replace(known, joined=True, missed=None))
    if join.step == state.step:
        state = replace(state, weights_by_edge={**state.weights_by_edge, join.edge: join.weights})
    return _close_if_whole(replace(state, pending=_without(state.pending, join.edge)))


def _leave(state: State, leave: Leave) -> Folded:
    if not is_joined(state, leave.edge):
        return state, ()
    state = _with_member(state, leave.edge, replace(state.members[leave.edge], joined=False))
    return _close_if_whole(replace(state, pending=_without(state.pending, leave.edge)))


def _begin(state: State, begin: Begin) -> Folded:
    if not begin.members.keys() <= state.members.keys():
        raise FormatError("begins with an edge that never joined")
    return fold_begin(state, begin)


def fold_begin(state: State, begin: Begin) -> Folded:
    """The next epoch begins, all its members awaited; but the first Begin of an epoch with the group's weights wins.

    Where nobody has told its weights, those of the Begin are the group's.
    """
    epoch = state.begin.epoch if state.begin else -1
    if begin.epoch <= epoch:
        return state, ()
    if begin.epoch > epoch + 1 or state.is_open:
        raise FormatError("begins an epoch out of turn")
    if state.has_failed:
        raise FormatError("begins an epoch though training has diverged too often")
    if state.weights_by_edge and begin.weights != state.weights:
        raise FormatError("begins with other weights than the group's")
    anew = {edge: replace(member, missed=0) for edge, member in state.members.items() if edge in begin.members}
    begun = Begun(begin, state.held_out_sums)
    rollbacks = state.rollbacks if state.diverged_steps else 0
    end_step = state.step + begin.num_steps
    state = replace(state, begin=begin, end_step=end_step, is_abandoned=False, rollbacks=rollbacks)
    return replace(state, tested={}, members={**state.members, **anew}), (begun,)


def fold_tested(state: State, tested: Tested) -> Folded:
    """A member's first test behind the epoch's last step counts."""
    if state.begin is None or tested.edge not in state.begin.members:
        raise FormatError("tests without being a member of the epoch")
    if tested.epoch < state.begin.epoch or tested.edge in state.tested:
        return state, ()
    if tested.epoch > state.begin.epoch or state.is_open:
        raise FormatError("tests an epoch that is not over")
    weights_by_edge = {**state.weights_by_edge, tested.edge: tested.weights}
    return replace(state, tested={**state.tested, tested.edge: tested}, weights_by_edge=weights_by_edge), (
        CountedTest(tested),
    )


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
        payload_vector(rules, parts, MAX_NORM) if part.count else None,
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
    if sum(len(each.chunk) for each in parts.values()) > rules.max_payload_bytes:
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
    is_waiting = any(edge not in state.gradients and state.is_expected(edge) for edge in state.begin.members)
    return (state, ()) if is_waiting else _closed(state)


def _closed(state: State) -> Folded:
    assert state.begin is not None, "a step is of an epoch"
    gradients = [state.gradients[edge] for edge in sorted(state.gradients)]
    mean = _mean(gradients)
    members = {edge: _after_step(state, edge, member) for edge, member in state.members.items()}
    weights_by_edge = state.weights_by_edge if mean is None else {}
    behind = replace(
        state, step=state.step + 1, members=members, weights_by_edge=weights_by_edge, pending={}, gradients={}
    )
    if not gradients and behind.is_open:
        is_hopeless = all((members[edge].missed or 0) >= MAX_MISSED for edge in state.begin.members)
        behind = replace(behind, is_abandoned=is_hopeless)
    if mean is not None:
        behind = replace(behind, diverged_steps=0)
    elif any(gradient.is_diverged for gradient in gradients):
        behind = _diverged(behind)
    return behind, closed_actions(state, behind, mean, tuple(each.contribution for each in gradients))


def _diverged(behind: State) -> State:
    diverged_steps = behind.diverged_steps + 1
    if diverged_steps % MAX_DIVERGED_STEPS:
        return replace(behind, diverged_steps=diverged_steps)
    return replace(behind, diverged_steps=diverged_steps, rollbacks=behind.rollbacks + 1, weights_by_edge={})


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
        and 1 <= (member.missed or 0) <= MAX_MISSED
        and edge in behind.begin.members.keys() - contributed
    )
    closed = Closed(behind.step - 1, mean, contributions, missing)
    actions: list[Action] = [closed]
    if behind.is_abandoned:
        actions.append(Abandoned(behind.begin.epoch, behind.end_step - behind.step))
    if behind.rollbacks > before.rollbacks:
        actions.append(Diverged(continues=not behind.has_failed))
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
