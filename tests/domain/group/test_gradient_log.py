"""The fold of a group's log: which members it waits for, what closes a step, and that all readers get the same."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from edged.domain.group.gradient_log import MAX_DIVERGED_STEPS, MAX_NORM, fold, fold_blob
from edged.domain.group.records import MAX_CHUNK_BYTES, Close, Join, Leave, Part, decode
from edged.domain.group.state import (
    MAX_MISSED,
    Abandoned,
    Begun,
    Closed,
    CountedTest,
    Diverged,
    HeldOutSums,
    Late,
    Rejected,
    State,
)
from edged.domain.group.state_json import from_json, to_json
from edged.domain.training.learner import MAX_SLOWDOWNS
from edged.errors import FormatError, LogGap
from tests.support.histories import (
    EDGES,
    HASH,
    JOB,
    RULES,
    SERVER,
    begin,
    comparable,
    diverged,
    gradient,
    histories,
    join,
    outcome,
    part,
    run,
    run_blobs,
    started,
    vector,
)
from tests.support.properties import examples

ASH, BIRCH, CEDAR = EDGES


def closed_by(records, state):
    """The state after `records`, and the one step that they close."""
    state, actions = run(records, state)
    (closed,) = [action for action in actions if isinstance(action, Closed)]
    return state, closed


class TestAStep:
    def test_closes_when_the_last_expected_gradient_is_complete(self):
        state, actions = run([gradient(BIRCH, 0, 1), Close(1, ASH)], started(ASH, BIRCH))
        assert [type(action) for action in actions] == [Rejected]

        state, closed = closed_by([gradient(ASH, 0, 4, count=2)], state)

        assert (closed.step, closed.missing, state.step) == (0, (), 1)
        assert [each.edge for each in closed.contributions] == [ASH, BIRCH]
        np.testing.assert_array_equal(closed.mean, np.full(4, 3, np.float32))

    def test_has_a_read_only_float32_mean_weighted_by_samples(self):
        state = started(*EDGES)
        values = {edge: np.array([0.1, -3.3, 1e-7, 9000], np.float32) / (i + 3) for i, edge in enumerate(EDGES)}
        counts = {ASH: 7, BIRCH: 16, CEDAR: 3}

        _, closed = closed_by([gradient(e, 0, *values[e], count=counts[e]) for e in (CEDAR, ASH, BIRCH)], state)

        total = values[ASH] * np.float32(7)
        total = total + values[BIRCH] * np.float32(16)
        total = total + values[CEDAR] * np.float32(3)
        assert closed.mean.tobytes() == (total / np.float32(26)).tobytes()
        assert closed.mean.dtype == np.float32
        assert not closed.mean.flags.writeable

    def test_closes_without_missing_members_at_a_close(self):
        _, closed = closed_by([gradient(BIRCH, 0, 6), Close(0, BIRCH)], started(*EDGES))

        assert [each.edge for each in closed.contributions] == [BIRCH]
        assert closed.missing == (ASH, CEDAR)

    def test_closes_at_the_first_of_several_closes_also_the_servers(self):
        state, _ = closed_by([gradient(ASH, 0, 6), Close(0, SERVER), Close(0, ASH)], started(ASH, BIRCH))

        assert state.step == 1

    def test_does_not_close_without_a_gradient(self):
        state, actions = run([Close(0, ASH), gradient(ASH, 0, 1)], started(ASH, BIRCH))

        assert (actions, state.step) == ([], 0)

    def test_without_samples_has_no_mean(self):
        _, closed = closed_by([gradient(ASH, 0, count=0), gradient(BIRCH, 0, count=0)], started(ASH, BIRCH))

        assert closed.mean is None
        assert [each.count for each in closed.contributions] == [0, 0]

    def test_does_not_wait_for_a_member_without_samples_or_average_it(self):
        _, closed = closed_by([gradient(ASH, 0, count=0), gradient(BIRCH, 0, 5)], started(ASH, BIRCH))

        np.testing.assert_array_equal(closed.mean, np.full(4, 5, np.float32))

    def test_counts_the_first_gradient_of_an_edge(self):
        records = [gradient(ASH, 0, 1), gradient(ASH, 0, 9), gradient(ASH, 0, 1), gradient(BIRCH, 0, 1)]

        _, closed = closed_by(records, started(ASH, BIRCH))

        np.testing.assert_array_equal(closed.mean, np.ones(4, np.float32))

    def test_rejects_a_gradient_of_a_later_step(self):
        """Its author is ahead of the log, so it holds other weights."""
        state, actions = run([gradient(ASH, 1, 1), Close(0, ASH)], started(ASH, BIRCH))

        assert actions == [Rejected(ASH, "sends a gradient of a step that has not begun")]
        assert (state.gradients, state.step) == ({}, 0)


class TestAGradientInParts:
    def test_counts_once_all_parts_are_there_in_any_order_and_number(self):
        payload = vector(1, 2, 3, 4)
        pieces = [part(ASH, 0, payload, at=at, of=3) for at in (2, 0, 0, 2, 1)]

        state, actions = run(pieces[:-1], started(ASH))
        assert actions == []

        _, closed = closed_by(pieces[-1:], state)
        assert closed.mean.tobytes() == payload

    def test_is_replaced_by_a_new_attempt_while_incomplete(self):
        pieces = [part(ASH, 0, vector(value), at=at, of=2, attempt=value) for value, at in [(1, 0), (2, 1), (2, 0)]]

        _, closed = closed_by(pieces, started(ASH))

        assert closed.mean.tobytes() == vector(2)

    def test_is_never_assembled_from_two_attempts(self):
        pieces = [part(ASH, 0, vector(value), at=at, of=2, attempt=value) for value, at in [(1, 0), (2, 1), (1, 1)]]

        state, actions = run(pieces, started(ASH))

        assert (actions, state.gradients) == ([], {})

    def test_is_dropped_when_its_sender_restarts_or_leaves(self):
        first, second = (part(ASH, 0, vector(1), at=at, of=2) for at in (0, 1))

        for restart in ([join(ASH)], [Leave(ASH), join(ASH)]):
            state, actions = run([first, *restart, second], started(ASH, BIRCH))

            assert (actions, state.gradients) == ([], {})

    def test_counts_if_complete_before_its_sender_restarts(self):
        _, closed = closed_by([gradient(ASH, 0, 1), join(ASH), gradient(BIRCH, 0, 3)], started(ASH, BIRCH))

        assert [each.edge for each in closed.contributions] == [ASH, BIRCH]

    def test_does_not_count_if_incomplete_at_the_close(self):
        first, second = (part(ASH, 0, vector(1), at=at, of=2) for at in (0, 1))

        state, actions = run([first, gradient(BIRCH, 0, 3), Close(0, BIRCH), second], started(ASH, BIRCH))

        assert [type(action) for action in actions] == [Closed, Late]
        assert actions[0].missing == (ASH,)
        assert state.pending == {}


class TestALateGradient:
    def test_is_reported_once_with_its_attempt_and_its_speed_is_recorded(self):
        state, _ = run([gradient(BIRCH, 0, 1), Close(0, BIRCH)], started(ASH, BIRCH))
        late = replace(gradient(ASH, 0, 1), attempt="000000aa", samples_per_s=99.0)

        state, actions = run([late, late], state)

        assert actions == [Late(ASH, 0, "000000aa")]
        assert state.members[ASH].samples_per_s == 99

    def test_is_not_a_repeated_one_that_counted(self):
        records = [gradient(ASH, 0, 1), gradient(BIRCH, 0, 1), gradient(ASH, 0, 1)]

        _, actions = run(records, started(ASH, BIRCH))

        assert [type(action) for action in actions] == [Closed]

    def test_without_a_measured_speed_keeps_the_known_one(self):
        state, _ = run([gradient(ASH, 0, 1), replace(gradient(BIRCH, 0, 1), samples_per_s=0.0)], started(ASH, BIRCH))

        assert [state.members[edge].samples_per_s for edge in (ASH, BIRCH)] == [8, 0]


class TestAMember:
    def missing_two(self):
        """The state after ASH has missed two consecutive steps."""
        records = [gradient(BIRCH, 0, 1), Close(0, BIRCH), gradient(BIRCH, 1, 1), Close(1, BIRCH)]
        return run(records, started(ASH, BIRCH, num_steps=9))[0]

    def test_is_no_longer_expected_after_missing_two_consecutive_steps(self):
        state = self.missing_two()

        assert state.expected == (BIRCH,)
        _, closed = closed_by([gradient(BIRCH, 2, 1)], state)
        assert closed.missing == ()

    def test_is_expected_again_after_a_gradient_in_time(self):
        state, _ = run([gradient(ASH, 2, 1)], self.missing_two())
        assert (state.expected, state.step) == ((ASH, BIRCH), 2)

        state, _ = run([gradient(BIRCH, 2, 1), gradient(BIRCH, 3, 1)], state)
        assert state.step == 3

    def test_is_expected_again_after_a_gradient_one_step_late_but_not_two(self):
        state, _ = run([gradient(BIRCH, 2, 1)], self.missing_two())

        assert run([gradient(ASH, 1, 1)], state)[0].expected == (BIRCH,)
        assert run([gradient(ASH, 2, 1)], state)[0].expected == (ASH, BIRCH)

    def test_that_restarts_is_not_expected_until_its_next_gradient(self):
        state, _ = run([join(ASH)], started(ASH, BIRCH))
        assert state.expected == (BIRCH,)

        state, closed = closed_by([gradient(BIRCH, 0, 1)], state)
        assert closed.missing == ()

        state, _ = run([gradient(ASH, 1, 1)], state)
        assert state.expected == (ASH, BIRCH)

    def test_that_leaves_is_not_expected_and_its_leave_may_close_the_step(self):
        state, closed = closed_by([gradient(BIRCH, 0, 1), Leave(ASH)], started(ASH, BIRCH))

        assert (closed.missing, state.expected) == ((), (BIRCH,))

    def test_that_leaves_with_its_gradient_in_the_log_has_contributed(self):
        _, closed = closed_by([gradient(ASH, 0, 1), Leave(ASH), gradient(BIRCH, 0, 1)], started(ASH, BIRCH))

        assert [each.edge for each in closed.contributions] == [ASH, BIRCH]

    def test_that_has_left_must_join_before_its_gradients_count(self):
        state, actions = run([Leave(ASH), Leave(ASH), gradient(ASH, 0, 1)], started(ASH, BIRCH))
        assert actions == [Rejected(ASH, "has not joined")]

        state, actions = run([join(ASH), gradient(ASH, 0, 1)], state)
        assert set(state.gradients) == {ASH}

    def test_that_joins_in_mid_epoch_is_eligible_for_the_next(self):
        state, actions = run([join(CEDAR), gradient(CEDAR, 0, 1)], started(ASH, BIRCH))

        assert actions == [Rejected(CEDAR, "sends a gradient without being a member of the epoch")]
        assert state.expected == (ASH, BIRCH)
        assert state.eligible == (ASH, BIRCH, CEDAR)

    def test_that_is_absent_is_eligible_again_once_it_has_tested_or_rejoined(self):
        state = self.missing_two()
        state, _ = run([gradient(BIRCH, step, 1) for step in range(2, 9)], state)
        assert state.eligible == (BIRCH,)

        assert run([outcome(ASH)], state)[0].eligible == (ASH, BIRCH)
        assert run([join(ASH)], state)[0].eligible == (ASH, BIRCH)
        assert run([join(ASH), Leave(ASH)], state)[0].eligible == (BIRCH,)


class TestAnEpoch:
    def test_begins_with_members_that_joined_and_expects_them_all(self):
        state, actions = run([join(ASH), join(BIRCH), begin(ASH, BIRCH, num_steps=3)])

        assert actions == [Begun(begin(ASH, BIRCH, num_steps=3), HeldOutSums(0, 0, 0, 0.0))]
        assert (state.expected, state.step, state.epoch_first_step, state.end_step) == ((ASH, BIRCH), 0, 0, 3)

    def test_begins_with_the_first_begin(self):
        state, actions = run([begin(BIRCH, by=BIRCH)], started(ASH, BIRCH))

        assert (actions, state.expected) == ([], (ASH, BIRCH))

    @pytest.mark.parametrize(
        ("record", "reason"),
        [
            (begin(ASH, epoch=1), "out of turn"),
            (begin(ASH, CEDAR), "never joined"),
            (begin("stranger", by=ASH), "never joined"),
            (begin(ASH, by="stranger"), "not an edge"),
            (begin(ASH, by=CEDAR), "has not joined"),
        ],
    )
    def test_does_not_begin_out_of_turn_or_with_or_by_non_members(self, record, reason):
        state, (rejected,) = run([record], run([join(ASH), join(BIRCH)])[0])

        assert reason in rejected.reason
        assert state.begin is None

    def test_does_not_begin_while_the_previous_one_is_running(self):
        state, _ = run([gradient(ASH, 0, 1)], started(ASH))
        state, (rejected,) = run([begin(ASH, epoch=1)], state)
        assert "out of turn" in rejected.reason

        _, actions = run([gradient(ASH, 1, 1), begin(ASH, epoch=1)], state)
        assert [type(action) for action in actions] == [Closed, Begun]

    def test_begins_with_the_sums_of_the_previous_epochs_tests(self):
        over, _ = run([gradient(ASH, 0, 1), gradient(BIRCH, 0, 1)], started(ASH, BIRCH, num_steps=1))
        records: list[Any] = [
            outcome(BIRCH, num_samples=6),
            outcome(ASH),
            outcome(ASH, num_samples=99),
            begin(ASH, BIRCH, epoch=1),
        ]

        state, actions = run(records, over)

        assert actions[:2] == [CountedTest(records[0]), CountedTest(records[1])]
        assert actions[2].tested == HeldOutSums(num_members=2, num_samples=16, num_correct=8, loss=8.0)
        assert run([outcome(ASH)], state)[0].tested == {}, "one of the previous epoch is late"

    @pytest.mark.parametrize(("edge", "epoch"), [(ASH, 0), (ASH, 1), (CEDAR, 0)])
    def test_rejects_tests_before_its_end_or_by_non_members(self, edge, epoch):
        state, (rejected,) = run([outcome(edge, epoch)], run([join(CEDAR)], started(ASH, BIRCH))[0])

        assert isinstance(rejected, Rejected)
        assert state.tested == {}

    def test_ignores_gradients_after_its_end(self):
        state, actions = run([gradient(ASH, 0, 1), gradient(ASH, 1, 1)], started(ASH, num_steps=1))

        assert [type(action) for action in actions] == [Closed]
        assert state.gradients == {}

    def test_expects_its_absent_members_again(self):
        state, _ = run([gradient(BIRCH, 0, 1), Close(0, BIRCH), gradient(BIRCH, 1, 1), Close(1, BIRCH)],
                       started(ASH, BIRCH))  # fmt: skip

        assert run([begin(ASH, BIRCH, epoch=1, by=BIRCH)], state)[0].expected == (ASH, BIRCH)


class TestAnAbandonedEpoch:
    """CEDAR has joined since it began."""

    def joined(self, num_steps=5):
        return run([join(CEDAR)], started(ASH, BIRCH, num_steps=num_steps))[0]

    def test_is_abandoned_after_two_consecutive_empty_steps(self):
        state, (closed,) = run([Close(0, CEDAR)], self.joined())
        assert (closed.contributions, closed.mean, closed.missing, state.is_open) == ((), None, (ASH, BIRCH), True)

        state, (closed, abandoned) = run([Close(1, CEDAR)], state)
        assert closed.step == 1
        assert abandoned == Abandoned(epoch=0, steps_left=3)
        assert (state.is_open, state.expected, state.eligible) == (False, (), (CEDAR,))
        assert from_json(to_json(state)) == state

    def test_is_followed_by_the_next_at_the_step_where_it_was_abandoned(self):
        state, _ = run([Close(0, CEDAR), Close(1, CEDAR)], self.joined())

        state, actions = run([begin(CEDAR, epoch=1, num_steps=2)], state)

        assert [type(action) for action in actions] == [Begun]
        assert (state.epoch_first_step, state.step, state.end_step, state.is_open) == (2, 2, 4, True)

    def test_has_no_empty_step_by_a_member_the_server_or_an_edge_that_has_not_joined(self):
        state = started(ASH, BIRCH)
        for record in (Close(0, ASH), Close(0, SERVER), Close(0, CEDAR)):
            after, actions = run([record], state)

            assert after.step == 0
            assert not any(isinstance(action, Closed) for action in actions)

    def test_has_empty_steps_by_a_member_too_where_one_may_be_without_the_epochs_backend(self):
        named = replace(begin(ASH, BIRCH, num_steps=5), format=3, backend="compiled/1")
        state, _ = run([join(ASH), join(BIRCH), named])
        state, actions = run([join(ASH), Close(0, SERVER), Close(0, CEDAR), Close(0, ASH), Close(1, ASH)], state)

        assert [type(each) for each in actions if not isinstance(each, Rejected)] == [Closed, Closed, Abandoned]
        assert state.eligible == ()
        assert run([join(ASH)], state)[0].eligible == (ASH,)

    @pytest.mark.parametrize("sign", [gradient(ASH, 1, 1), gradient(BIRCH, 0, 1), join(ASH)])
    def test_continues_after_a_sign_of_life_of_a_member(self, sign):
        """A gradient in time, or one that was late for the empty step, or a restart."""
        records = [Close(0, CEDAR), sign, Close(1, CEDAR)]

        state, actions = run(records, self.joined())

        assert state.is_open
        assert not any(isinstance(action, Abandoned) for action in actions)
        assert run([Close(2, CEDAR), Close(3, CEDAR)], state)[0].is_abandoned

    def test_waits_two_steps_even_if_all_members_have_left(self):
        state, _ = run([Leave(ASH), Leave(BIRCH), Close(0, CEDAR)], self.joined())
        assert state.is_open

        assert run([Close(1, CEDAR)], state)[0].is_abandoned

    def test_ends_normally_when_no_steps_are_left(self):
        state, actions = run([Close(0, CEDAR), Close(1, CEDAR)], self.joined(num_steps=2))

        assert (state.is_open, state.is_abandoned) == (False, False)
        assert [type(action) for action in actions] == [Closed, Closed]

    def test_accepts_tests_of_members_that_return(self):
        state, _ = run([Close(0, CEDAR), Close(1, CEDAR), outcome(ASH)], self.joined())

        assert state.eligible == (ASH, CEDAR)


class TestADivergingGroup:
    def steps(self, *kinds, state=None):
        """Steps of ASH alone: "good", "empty" (no samples), or "diverged"."""
        state = state or started(ASH, num_steps=30)
        made = {"good": lambda step: gradient(ASH, step, 1), "empty": lambda step: gradient(ASH, step, count=0)}
        found = []
        for kind in kinds:
            state, actions = run([made.get(kind, lambda step: diverged(ASH, step))(state.step)], state)
            found += [action for action in actions if not isinstance(action, Closed)]
        return state, found

    def test_rolls_back_after_three_consecutive_diverged_steps(self):
        assert self.steps("diverged", "diverged")[1] == []
        assert self.steps("diverged", "diverged", "good", "diverged")[1] == []
        assert self.steps("diverged", "empty", "diverged", "diverged")[1] == [Diverged(continues=True)]

    def test_does_not_roll_back_while_others_have_useful_gradients(self):
        state = started(ASH, BIRCH)

        state, (closed,) = run([diverged(ASH, 0), gradient(BIRCH, 0, 3)], state)

        assert closed.mean is not None
        assert state.diverged_steps == 0

    def test_has_no_known_weights_after_a_rollback(self):
        state, _ = self.steps("diverged", "diverged")
        assert state.weights_by_edge == {ASH: HASH}

        assert self.steps("diverged", state=state)[0].weights_by_edge == {}

    def test_ends_training_at_the_fourth_consecutive_rollback(self):
        state, found = self.steps(*["diverged", "diverged", "diverged"] * 3)
        assert found == [Diverged(continues=True)] * 3

        state, found = self.steps("good", *["diverged"] * 3, state=state)
        assert found == [Diverged(continues=False)]
        assert (state.has_failed, state.is_open) == (True, False)
        assert from_json(to_json(state)) == state
        _, (rejected,) = run([begin(ASH, epoch=1)], state)
        assert rejected == Rejected(ASH, "begins an epoch though training has diverged too often")

    def test_resets_the_rollbacks_after_an_epoch_that_ended_well(self):
        for last, rollbacks in (("good", 0), ("diverged", 1)):
            state, _ = self.steps(*["diverged"] * 3, last, state=started(ASH, num_steps=4))

            assert run([begin(ASH, epoch=1)], state)[0].rollbacks == rollbacks


class TestARejectedRecord:
    @pytest.mark.parametrize(
        ("record", "reason"),
        [
            (gradient("stranger", 0, 1), "not an edge"),
            (join("stranger"), "not an edge"),
            (Close(0, "stranger"), "not an edge"),
            (Leave(SERVER), "not an edge"),
            (join(ASH, HASH), "another job"),
            (gradient(CEDAR, 0, 1), "has not joined"),
            (gradient(ASH, 0, np.nan), "not finite"),
            (gradient(ASH, 0, 0, np.inf), "not finite"),
            (gradient(ASH, 0, 0, -MAX_NORM * 1.001), "far too large"),
            (part(ASH, 0, vector(1) + vector(1)), "not float32 (4,)"),
            (part(ASH, 0, vector(1)[:8]), "not float32 (4,)"),
            (part(ASH, 0, b"\0" * 15), "not a row"),
            (part(ASH, 0, bytes(3 * MAX_CHUNK_BYTES), at=1, of=4), "more bytes than the model"),
        ],
    )
    def test_is_reported_with_its_author_and_changes_nothing(self, record, reason):
        before, _ = run([gradient(BIRCH, 0, 1)], started(ASH, BIRCH))

        state, (rejected,) = run([record], before)

        assert isinstance(rejected, Rejected)
        assert rejected.edge == record.edge
        assert reason in rejected.reason
        assert state == replace(before, next_offset=before.next_offset + 1)

    def test_is_reported_without_an_author_if_it_cannot_be_decoded(self):
        state, (rejected,) = fold_blob(fold, RULES, State(), b"garbage", 0)

        assert isinstance(rejected, Rejected)
        assert rejected.edge == ""
        assert state == State(next_offset=1)

    def test_does_not_keep_its_author_from_sending_a_valid_one(self):
        bad = part(ASH, 0, vector(np.nan), attempt=1)

        _, closed = closed_by([bad, gradient(ASH, 0, 2)], started(ASH))

        assert closed.mean.tobytes() == vector(2)


@pytest.mark.parametrize("offset", [0, 2, 100])
def test_a_gap_in_the_log_is_an_error(offset):
    with pytest.raises(LogGap) as caught:
        fold(RULES, State(next_offset=1), join(ASH), offset)
    assert (caught.value.expected, caught.value.found) == (1, offset)


# Over arbitrary histories.


@examples(100)
@given(histories())
def test_each_step_closes_once_and_each_gradient_counts_or_is_late_at_most_once(blobs):
    actions = [action for _, made in run_blobs(blobs) for action in made]

    closed = [action for action in actions if isinstance(action, Closed)]
    assert [each.step for each in closed] == list(range(len(closed)))
    of_edges = [(each.edge, step.step) for step in closed for each in step.contributions]
    of_edges += [(action.edge, action.step) for action in actions if isinstance(action, Late)]
    assert len(of_edges) == len(set(of_edges))


@examples(100)
@given(histories())
def test_an_epoch_is_abandoned_exactly_after_two_steps_without_a_sign_of_its_members(blobs):
    state, num_empty, since = State(), 0, dict.fromkeys(EDGES, 0)
    for blob, (after, actions) in zip(blobs, run_blobs(blobs), strict=True):
        if not any(isinstance(action, Rejected) for action in actions) and isinstance(readable(blob), Join):
            num_empty, since[readable(blob).edge] = 0, 0
        for action in actions:
            match action:
                case Begun():
                    num_empty, since = 0, dict.fromkeys(EDGES, 0)
                case Late():
                    num_empty = 0
                case Closed():
                    num_empty = 0 if action.contributions else num_empty + 1
                    contributed = {each.edge for each in action.contributions}
                    since = {edge: 0 if edge in contributed else since[edge] + 1 for edge in EDGES}
        is_abandoned = any(isinstance(action, Abandoned) for action in actions)
        assert is_abandoned == (after.is_abandoned and not state.is_abandoned)
        if is_abandoned:
            assert num_empty
            assert after.begin is not None
            assert min(since[edge] for edge in after.begin.members) >= MAX_MISSED
        assert num_empty < MAX_MISSED or not after.is_open
        state = after


@examples(100)
@given(histories())
def test_the_group_rolls_back_at_each_third_diverged_step_since_the_last_mean(blobs):
    state, diverged_steps, rollbacks = State(), 0, 0
    for blob, (after, actions) in zip(blobs, run_blobs(blobs), strict=True):
        have_diverged = {edge for edge, held_by in state.gradients.items() if held_by.is_diverged}
        record = readable(blob)
        if isinstance(record, Part) and record.is_diverged:
            have_diverged.add(record.edge)
        for action in actions:
            match action:
                case Begun():
                    rollbacks = rollbacks if diverged_steps else 0
                case Closed():
                    contributed = {each.edge for each in action.contributions}
                    is_diverged = action.mean is None and bool(have_diverged & contributed)
                    diverged_steps = diverged_steps + is_diverged if action.mean is None else 0
                    rolls_back = is_diverged and diverged_steps % MAX_DIVERGED_STEPS == 0
                    rollbacks += rolls_back
                    assert any(isinstance(each, Diverged) for each in actions) == rolls_back
                case Diverged():
                    assert action.continues == (rollbacks <= MAX_SLOWDOWNS)
        assert (after.diverged_steps, after.rollbacks) == (diverged_steps, rollbacks)
        state = after


@examples(100)
@given(histories())
def test_an_epoch_begins_with_the_weights_that_most_edges_reported(blobs):
    state, weights_by_edge = State(), {}
    for blob, (after, actions) in zip(blobs, run_blobs(blobs), strict=True):
        record = readable(blob)
        is_accepted = not any(isinstance(action, Rejected) for action in actions)
        if isinstance(record, Join) and is_accepted and record.step == state.step:
            weights_by_edge[record.edge] = record.weights
        for action in actions:
            match action:
                case Begun(begin) if weights_by_edge:
                    agree = [
                        sorted(edge for edge in weights_by_edge if weights_by_edge[edge] == each)
                        for each in set(weights_by_edge.values())
                    ]
                    assert begin.weights == weights_by_edge[min(agree, key=lambda edges: (-len(edges), edges))[0]]
                case CountedTest(tested):
                    weights_by_edge[tested.edge] = tested.weights
                case Closed() if action.mean is not None:
                    weights_by_edge = {}
                case Diverged():
                    weights_by_edge = {}
        assert after.weights_by_edge == weights_by_edge
        state = after


@examples(100)
@given(histories())
def test_a_step_is_the_weighted_mean_of_the_gradients_complete_before_its_close(blobs):
    reference = Reference()
    state = State()
    for blob, (after, actions) in zip(blobs, run_blobs(blobs), strict=True):
        record = readable(blob)
        whole = reference.take(record, state)
        for action in actions:
            if isinstance(action, Closed):
                assert {each.edge: each.count for each in action.contributions} == {e: c for e, (c, _) in whole.items()}
                assert same_mean(action.mean, [whole[edge] for edge in sorted(whole)])
                assert isinstance(record, Close) or set(action.missing) == set()
                assert not set(action.missing) & set(whole)
        if not actions:
            assert not state.is_open or set(after.gradients) == set(whole)
        state = after


def readable(blob):
    try:
        return decode(blob)
    except FormatError:
        return None


class Reference:
    """Complete gradients of the current step, found the simple way: from all parts since it began."""

    def __init__(self):
        self.step = (None, 0)
        self.seen = []

    def take(self, record, state):
        """By edge: the samples and values of its first complete gradient among the valid parts."""
        if self.step != (state.begin, state.step):
            self.step, self.seen = (state.begin, state.step), []
        self.seen.append((record, {edge for edge, member in state.members.items() if member.joined}))
        whole: dict[str, Any] = {}
        pieces: dict[str, dict[int, Part]] = {}
        for seen, joined in self.seen:
            edge = getattr(seen, "edge", "")
            if isinstance(seen, Leave) or (isinstance(seen, Join) and seen.job_digest == JOB):
                pieces.pop(edge, None)
            is_due = isinstance(seen, Part) and seen.step == state.step and state.is_open
            if not is_due or edge in whole or edge not in joined & set(state.begin.members):
                continue
            of_attempt = {at: p for at, p in pieces.get(edge, {}).items() if p.attempt == seen.attempt}
            of_attempt[seen.part] = seen
            payload = b"".join(of_attempt[at].chunk for at in sorted(of_attempt))
            if len(of_attempt) == seen.parts and seen.count and not is_valid(payload):
                continue
            pieces[edge] = of_attempt
            if len(of_attempt) == seen.parts:
                whole[edge] = (seen.count, np.frombuffer(payload, np.float32) if seen.count else None)
        return whole


def is_valid(payload):
    return len(payload) == 16 and bool((np.abs(np.frombuffer(payload, np.float32)) <= MAX_NORM).all())


def same_mean(mean, gradients):
    with_samples = [(count, values) for count, values in gradients if count]
    if not with_samples:
        return mean is None
    total = sum(count for count, _ in with_samples)
    exact = sum(count * values.astype(np.float64) for count, values in with_samples) / total
    return np.allclose(mean, exact, rtol=1e-6, atol=1e-6)


@examples(100)
@given(histories())
def test_a_rejected_record_changes_nothing_for_later_ones(blobs):
    state, rejected, expected = State(), [], []
    for after, actions in run_blobs(blobs):
        is_rejected = any(isinstance(action, Rejected) for action in actions)
        if is_rejected:
            assert len(actions) == 1
            assert after == replace(state, next_offset=after.next_offset)
        rejected.append(is_rejected)
        expected += [comparable(action) for action in actions if not is_rejected]
        state = after

    accepted = list(run_blobs([blob for blob, bad in zip(blobs, rejected, strict=True) if not bad]))

    assert [comparable(action) for _, actions in accepted for action in actions] == expected
    last = accepted[-1][0] if accepted else State()
    assert replace(last, next_offset=0, gradients={}) == replace(state, next_offset=0, gradients={})


def test_the_histories_contain_every_action():
    """Every action occurs in arbitrary histories: otherwise the properties above would prove nothing."""
    seen: set[Any] = set()

    @settings(max_examples=100, derandomize=True, database=None)
    @given(histories())
    def look(blobs):
        for _, actions in run_blobs(blobs):
            for action in actions:
                seen.add(type(action))
                if isinstance(action, Closed):
                    seen.add(("missing", bool(action.missing)))
                    seen.add(("several", len(action.contributions) > 1))
                    seen.add(("empty", action.mean is None))
                    seen.add(("without gradients", not action.contributions))
                if isinstance(action, Rejected) and "other weights" in action.reason:
                    seen.add("other weights")

    look()
    flags = {(name, value) for name in ("missing", "several", "empty", "without gradients") for value in (False, True)}
    assert seen == {Begun, Closed, Abandoned, Diverged, Late, CountedTest, Rejected, "other weights"} | flags
