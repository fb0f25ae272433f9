"""A pure fold of a training group's log: its records into the group's state and the actions that follow.

Covers which gradients make a step, which members it waits for, when an epoch begins, and what is rejected. All who
have read the same prefix of the log hold the same state and got the same actions, bit for bit. Does not read or write
the log, decode gradients (`Rules.decode` does), or know time: a member that has waited long enough appends a Close.
See also: README.md in this folder for the protocol, `records` for the records, `update_log` for what members of a
parameter server read instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np

from edged.domain.group import records
from edged.domain.group.records import (
    WITH_BACKEND,
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
"""Consecutive diverged steps that trigger a rollback: the weights are the same in all of them, the samples are not."""

MAX_NORM = 1e4
"""Largest magnitude in a gradient. The maximum norm, because comparisons are exact: sums of squares differ between
machines in the last bits, so members would reject different gradients and end with different weights."""


def fold_blob(fold: Fold, rules: Rules, state: State, blob: bytes, offset: int) -> Folded:
    """Decode `blob` and apply `fold` (this module's or `update_log`'s); Rejected if it is no record.

    Raises LogGap if `offset` is not the next one.
    """
    try:
        record = records.decode(blob)
    except FormatError as error:
        return _next(state, offset), (Rejected("", str(error)),)
    return fold(rules, state, record, offset)


def fold(rules: Rules, state: State, record: Record, offset: int) -> Folded:
    """The state after the record at `offset`, and the actions that follow. Never fails because of a record's content.

    Raises LogGap if `offset` is not the next one.
    """
    return fold_with(_meaning, rules, state, record, offset)


def fold_with(
    meaning: Callable[[Rules, State, Record], Folded], rules: Rules, state: State, record: Record, offset: int
) -> Folded:
    """Fold `record` by `meaning`; if that raises FormatError, the record is Rejected and changes nothing.

    Raises LogGap if `offset` is not the next one.
    """
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
    """Whether `edge` has joined, and not left since."""
    return edge in state.members and state.members[edge].joined


def fold_membership(rules: Rules, state: State, record: Join | Leave) -> Folded:
    """An edge joins or leaves."""
    return _join(rules, state, record) if isinstance(record, Join) else _leave(state, record)


def _join(rules: Rules, state: State, join: Join) -> Folded:
    """A member of the running epoch is expected again after its next gradient; parts it had sent are dropped."""
    if join.job_digest != rules.job:
        raise FormatError("joins with another job")
    known = state.members.get(join.edge, Member())
    state = _with_member(state, join.edge, replace(known, joined=True, missed=None))
    if join.step == state.step:
        state = replace(state, weights_by_edge={**state.weights_by_edge, join.edge: join.weights})
    return _close_if_complete(replace(state, pending=_without(state.pending, join.edge)))


def _leave(state: State, leave: Leave) -> Folded:
    if not is_joined(state, leave.edge):
        return state, ()
    state = _with_member(state, leave.edge, replace(state.members[leave.edge], joined=False))
    return _close_if_complete(replace(state, pending=_without(state.pending, leave.edge)))


def _begin(state: State, begin: Begin) -> Folded:
    if not begin.members.keys() <= state.members.keys():
        raise FormatError("begins with an edge that never joined")
    return fold_begin(state, begin)


def fold_begin(state: State, begin: Begin) -> Folded:
    """The next epoch begins, and all its members are expected.

    Of several Begins the first one with the group's weights wins. If nobody has reported weights, the Begin's are the
    group's.
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
    expected = {edge: replace(member, missed=0) for edge, member in state.members.items() if edge in begin.members}
    begun = Begun(begin, state.held_out_sums)
    rollbacks = state.rollbacks if state.diverged_steps else 0
    end_step = state.step + begin.num_steps
    state = replace(state, begin=begin, end_step=end_step, is_abandoned=False, rollbacks=rollbacks)
    return replace(state, tested={}, members={**state.members, **expected}), (begun,)


def fold_tested(state: State, tested: Tested) -> Folded:
    """Only a member's first test after the epoch's last step counts; one of an epoch before comes late."""
    if state.begin is not None and tested.epoch < state.begin.epoch:
        return state, ()
    if state.begin is None or tested.edge not in state.begin.members:
        raise FormatError("tests without being a member of the epoch")
    if tested.edge in state.tested:
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
        raise FormatError("sends a gradient of a step that has not begun")  # in this fold, so its author's is another
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
    state = _with_member(state, part.edge, _after_part(state, part, missed=0))
    return _close_if_complete(
        replace(
            state,
            gradients={**state.gradients, part.edge: gradient},
            pending=_without(state.pending, part.edge),
        )
    )


_SAME_IN_ALL_PARTS = attrgetter("attempt", "parts", "count", "loss", "num_correct", "samples_per_s")

P = TypeVar("P", Part, Update)


