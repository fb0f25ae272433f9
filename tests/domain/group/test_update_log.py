"""A reader of a parameter server's updates gets the actions that it would get from the gradients."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.group.gradient_log import fold_blob
from edged.domain.group.records import Close, Join, Leave, decode, encode
from edged.domain.group.state import Begun, Closed, CountedTest, Late, Rejected, State
from edged.domain.group.state_json import from_json, to_json
from edged.domain.group.update_log import fold, updates
from edged.errors import FormatError
from tests.support.histories import (
    EDGES,
    HASH,
    JOB,
    RULES,
    SERVER,
    begin,
    comparable,
    gradient,
    histories,
    join,
    outcome,
    run,
    run_blobs,
)
from tests.support.properties import examples

ASH, BIRCH, _ = EDGES


def written(action, state):
    """The records that a server with `state` writes for `action`, each mean in chunks of 12 bytes."""
    if isinstance(action, Begun):
        return [action.begin]
    if isinstance(action, CountedTest):
        return [action.tested]
    if isinstance(action, Closed):
        payload = b"" if action.mean is None else action.mean.tobytes()
        return list(updates(action, state, [payload[at : at + 12] for at in range(0, len(payload), 12)]))
    return []


def presence(blob, actions):
    """The Join or Leave in `blob` that a server accepted: it repeats them, after the records of their actions."""
    try:
        record = decode(blob)
    except FormatError:
        return []
    return [record] if isinstance(record, Join | Leave) and not any(isinstance(a, Rejected) for a in actions) else []


def read(records, state=None):
    """The state after `records` of a server, and their actions."""
    state = state or State()
    actions: list[Any] = []
    for record in records:
        state, made = fold_blob(fold, RULES, state, encode(record), state.next_offset)
        actions += made
    return state, actions


def served(num_steps=2):
    """The records of a server whose only member has made all steps, and the server's state."""
    state, log = State(), []
    members = [join(ASH), begin(ASH, num_steps=num_steps)]
    for record in [*members, *(gradient(ASH, step, step, 1, 2, 3) for step in range(num_steps))]:
        state, actions = run([record], state)
        log += [each for action in actions for each in written(action, state)]
    return log, state


@examples(100)
@given(histories())
def test_the_updates_of_any_history_give_the_actions_and_states_of_its_gradients(blobs):
    log, expected, after_steps = [], [], []
    for blob, (state, actions) in zip(blobs, run_blobs(blobs), strict=True):
        for action in actions:
            log += written(action, state)
            if not isinstance(action, Late | Rejected):
                expected.append(comparable(action))
                after_steps.append(state)
        log += presence(blob, actions)

    state, found, states = State(), [], []
    for record in log:
        state, actions = read([record], state)
        found += [comparable(action) for action in actions]
        states += [state for _ in actions]

    assert found == expected
    for server, member, what in zip(after_steps, states, expected, strict=True):
        if isinstance(what, tuple):  # a Closed
            assert replace(member, next_offset=server.next_offset) == server


@examples(100)
@given(histories(), st.lists(st.integers(0, 200), max_size=4))
def test_a_server_that_restarts_between_its_records_adds_nothing_new(blobs, crashes):
    log, at_crash = [], sorted(crashes)
    state = State()
    while state.next_offset < len(blobs):
        blob = blobs[state.next_offset]
        ((state, actions),) = run_blobs([blob], state)
        log += [each for action in actions for each in written(action, state)] + presence(blob, actions)
        if at_crash and len(log) > at_crash[0]:
            del log[at_crash.pop(0) + 1 :]
            state = last_update(log)
    undisturbed = [(each, action) for each, actions in run_blobs(blobs) for action in actions]
    expected = [comparable(action) for _, action in undisturbed if not isinstance(action, Late | Rejected)]

    _, actions = read(log)

    assert [comparable(action) for action in actions] == expected


