"""What members of a parameter server read instead of gradients: epochs and updates, with the same meaning.

Covers the fold of the server's log into the same State and actions as `gradient_log`, and the records that the server
writes for a closed step. The server itself folds the gradients with `gradient_log.fold`. Its log holds, in this order:
the Begin of each Begun, the updates of each Closed, the Tested of each CountedTest, and each accepted Join and Leave.
After a restart the server may repeat records; repeats change nothing. Nobody else may write there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

from edged.domain.group.gradient_log import (
    MAX_NORM,
    closed_actions,
    fold_begin,
    fold_membership,
    fold_tested,
    fold_with,
    payload_vector,
    with_part,
)
from edged.domain.group.records import Begin, Join, Leave, Record, Tested, Update
from edged.domain.group.state import Closed, Folded, Rules, State, Vector
from edged.domain.group.state_json import from_json, to_json
from edged.errors import FormatError


def fold(rules: Rules, state: State, record: Record, offset: int) -> Folded:
    """Like `gradient_log.fold`, over the server's log, which `state.next_offset` refers to.

    After an Update's last part, everything else in the state equals the server's state after that step.
    """
    return fold_with(_meaning, rules, state, record, offset)


def updates(closed: Closed, state: State, chunks: Sequence[bytes]) -> Iterator[Update]:
    """The server's records of a closed step. `state`: its own after it. `chunks`: of `closed.mean`; empty without."""
    for part, chunk in enumerate(chunks or [b""]):
        parts = max(len(chunks), 1)
        yield Update(closed.step, part, parts, closed.contributions, state.next_offset, to_json(state), chunk)


def _meaning(rules: Rules, state: State, record: Record) -> Folded:
    match record:
        case Update():
            return _update(rules, state, record)
        case Tested():
            return fold_tested(state, record)
        case Join() | Leave() if record.edge in rules.edges:
            return fold_membership(rules, state, record)
        case Begin() if record.edge in rules.edges or record.edge == rules.server:
            return fold_begin(state, record)
        case _:
            raise FormatError("not a record of a parameter server")


_SAME_IN_ALL_PARTS = attrgetter("step", "parts", "contributions", "position", "state")


def _update(rules: Rules, state: State, update: Update) -> Folded:
    if update.step < state.step:
        return state, ()
    if update.step > state.step or not state.is_open:
        raise FormatError("an update of a step that has not begun")
    parts = with_part(rules, state.pending.get(rules.server, {}), update, _SAME_IN_ALL_PARTS)
    if len(parts) < update.parts:
        return replace(state, pending={rules.server: parts}), ()
    after = _state_after(state, update)
    return after, closed_actions(state, after, _mean(rules, parts, update), update.contributions)


def _state_after(state: State, update: Update) -> State:
    after = from_json(update.state)
    if (after.step, after.end_step, after.begin) != (state.step + 1, state.end_step, state.begin):
        raise FormatError("an update's state is not the one after its step")
    if after.next_offset != update.position or after.tested or (after.is_abandoned and update.contributions):
        raise FormatError("an update's state is not what it was when the step closed")
    return replace(after, next_offset=state.next_offset)


def _mean(rules: Rules, parts: Mapping[int, Update], update: Update) -> Vector | None:
    if not update.chunk:
        return None
    mean = payload_vector(rules, parts, 2 * MAX_NORM)  # rounding may lift a mean above what it is the mean of
    mean.setflags(write=False)
    return mean