def with_part(rules: Rules, parts: Mapping[int, P], part: P, same_in_all: Callable[[P], object]) -> Mapping[int, P]:
    """`parts` and `part`, in any order, each once; `part` alone if the others belong to another attempt.

    Raises FormatError if together they exceed the largest possible payload.
    """
    if parts and same_in_all(next(iter(parts.values()))) != same_in_all(part):
        parts = {}
    parts = {**parts, part.part: part}
    if sum(len(each.chunk) for each in parts.values()) > rules.max_payload_bytes:
        raise FormatError("sends more bytes than the model can have")
    return parts


def payload_vector(rules: Rules, parts: Mapping[int, P], max_magnitude: float) -> Vector:
    """The decoded payload of all parts: float32 [num_parameters], finite, within ±`max_magnitude`.

    Raises FormatError for anything else.
    """
    vector = rules.decode(b"".join(parts[i].chunk for i in range(len(parts))))
    if vector.shape != (rules.num_parameters,) or vector.dtype != np.float32:
        raise FormatError(f"sends {vector.dtype} {vector.shape}, not float32 ({rules.num_parameters},)")
    if not (vector.min() >= -max_magnitude and vector.max() <= max_magnitude):  # false for NaN, too
        raise FormatError("sends numbers that are not finite or far too large")
    return vector


def _late_part(state: State, part: Part) -> Folded:
    """The last part of a late gradient reports it. If it is one step late, its sender is expected again.

    Otherwise a member that returns in mid-epoch, no faster than the others, would stay one step late for ever.
    """
    member = state.members[part.edge]
    if part.part < part.parts - 1 or part.step <= member.last_step:
        return state, ()
    missed = 0 if part.step == state.step - 1 else member.missed
    return _with_member(state, part.edge, _after_part(state, part, missed)), (Late(part.edge, part.step, part.attempt),)


def _after_part(state: State, part: Part, missed: int | None) -> Member:
    member = state.members[part.edge]
    speed = part.samples_per_s or member.samples_per_s
    return replace(member, missed=missed, samples_per_s=speed, last_step=part.step)


def _close(state: State, close: Close) -> Folded:
    """Only an edge that waits for the epoch's end can close a step without a gradient: a member could send its own.

    Not one that is without the epoch's backend: where a Begin names one, members too can close so.
    """
    if close.step > state.step:
        raise FormatError("closes a step that has not begun")
    if close.step < state.step or not state.is_open or state.begin is None:
        return state, ()
    may_send_none = state.begin.format >= WITH_BACKEND or close.edge not in state.begin.members
    is_effective = state.gradients or (may_send_none and is_joined(state, close.edge))
    return _closed(state) if is_effective else (state, ())


def _close_if_complete(state: State) -> Folded:
    """Close the step if it has a gradient, and every expected member has sent one."""
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
    after = replace(
        state, step=state.step + 1, members=members, weights_by_edge=weights_by_edge, pending={}, gradients={}
    )
    if not gradients and after.is_open:
        are_all_silent = all((members[edge].missed or 0) >= MAX_MISSED for edge in state.begin.members)
        after = replace(after, is_abandoned=are_all_silent)
    if mean is not None:
        after = replace(after, diverged_steps=0)
    elif any(gradient.is_diverged for gradient in gradients):
        after = _diverged(after)
    return after, closed_actions(state, after, mean, tuple(each.contribution for each in gradients))


def _diverged(state: State) -> State:
    diverged_steps = state.diverged_steps + 1
    if diverged_steps % MAX_DIVERGED_STEPS:
        return replace(state, diverged_steps=diverged_steps)
    return replace(state, diverged_steps=diverged_steps, rollbacks=state.rollbacks + 1, weights_by_edge={})


def _after_step(state: State, edge: str, member: Member) -> Member:
    """Count a missed step, but not for an edge that rejoined and has sent nothing yet, unless nobody has."""
    assert state.begin is not None, "a step is of an epoch"
    if edge in state.gradients or edge not in state.begin.members or (member.missed is None and state.gradients):
        return member
    return replace(member, missed=(member.missed or 0) + 1)


def closed_actions(
    before: State, after: State, mean: Vector | None, contributions: tuple[Contribution, ...]
) -> tuple[Action, ...]:
    """The actions that follow from a closed step. `before`, `after`: the states around its last record.

    Missing are those who missed this step while they were still expected.
    """
    assert after.begin is not None, "a step is of an epoch"
    contributed = {each.edge for each in contributions}
    missing = tuple(
        edge
        for edge, member in sorted(after.members.items())
        if member.joined
        and 1 <= (member.missed or 0) <= MAX_MISSED
        and edge in after.begin.members.keys() - contributed
    )
    closed = Closed(after.step - 1, mean, contributions, missing)
    actions: list[Action] = [closed]
    if after.is_abandoned:
        actions.append(Abandoned(after.begin.epoch, after.end_step - after.step))
    if after.rollbacks > before.rollbacks:
        actions.append(Diverged(continues=not after.has_failed))
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
