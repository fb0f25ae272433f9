"""What the actions of a group's log do to one member."""

from dataclasses import replace

import numpy as np
import pytest

from edged.domain.group import compression
from edged.domain.group.records import Begin, Contribution
from edged.domain.group.state import Begun, Closed, Diverged, HeldOutSums, Rejected, State
from edged.domain.nn import param_vector
from edged.domain.nn.model import Division, Model
from edged.domain.nn.spec import Dense
from edged.domain.topology import Exchange, Sgd, Training
from edged.domain.training.learner import Learner
from edged.services.batches.batcher import MiniBatch
from edged.services.group.checkpoints.recovery import Reason, RecoveryNeeded
from edged.services.group.contribution import ContributionMaker, PendingGradient
from edged.services.group.member import Member
from edged.services.group.report import Traffic

TRAINING = Training("climate", (Dense(2),), optimizer=Sgd(0.5), exchange=Exchange("all_reduce"))
N = 8
ASH, BIRCH = "ash", "birch"
BEGIN = Begin(0, {ASH: 0.5, BIRCH: 0.5}, {"s": 10}, 4, "0" * 64, BIRCH)
GROUP = State(begin=BEGIN, end_step=4)
TESTED = HeldOutSums(2, 10, 5, 7.5)


def make() -> tuple[Member, ContributionMaker]:
    learner = Learner(TRAINING, Model((3,), TRAINING.model))
    contributions = ContributionMaker(TRAINING, learner, N, map)
    return Member(TRAINING, ASH, contributions, learner.initial("1" * 64)), contributions


def pending(member: Member, contributions: ContributionMaker, seed: int = 0) -> PendingGradient:
    """The member's contribution to the present step."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, 3)).astype(np.float32)
    batch = MiniBatch(x, rng.integers(0, 2, 4), np.arange(4), np.ones(4, np.float32))
    contributions.begin(member.state)
    return contributions.gradient(member.state, batch)


def closed(step: int, *edges: str, missing: tuple[str, ...] = ()) -> Closed:
    contributions = tuple(Contribution(edge, 2, 1.5, 1) for edge in edges)
    return Closed(step, np.ones(N, np.float32), contributions, missing)


def test_a_closed_step_changes_the_weights_and_is_remembered_without_its_mean():
    member, _ = make()
    before = param_vector.flatten(member.state.params).copy()
    member.apply(GROUP, closed(0, ASH, BIRCH))
    np.testing.assert_allclose(param_vector.flatten(member.state.params), before - 0.5, rtol=1e-6)
    assert member.state.position.step == 1
    assert (member.state.tally.num_samples, member.state.tally.num_correct, member.state.tally.loss) == (4, 2, 3.0)
    assert member.last is not None
    assert member.last.mean is None


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_pending_gradient_is_settled_by_its_step_and_kept_for_the_next_if_it_is_missing(is_counted):
    member, contributions = make()
    member.pending = first = pending(member, contributions)
    member.apply(GROUP, closed(0, *((ASH, BIRCH) if is_counted else (BIRCH,))))
    assert member.pending is None
    alone, fresh = make()
    alone.apply(GROUP, closed(0, ASH, BIRCH))
    later, expected = pending(member, contributions, 1), pending(alone, fresh, 1)
    vectors = [compression.decompress(each.blob, N) for each in (later, expected, first)]
    np.testing.assert_allclose(vectors[0], vectors[1] + (0 if is_counted else vectors[2]), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_another_step_stays_pending():
    member, contributions = make()
    member.pending = later = replace(pending(member, contributions), step=5)
    member.apply(GROUP, closed(0, BIRCH))
    assert member.pending is later


def test_only_a_rejected_record_of_its_own_drops_the_pending_gradient():
    member, contributions = make()
    member.pending = own = pending(member, contributions)
    member.apply(GROUP, Rejected(BIRCH, "wrong"))
    assert member.pending is own
    member.apply(GROUP, Rejected(ASH, "wrong"))
    assert member.pending is None


def test_an_epoch_begins_at_its_first_sample_on_the_snapshot_of_its_begin(log_lines):
    member, _ = make()
    member.apply(GROUP, closed(0, ASH))
    member.apply(GROUP, Begun(replace(BEGIN, epoch=3), TESTED))
    assert (member.state.position.epoch, member.state.position.sample) == (3, 0)
    assert member.state.ends == {"s": 10}
    assert [(line["epoch"], line["edge"]) for line in log_lines("exchange.begun")] == [(3, BIRCH)]


def test_an_ended_epoch_names_the_contributors_of_its_last_step_and_who_publishes_its_weights():
    member, _ = make()
    member.apply(GROUP, closed(0, ASH, BIRCH))
    traffic = Traffic(steps=4)
    ended = member.end_epoch(GROUP, TESTED, traffic, counts=True)
    assert (ended.members, ended.announcer, ended.traffic) == ((ASH, BIRCH), ASH, traffic)
    assert ended.weights == param_vector.digest(member.state.params)
    in_sync = replace(GROUP, weights_by_edge={BIRCH: ended.weights})
    assert member.end_epoch(in_sync, TESTED, traffic, counts=True).announcer == BIRCH


def test_an_epoch_that_does_not_count_has_a_number_and_no_metrics():
    member, _ = make()
    before = member.state.num_useless
    member.end_epoch(GROUP, TESTED, Traffic(), counts=False)
    assert (member.state.history, member.state.num_useless) == ((), before + 1)
    member.end_epoch(GROUP, TESTED, Traffic(), counts=True)
    assert (len(member.state.history), member.state.num_useless) == (1, before + 1)


def test_divergence_is_logged_and_drops_the_pending_gradient(log_lines):
    member, contributions = make()
    member.pending = pending(member, contributions)
    member.apply(GROUP, Diverged(True))
    assert member.pending is None
    assert [(line["slowdowns"], line["goes_on"]) for line in log_lines("train.diverged")] == [(1, True)]


def test_wrong_weights_need_recovery_from_the_present_step_on(log_lines):
    member, _ = make()
    member.apply(GROUP, closed(0, ASH))
    member.check_weights(param_vector.digest(member.state.params), BIRCH)
    assert log_lines("exchange.diverged") == []
    with pytest.raises(RecoveryNeeded) as need:
        member.check_weights("0" * 64, BIRCH)
    assert (need.value.reason, need.value.min_step) == (Reason.WRONG_WEIGHTS, 1)
    assert [line["edge"] for line in log_lines("exchange.diverged")] == [BIRCH]


def test_a_state_taken_over_keeps_this_members_division_into_lanes():
    member, contributions = make()
    member.state.division = Division(3, 8)
    member.pending = pending(member, contributions)
    member.apply(GROUP, closed(1, BIRCH))
    other = replace(make()[0].state, division=Division(1, 4))
    member.take_over(other)
    assert member.state is other
    assert other.division == Division(3, 8)
    assert member.pending is None
    assert member.last is None
