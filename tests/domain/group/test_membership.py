"""Each change of the absent members is reported once, when it happens."""

from hypothesis import given

from edged.domain.group.membership import LEFT, RESTARTED, SILENT, Change, absent, changes
from edged.domain.group.records import Close, Leave
from edged.domain.group.state import State
from tests.support.histories import EDGES, begin, gradient, histories, join, run, run_blobs, started
from tests.support.properties import examples

ASH, BIRCH, CEDAR = EDGES


def changes_of(records, state):
    """The changes that `records` make, one after the other, and the state after them."""
    found: list[Change] = []
    for record in records:
        before, (state, _) = state, run([record], state)
        found += changes(before, state)
    return found, state


def missing_two():
    return [gradient(BIRCH, 0, 1), Close(0, BIRCH), gradient(BIRCH, 1, 1), Close(1, BIRCH)]


def test_a_member_that_misses_two_steps_is_silent_until_its_next_gradient():
    found, state = changes_of(missing_two(), started(ASH, BIRCH, num_steps=9))
    assert found == [Change(ASH, SILENT)]

    assert changes_of([gradient(BIRCH, 2, 1), gradient(ASH, 3, 1)], state)[0] == [Change(ASH, "")]


def test_an_absent_member_is_expected_again_from_the_next_epoch_that_includes_it():
    found, _ = changes_of([*missing_two(), join(ASH), begin(ASH, BIRCH, epoch=1)], started(ASH, BIRCH))
    assert found == [Change(ASH, SILENT), Change(ASH, "")]

    assert changes_of([begin(BIRCH, epoch=1)], changes_of(missing_two(), started(ASH, BIRCH))[1])[0] == []


def test_leaving_or_restarting_is_reported_once_with_its_reason():
    found, _ = changes_of([Leave(ASH), Leave(ASH), join(ASH), gradient(ASH, 0, 1)], started(ASH, BIRCH))
    assert found == [Change(ASH, LEFT), Change(ASH, "")]

    found, _ = changes_of([join(ASH), join(ASH), join(CEDAR)], started(ASH, BIRCH))
    assert found == [Change(ASH, RESTARTED)]


def test_the_first_epoch_is_not_a_change():
    assert changes_of([join(ASH), join(BIRCH), begin(ASH, BIRCH)], State())[0] == []


@examples(100)
@given(histories())
def test_the_changes_add_up_to_the_absent_members(blobs):
    state = State()
    gone: set[str] = set()
    for after, _ in run_blobs(blobs):
        for edge, reason in changes(state, after):
            assert (edge in gone) != bool(reason)
            gone ^= {edge}
        gone &= set(after.begin.members) if after.begin else set()
        assert gone == set(absent(after))
        state = after
