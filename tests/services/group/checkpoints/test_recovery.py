"""Where members resume after their group lost its log."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace

import pytest

from edged.adapters.memory.log import MemoryLog
from edged.domain.group import records as exchange_records
from edged.domain.group.records import Begin, Part
from edged.domain.nn import param_vector
from edged.domain.topology import Exchange
from edged.domain.training import checkpoint
from edged.domain.training.state import TrainState
from edged.ports import Message, TopicPartition
from edged.services.group.checkpoints.recovery import Reason, Recovery, RecoveryNeeded
from edged.services.group.log.group_log import GroupAddress, GroupLog
from edged.services.group.trainer import GroupTrainer
from tests.support import group_checkpoints
from tests.support.fake_time import until
from tests.support.group_checkpoints import state
from tests.support.group_world import CHECKPOINTS, GRADIENTS, GROUP_TRAINING, TRAIN, GroupWorld, is_finished

pytestmark = pytest.mark.looptime

TWO, THREE = ("pi-a", "pi-b"), ("pi-a", "pi-b", "pi-c")
LONG = replace(GROUP_TRAINING, epochs=4, global_batch=16)  # seven steps an epoch
SERVED = replace(LONG, exchange=Exchange("parameter_server"))


def weights(*trainers: GroupTrainer) -> str:
    """The digest of the weights that they all have."""
    digests = {param_vector.digest(each.state.params) for each in trainers}
    assert len(digests) == 1
    return digests.pop()


async def trained_to(world: GroupWorld, step: int, *edges: str) -> None:
    """Start these edges, and stop them when all have reached the step."""
    trainers = [world.trainer(edge) for edge in edges]
    servers = [world.server()] if world.training.exchange.mode == "parameter_server" else []
    async with world.running(*trainers, *servers):
        await until(lambda: all(each.state.position.step >= step for each in trainers))


async def finished(world: GroupWorld, *edges: str) -> list[GroupTrainer]:
    """Start these edges, and let them train to the end."""
    trainers = [world.trainer(edge) for edge in edges]
    servers = [world.server()] if world.training.exchange.mode == "parameter_server" else []
    await world.finish(*trainers, servers=servers)
    return trainers


def cut(world: GroupWorld, *topics: str) -> None:
    """Delete all records, as retention does after a day."""
    for topic in topics:
        if records := world.log.records(topic):
            world.log.truncate(TopicPartition(topic), records[-1].offset + 1)


def recreate(world: GroupWorld, *topics: str) -> None:
    for topic in topics:
        if world.log.records(topic):
            world.log.delete(topic)


def newest(world: GroupWorld, *edges: str) -> int:
    """The step of the newest checkpoint that one of these edges has."""
    return max(max(world.hosts[edge].store.saved) for edge in edges)


def steps_of(world: GroupWorld, event: str, field: str = "generation") -> set[int]:
    return {line[field] for line in world.events(event)}


@pytest.mark.parametrize("lose", [cut, recreate])
@pytest.mark.parametrize("training", [LONG, SERVED], ids=["all_reduce", "parameter_server"])
@pytest.mark.parametrize("step", [3, 18], ids=["before the first published checkpoint", "after a published checkpoint"])
async def test_a_group_that_lost_its_log_while_it_was_stopped_resumes_from_its_members_newest_checkpoint(
    log_lines, training, lose, step
):
    world = GroupWorld(TWO, training=training)
    await trained_to(world, step, *TWO)
    lose(world, TRAIN, GRADIENTS)
    had = newest(world, *TWO)
    weights(*await finished(world, *TWO))
    assert max(steps_of(world, "exchange.offered")) == had
    assert steps_of(world, "exchange.adopted") == {had}
    assert [line["epoch"] for line in world.events("exchange.epoch")[-2:]] == [LONG.epochs - 1] * 2


@pytest.mark.parametrize("step", [3, 18], ids=["before the first published checkpoint", "after a published checkpoint"])
async def test_a_server_that_restarts_with_an_empty_log_does_not_start_over_with_the_old_gradients(log_lines, step):
    world = GroupWorld(TWO, training=SERVED)
    await trained_to(world, step, *TWO)
    recreate(world, TRAIN)
    had = newest(world, *TWO)
    weights(*await finished(world, *TWO))
    assert steps_of(world, "exchange.adopted") == {had}


@pytest.mark.parametrize("topics", [(TRAIN,), (TRAIN, GRADIENTS), (TRAIN, GRADIENTS, CHECKPOINTS)])
@pytest.mark.parametrize("training", [LONG, SERVED], ids=["all_reduce", "parameter_server"])
async def test_a_group_whose_topics_are_recreated_while_it_trains_continues(log_lines, training, topics):
    world = GroupWorld(THREE, training=training)
    lost_at: list[int] = []

    async def lose(part: Part) -> None:
        if part.step == 3 and not lost_at:
            lost_at.append(part.step)
            recreate(world, *topics)

    world.log.before_part = lose
    weights(*await finished(world, *THREE))
    [adopted] = steps_of(world, "exchange.adopted")
    assert adopted in {3, 4}  # a parameter server may close the step before its members find out
    assert world.events("exchange.offered")


async def test_a_late_member_with_a_newer_state_logs_what_is_lost_and_deploys_what_the_others_deploy(log_lines):
    world = GroupWorld(THREE, training=LONG)
    await trained_to(world, 9, *THREE)
    await trained_to(world, 15, "pi-c")
    older, newer = newest(world, *TWO), newest(world, "pi-c")
    recreate(world, TRAIN, CHECKPOINTS)
    has_come = asyncio.Event()

    async def stand_still(part: Part) -> None:
        if part.step > older:
            await has_come.wait()

    world.log.before_part = stand_still
    first, late = [world.trainer(edge) for edge in TWO], world.trainer("pi-c")
    async with world.running(*first):
        await until(lambda: all(each.state.position.step > older for each in first))
        async with world.running(late):
            await until(lambda: bool(world.events("exchange.set_back")))
            has_come.set()
            await until(lambda: all(is_finished(each) for each in (*first, late)))
    weights(*first, late)
    [set_back] = world.events("exchange.set_back")
    assert set_back.items() >= {"step": newer, "adopted_step": older, "steps": newer - older}.items()
    deployed = [line["generation"] for line in world.events("checkpoint.deployed")]
    assert deployed.count(14) >= len(THREE)  # once more if pi-c deployed its own, lost state before


async def test_members_that_start_together_resume_from_their_newest_state(log_lines):
    world = GroupWorld(THREE, training=LONG)
    await trained_to(world, 3, *THREE)
    await trained_to(world, 6, "pi-c")
    newer = newest(world, "pi-c")
    recreate(world, TRAIN, CHECKPOINTS)
    weights(*await finished(world, *THREE))
    assert steps_of(world, "exchange.adopted") == {newer}
    assert not world.events("exchange.set_back")


async def test_a_member_without_a_past_does_not_start_over_while_others_are_about_to_resume(log_lines):
    world = GroupWorld(THREE, training=LONG)
    await trained_to(world, 3, *TWO)
    recreate(world, TRAIN, CHECKPOINTS)
    had = newest(world, *TWO)
    weights(*await finished(world, *THREE))
    assert min(steps_of(world, "exchange.adopted")) == had
    written = [exchange_records.decode(record.value) for record in world.log.records(TRAIN)]
    assert min(record.epoch for record in written if isinstance(record, Begin)) > 0


async def test_members_without_a_past_begin_at_the_end_of_a_fully_deleted_log(log_lines):
    world = GroupWorld(TWO, training=LONG)
    await trained_to(world, 3, *TWO)
    cut(world, TRAIN, CHECKPOINTS)
    for edge in TWO:
        world.hosts[edge].store.saved.clear()
    weights(*await finished(world, *TWO))
    assert steps_of(world, "exchange.offered") == {0}


async def test_a_proposer_whose_accepted_offer_is_overwritten_by_a_newer_one_offers_it_again(log_lines, monkeypatch):
    world = GroupWorld(TWO, training=LONG)
    await trained_to(world, 3, *TWO)
    recreate(world, TRAIN, CHECKPOINTS)
    publisher = world.publisher()
    own = checkpoint.decode(max(world.hosts["pi-a"].store.saved.items())[1])
    newer = replace(own, position=replace(own.position, step=own.position.step + 2))
    append = world.log.append

    async def overwrite_after_join(messages: Sequence[Message]) -> list[int]:
        offsets = await append(messages)
        if messages[0].topic == TRAIN:
            await publisher.offer(newer, "pi-b", 0)
        return offsets

    monkeypatch.setattr(world.log, "append", overwrite_after_join)
    recovery = Recovery(world.log, world.topics, GroupLog(world.log, world.address("pi-a")), publisher)
    async with asyncio.timeout(600):
        found = await recovery.resume_from(RecoveryNeeded(Reason.LOG_LOST), own)
    assert found.position == own.position


async def test_members_without_a_past_do_not_wait_for_ever_for_a_proposer_that_died(log_lines):
    world = GroupWorld(THREE, training=LONG)
    await trained_to(world, 3, "pi-c")
    recreate(world, TRAIN, CHECKPOINTS)
    left = checkpoint.decode(max(world.hosts["pi-c"].store.saved.items())[1])
    await world.publisher().offer(left, "pi-c", offset=0)
    async with asyncio.timeout(3600):
        weights(*await finished(world, *TWO))
    assert steps_of(world, "exchange.adopted") == {left.position.step}


@pytest.mark.parametrize("training", [LONG, SERVED], ids=["all_reduce", "parameter_server"])
async def test_a_proposer_that_lost_what_it_offered_does_not_accept_it_by_joining_without_a_past(log_lines, training):
    """Another member has the newest state, and the offer is incomplete."""
    world = GroupWorld(TWO, training=training)
    await trained_to(world, 3, *TWO)
    recreate(world, TRAIN, GRADIENTS, CHECKPOINTS)
    left = checkpoint.decode(max(world.hosts["pi-a"].store.saved.items())[1])
    await world.publisher().offer(left, "pi-a", offset=0)
    await world.log.append([Message(CHECKPOINTS, b"torn", b"0/0")])
    world.hosts["pi-a"].store.saved.clear()
    had = newest(world, "pi-b")
    weights(*await finished(world, *TWO))
    assert steps_of(world, "exchange.adopted") == {had}


@pytest.mark.parametrize(
    ("is_fresh", "lose"), [(True, None), (True, cut), (False, None), (False, cut), (False, recreate)]
)
async def test_a_member_that_starts_after_the_last_epoch_deploys_what_the_others_have(log_lines, is_fresh, lose):
    world = GroupWorld(THREE, training=LONG)
    await trained_to(world, 3, *(TWO if is_fresh else THREE))
    trained = await finished(world, *TWO)
    if lose is not None:
        lose(world, TRAIN)
    trained += await finished(world, "pi-c")
    weights(*trained)
    ended = trained[0].state.position.step
    assert newest(world, "pi-c") == ended
    assert {host.store.newest_model() for host in world.hosts.values()} == {world.hosts["pi-a"].store.newest_model()}


def waiting_for_others(log: MemoryLog) -> Awaitable[TrainState]:
    """What a member with wrong weights resumes from, that of step 20 or later."""
    group_log = GroupLog(log, GroupAddress("pi-a", TWO, TRAIN, TRAIN))
    recovery = Recovery(log, group_checkpoints.TOPICS, group_log, group_checkpoints.publisher(log))
    return recovery.resume_from(RecoveryNeeded(Reason.WRONG_WEIGHTS, min_step=20), state(0))


async def test_a_member_with_wrong_weights_waits_for_a_checkpoint_that_is_new_enough(log):
    await group_checkpoints.publisher(log).announce(state(1))
    waiting = asyncio.ensure_future(waiting_for_others(log))
    await asyncio.sleep(30)
    assert not waiting.done()
    await group_checkpoints.publisher(log).announce(state(2))
    assert (await waiting).position.epoch == 2


async def test_the_first_checkpoint_that_is_new_enough_is_found_while_others_follow_all_the_time(log):
    async def announce() -> None:
        for epoch in range(1, 100):
            await group_checkpoints.publisher(log).announce(state(epoch))
            await asyncio.sleep(4)

    announcing = asyncio.create_task(announce())
    async with asyncio.timeout(60):
        assert (await waiting_for_others(log)).position.epoch == 2
    announcing.cancel()