def last_update(log):
    """The state that the last complete Update of the log was written from."""
    member, state = State(), State()
    for record in log:
        member, actions = read([record], member)
        if any(isinstance(action, Closed) for action in actions):
            state = from_json(record.state)
            assert state.next_offset == record.position
    return state


def test_a_member_may_resume_between_two_updates():
    log, _ = served()
    state, _ = read(log[:3])

    resumed, actions = read(log[3:], from_json(to_json(state)))

    assert [action.step for action in actions] == [1]
    assert resumed == read(log)[0]


def test_a_mean_is_read_only():
    log, _ = served()

    _, *closed = read(log)[1]

    assert [bool(each.mean.flags.writeable) for each in closed] == [False, False]


def test_a_mean_that_rounding_lifts_above_the_limit_of_gradients_is_accepted():
    log, _ = served()
    huge = [replace(each, chunk=np.full(len(each.chunk) // 4, 10_001, np.float32).tobytes()) for each in log[1:3]]

    assert [type(action) for action in read([log[0], *huge])[1]] == [Begun, Closed]


def test_joins_and_leaves_are_folded_from_the_servers_log():
    state, actions = read([join(ASH)])
    assert actions == []
    assert state.eligible == (ASH,)
    state, actions = read([join(ASH), Leave(ASH)])
    assert actions == []
    assert state.eligible == ()


@pytest.mark.parametrize("record", [join("stranger"), join(ASH, "0" * 64), Close(0, SERVER), gradient(ASH, 0, 1)])
def test_records_of_members_only_are_rejected(record):
    state, actions = read([record])

    assert [type(action) for action in actions] == [Rejected]
    assert state == State(next_offset=1)


@pytest.mark.parametrize(
    "alter",
    [
        lambda update: replace(update, state=""),
        lambda update: replace(update, state=to_json(State())),
        lambda update: replace(update, position=update.position + 1),
        lambda update: replace(update, step=update.step + 1),
        lambda update: replace(update, chunk=np.full(4, np.nan, np.float32).tobytes()),
        lambda update: replace(update, chunk=update.chunk + bytes(4)),
        lambda update: replace(update, chunk=bytes(300_000)),
        lambda update: replace(update, state=update.state.replace(HASH, JOB)),
    ],
)
def test_an_altered_update_is_rejected_and_the_right_one_still_accepted(alter):
    state, actions = run([join(ASH), begin(ASH), gradient(ASH, 0, 1, 2, 3, 4)])
    (update,) = updates(actions[-1], state, [actions[-1].mean.tobytes()])
    started, _ = read([begin(ASH)])

    after, (rejected,) = read([alter(update)], started)
    assert isinstance(rejected, Rejected)
    assert after == replace(started, next_offset=2)

    assert [type(action) for action in read([update], after)[1]] == [Closed]


def test_a_begin_by_a_stranger_is_rejected():
    assert [type(action) for action in read([begin(ASH, by="stranger")])[1]] == [Rejected]


def test_a_repeated_update_changes_nothing():
    log, _ = served()

    assert [type(action) for action in read([*log, *log])[1]] == [Begun, Closed, Closed]


def test_a_test_repeated_after_the_next_epoch_began_without_its_author_changes_nothing():
    log, _ = served()
    tested = outcome(ASH)
    before, _ = read([join(BIRCH), *log, tested, begin(BIRCH, epoch=1)])

    state, actions = read([tested], before)

    assert (state.tested, actions) == ({}, [])


def test_the_next_epoch_begins_with_the_sums_of_the_tests():
    log, _ = served()

    _, actions = read([*log, outcome(ASH, num_samples=4), begin(ASH, epoch=1)])

    assert actions[-1].tested.num_samples == 4


def test_an_update_with_tests_after_its_step_is_rejected():
    log, state = served(num_steps=1)
    tested, _ = run([outcome(ASH)], state)
    later = replace(log[1], state=to_json(replace(tested, next_offset=log[1].position)))

    _, (_, rejected) = read([log[0], replace(later, part=0, parts=1, chunk=log[1].chunk + log[2].chunk)])

    assert isinstance(rejected, Rejected)
