"""Each change of who is awaited is told once, when it happens."""

from hypothesis import given, settings

from edged.domain.group.membership import LEFT, RESTARTED, SILENT, Change, absent, changes
from edged.domain.group.records import Close, Leave
from edged.domain.group.state import State
from tests.support.histories import EDGES, begin, gradient, histories, join, run, run_blobs, started

ASH, BIRCH, CEDAR = EDGES


def weights_by_edge(records, state):
    """The changes that `records` make, one after the other, and the state behind them."""
    found: list[Change] = []
    for record in records:
        before, (state, _) = state, run([record], state)
        found += changes(before, state)
    return found, state


def missing_two():
    return [gradient(BIRCH, 0, 1), Close(0, BIRCH), gradient(BIRCH, 1, 1), Close(1, BIRCH)]


def test_who_misses_two_steps_is_silent_until_a_gradient_comes():
    found, state = weights_by_edge(missing_two(), started(ASH, BIRCH, num_steps=9))
    assert found == [Change(ASH, SILENT)]

    assert weights_by_edge([gradient(BIRCH, 2, 1), gradient(ASH, 3, 1)], state)[0] == [Change(ASH, "")]


def test_who_is_given_up_is_awaited_again_with_the_next_epoch_that_it_is_in():
    found, _ = weights_by_edge([*missing_two(), join(ASH), begin(ASH, BIRCH, epoch=1)], started(ASH, BIRCH))
    assert found == [Change(ASH, SILENT), Change(ASH, "")]

    assert weights_by_edge([begin(BIRCH, epoch=1)], weights_by_edge(missing_two(), started(ASH, BIRCH))[1])[0] == []


def test_who_leaves_or_starts_anew_is_told_with_the_reason_and_only_once():
    found, _ = weights_by_edge([Leave(ASH), Leave(ASH), join(ASH), gradient(ASH, 0, 1)], started(ASH, BIRCH))
    assert found == [Change(ASH, LEFT), Change(ASH, "")]

    found, _ = weights_by_edge([join(ASH), join(ASH), join(CEDAR)], started(ASH, BIRCH))
    assert found == [Change(ASH, RESTARTED)]


def test_the_first_epoch_is_no_change():
    assert weights_by_edge([join(ASH), join(BIRCH), begin(ASH, BIRCH)], State())[0] == []


@settings(deadline=None, max_examples=100)
@given(histories())
def test_the_changes_together_lead_to_who_is_absent(blobs):
    state = State()
    gone: set[str] = set()
    for behind, _ in run_blobs(blobs):
        for edge, reason in changes(state, behind):
            assert (edge in gone) != bool(reason)
            gone ^= {edge}
        gone &= set(behind.begin.members) if behind.begin else set()
        assert gone == set(absent(behind))
        state = behind
