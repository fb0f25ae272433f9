"""The state of a group: its weights by majority, its immutability and its size."""

import pytest
from hypothesis import given

from edged.domain.group.state import Begun, Rejected
from tests.support.histories import (
    EDGES,
    HASH,
    JOB,
    WRONG,
    begin,
    comparable_gradients,
    gradient,
    histories,
    join,
    outcome,
    run,
    run_blobs,
    started,
)
from tests.support.properties import examples

ASH, BIRCH, CEDAR = EDGES


class TestTheGroupsWeights:
    def at_an_end(self, *edges: str):
        """The state after the first epoch's steps."""
        return run([gradient(edge, 0, 1) for edge in edges], started(*edges, num_steps=1))[0]

    @pytest.mark.parametrize(
        ("weights_by_edge", "weights", "in_sync"),
        [
            ({}, "", ()),
            ({BIRCH: WRONG}, WRONG, (BIRCH,)),
            ({BIRCH: WRONG, ASH: HASH}, HASH, (ASH,)),
            ({ASH: WRONG, BIRCH: HASH, CEDAR: HASH}, HASH, (BIRCH, CEDAR)),
            ({ASH: JOB, BIRCH: HASH, CEDAR: WRONG}, JOB, (ASH,)),
        ],
    )
    def test_are_those_that_most_edges_report_or_in_a_tie_the_first_edges(self, weights_by_edge, weights, in_sync):
        state, _ = run(
            [outcome(edge, weights=weights_by_edge[edge]) for edge in weights_by_edge], self.at_an_end(*EDGES)
        )

        assert (state.weights, state.in_sync) == (weights, in_sync)

    def test_are_those_that_an_epoch_begins_with_whoever_proposes_it(self):
        weights_by_edge = [outcome(ASH, weights=WRONG), outcome(BIRCH), outcome(CEDAR)]

        begins = [begin(*EDGES, epoch=1, weights=WRONG), begin(*EDGES, epoch=1, by=BIRCH)]
        _, (rejected, begun) = run(begins, run(weights_by_edge, self.at_an_end(*EDGES))[0])

        assert rejected == Rejected(ASH, "begins with other weights than the group's")
        assert begun.begin == begins[1]

    def test_are_the_begins_while_nobody_has_reported_any(self):
        _, actions = run([begin(ASH, epoch=1, weights=WRONG)], self.at_an_end(ASH))

        assert [type(action) for action in actions] == [Begun]

    def test_are_reported_by_joins_before_the_first_epoch(self):
        joined, _ = run([join(ASH, weights=WRONG), join(BIRCH), join(CEDAR)])

        state, (rejected,) = run([begin(ASH, weights=WRONG)], joined)

        assert isinstance(rejected, Rejected)
        assert run([begin(BIRCH, by=BIRCH)], state)[1] != []

    def test_are_reported_again_by_a_join_at_the_current_step_only(self):
        state, _ = run([outcome(ASH), join(ASH, step=0, weights=WRONG)], self.at_an_end(ASH, BIRCH))
        assert state.weights == HASH

        assert run([join(ASH, step=1, weights=WRONG)], state)[0].weights == WRONG

    def test_are_unknown_after_a_step_with_samples_and_unchanged_after_one_without(self):
        state = started(ASH)

        assert run([gradient(ASH, 0, count=0)], state)[0].weights_by_edge == {ASH: HASH}
        assert run([gradient(ASH, 0, 1)], state)[0].weights_by_edge == {}


@examples(100)
@given(histories())
def test_the_state_holds_at_most_a_gradient_or_an_incomplete_payload_per_member(blobs):
    for state, _ in run_blobs(blobs):
        members = set(state.begin.members) if state.begin else set()
        assert set(state.gradients) | set(state.pending) <= members <= set(EDGES)
        assert not set(state.gradients) & set(state.pending)
        assert all(len(parts) < 2 for parts in state.pending.values())
        assert set(state.members) | set(state.tested) <= set(EDGES)


@examples(100)
@given(histories())
def test_the_fold_never_changes_a_state_it_has_returned(blobs):
    kept = [(state, repr(state), comparable_gradients(state)) for state, _ in run_blobs(blobs)]

    for state, text, gradients in kept:
        assert (repr(state), comparable_gradients(state)) == (text, gradients)
