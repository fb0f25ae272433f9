"""One member that follows its group's log."""

from dataclasses import replace

import pytest

from edged.domain.group import gradient_log, state_json
from edged.domain.group.records import Begin, Join, Leave, Record, encode
from edged.domain.group.state import State
from edged.domain.nn import param_vector
from edged.domain.training.learner import Learner
from edged.domain.training.state import TrainState
from edged.ports import Message, TopicPartition
from edged.services.group.checkpoints.recovery import Reason, Recovery, RecoveryNeeded
from edged.services.group.contribution import ContributionMaker, PendingGradient
from edged.services.group.follower import Follower
from edged.services.group.liveness import Liveness
from edged.services.group.log.group_log import GroupLog
from edged.services.group.member import Member
from tests.support.group_world import TRAIN, GroupWorld

pytestmark = pytest.mark.looptime

EDGE, OTHER = "pi-a", "pi-b"


def follower(world: GroupWorld, *, exchange: str = "") -> Follower:
    """The follower of `EDGE`, at the log position in `exchange`."""
    learner = Learner(world.training, world.model())
    rules, publisher, group_log = world.rules(""), world.publisher(), GroupLog(world.log, world.address(EDGE))
    contributions = ContributionMaker(world.training, learner, rules.num_parameters, map)
    return Follower(
        group_log,
        rules,
        gradient_log.fold,
        Member(world.training, EDGE, contributions, replace(learner.initial(world.job), exchange=exchange)),
        world.checkpointing(EDGE),
        publisher,
        Recovery(world.log, world.topics, group_log, publisher),
        world.hosts[EDGE].health,
        Liveness(),
    )


async def write(world: GroupWorld, *records: Record) -> None:
    await world.log.append([Message(TRAIN, encode(record)) for record in records])


def join(world: GroupWorld, edge: str, state: TrainState) -> Join:
    return Join(edge, world.job, 0, param_vector.digest(state.params))


async def test_records_are_folded_and_the_position_is_stored_with_the_weights(log_lines):
    world = GroupWorld()
    following = follower(world)
    await write(world, join(world, EDGE, following.state), join(world, OTHER, following.state), Leave(OTHER))
    async with following.open():
        await following.catch_up()
        assert {edge: member.joined for edge, member in following.group.members.items()} == {EDGE: True, OTHER: False}
        assert following.running == -1
    assert state_json.from_json(following.state.exchange).next_offset == 3


async def test_a_contribution_of_the_only_member_closes_the_step(log_lines):
    world = GroupWorld((EDGE,))
    following = follower(world)
    async with following.open():
        await following.join()
        weights = param_vector.digest(following.state.params)
        await following.propose(Begin(0, {EDGE: 1.0}, {EDGE: 9}, 5, weights, EDGE))
        await following.contribute(PendingGradient(0, b"", 0, 0.0, 0), 0.0)
        await following.drain()
        while following.group.step == 0:
            await following.poll(1.0)
        assert following.begin.epoch == following.running == 0
        assert following.last_closed is not None
        assert [each.edge for each in following.last_closed.contributions] == [EDGE]
    assert following.state.position.step == 1


@pytest.mark.parametrize("exchange", [state_json.to_json(State(next_offset=1)), "not a state"])
async def test_a_log_that_cannot_be_continued_needs_recovery(log_lines, exchange):
    """The position is deleted, or cannot be read."""
    world = GroupWorld()
    following = follower(world, exchange=exchange)
    await write(world, *[join(world, OTHER, following.state)] * 3)
    world.log.truncate(TopicPartition(TRAIN), 2)
    with pytest.raises(RecoveryNeeded) as need:
        async with following.open():
            pass
    assert need.value.reason is Reason.LOG_LOST
    assert len(world.events("exchange.log_lost")) == 1


async def test_records_deleted_while_the_log_is_followed_need_recovery(log_lines):
    world = GroupWorld()
    following = follower(world)
    await write(world, *[join(world, OTHER, following.state)] * 9)

    async def follow() -> None:
        async with following.open():
            await following.poll(1.0)
            await write(world, *[join(world, OTHER, following.state)] * 9)
            world.log.truncate(TopicPartition(TRAIN), 17)
            await following.catch_up()

    with pytest.raises(RecoveryNeeded) as need:
        await follow()
    assert need.value.reason is Reason.LOG_LOST
    assert state_json.from_json(following.state.exchange).next_offset == 8


async def test_a_begin_with_other_weights_needs_recovery(log_lines):
    world = GroupWorld()
    following = follower(world)
    await write(world, Join(OTHER, world.job, 0, "0" * 64), Begin(0, {OTHER: 1.0}, {OTHER: 9}, 5, "0" * 64, OTHER))
    with pytest.raises(RecoveryNeeded) as need:
        async with following.open():
            await following.catch_up()
    assert (need.value.reason, need.value.min_step) == (Reason.WRONG_WEIGHTS, 0)
    assert state_json.from_json(following.state.exchange).next_offset == 1


async def test_a_known_checkpoint_is_adopted_at_once_and_saved(log_lines):
    world = GroupWorld()
    following = follower(world)
    position = replace(following.state.position, epoch=1, step=14)
    exchange = state_json.to_json(State(next_offset=7))
    checkpoint = replace(
        Learner(world.training, world.model()).initial(world.job), position=position, exchange=exchange
    )
    await following.resume(RecoveryNeeded(Reason.SUPERSEDED, checkpoint=checkpoint))
    assert following.state is checkpoint
    assert list(world.hosts[EDGE].store.saved) == [14]
    assert world.hosts[EDGE].store.newest_model() is not None
    assert ("degraded", "exchange") not in world.hosts[EDGE].health.history
