"""Which member proposes the next epoch, and when."""

import numpy as np
import pytest

from edged.domain.archive.snapshot import Snapshot
from edged.domain.group.formats import Announcement
from edged.domain.group.state import State
from edged.domain.nn import param_vector
from edged.services.group.log.deadline import FIRST_DEADLINE_S
from edged.services.group.log.group_log import GroupAddress
from edged.services.group.proposal import Turn, proposal
from tests.support.group_world import GROUP_TRAINING
from tests.support.histories import EDGES, gradient, join, outcome, run, started

ASH, BIRCH, CEDAR = EDGES


def turn_of(edge: str, *, since: float = 0.0, joined_at: float = 0.0, test_s: float = 0.0) -> Turn:
    return Turn(GroupAddress(edge, EDGES, "train", "train"), since=since, joined_at=joined_at, test_s=test_s)


def joined(*edges: str) -> State:
    return run([join(edge) for edge in edges])[0]


def after_tests_of(*edges: str) -> State:
    """Three members after an epoch of one step; `edges` have tested."""
    steps = [gradient(edge, 0, 1.0) for edge in EDGES]
    return run([*steps, *(outcome(edge) for edge in edges)], started(*EDGES, num_steps=1))[0]


def proposals(turn: Turn, group: State, seconds: range) -> list[int]:
    """The seconds of these at which the member proposes."""
    proposed_at = []
    for now in seconds:
        if turn.is_ready(group, now) and turn.should_propose(group, now):
            turn.proposed(now)
            proposed_at.append(now)
    return proposed_at


def test_the_first_epoch_may_begin_as_soon_as_every_edge_has_joined():
    assert turn_of(ASH).is_ready(joined(*EDGES), 0)
    assert not turn_of(ASH).is_ready(joined(ASH, BIRCH), 0)


def test_edges_that_never_join_are_waited_for_until_the_deadline():
    turn = turn_of(ASH, joined_at=5)
    assert not turn.is_ready(joined(ASH), 5 + FIRST_DEADLINE_S - 1)
    assert turn.is_ready(joined(ASH), 5 + FIRST_DEADLINE_S)


def test_an_edge_that_has_not_joined_proposes_nothing():
    assert not turn_of(ASH).is_ready(joined(BIRCH, CEDAR), 1e6)


def test_the_next_epoch_may_begin_when_all_expected_members_have_tested():
    assert not turn_of(ASH).is_ready(after_tests_of(ASH, BIRCH), 1)
    assert turn_of(ASH).is_ready(after_tests_of(*EDGES), 1)


def test_a_missing_test_is_waited_for_by_the_duration_of_the_members_own():
    group = after_tests_of(ASH, BIRCH)
    quick, slow = turn_of(ASH, since=10, test_s=0.1), turn_of(ASH, since=10, test_s=4)
    assert next(now for now in range(10, 30) if quick.is_ready(group, now)) == 15
    assert next(now for now in range(10, 30) if slow.is_ready(group, now)) == 22


def test_an_epoch_that_could_begin_still_can_when_an_edge_joins():
    turn = turn_of(ASH)
    assert turn.is_ready(after_tests_of(*EDGES), 1)
    assert turn.is_ready(joined(ASH), 2)


def test_the_first_candidate_proposes_at_once_and_the_others_a_little_later():
    group = after_tests_of(*EDGES)
    assert proposals(turn_of(ASH), group, range(10)) == [0]
    assert proposals(turn_of(BIRCH), group, range(10)) == [2]


def test_nobody_proposes_before_the_epoch_may_begin():
    assert not turn_of(ASH).should_propose(after_tests_of(ASH), 0)


def test_a_proposal_without_effect_is_repeated():
    first, second = proposals(turn_of(ASH), after_tests_of(*EDGES), range(50))
    assert first == 0
    assert FIRST_DEADLINE_S <= second <= FIRST_DEADLINE_S + 1


@pytest.mark.parametrize(("can", "named"), [(4, {"_floor.ash": 1, "ash": 2}), (3, {"ash": 2})])
async def test_an_epoch_names_the_floors_of_its_snapshot_where_all_members_know_them(monkeypatch, can, named):
    """Others have all that is still kept."""
    group = joined(*EDGES)
    source, offset, rows, num_bytes = (np.array([value], np.int64) for value in (0, 1, 64, 64))
    snapshot = Snapshot(("ash",), source, offset, rows, num_bytes, {"_floor.ash": 1, "ash": 2})
    monkeypatch.setattr(param_vector, "digest", lambda _params: group.weights)
    announced = {edge: Announcement(can if edge == CEDAR else 4) for edge in EDGES}

    begin = await proposal(group, ASH, snapshot, GROUP_TRAINING, 0, {}, announced)

    assert begin is not None
    assert (begin.ends, begin.format) == (named, can)
