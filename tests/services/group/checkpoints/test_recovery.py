"""A group whose log is lost, and where its members go on."""

import asyncio
from dataclasses import replace

import pytest

from edged.domain.group import records as exchange_records
from edged.domain.group.records import Begin, Join, Part
from edged.domain.nn import param_vector
from edged.domain.topology import Exchange
from edged.domain.training import checkpoint
from edged.domain.training.state import TrainState
from edged.ports import Message, TopicPartition
from edged.services.group.checkpoints.recovery import refound
from edged.services.group.log.group_log import GroupAddress
from edged.services.group.trainer import GroupTrainer
from tests.support.group_world import CHECKPOINTS, GRADIENTS, GROUP_TRAINING, TRAIN, GroupWorld, is_finished, until

pytestmark = pytest.mark.looptime

TWO, THREE = ("pi-a", "pi-b"), ("pi-a", "pi-b", "pi-c")
LONG = replace(GROUP_TRAINING, epochs=4)
SERVED = replace(LONG, exchange=Exchange("parameter_server"))


def weights(*trainers: GroupTrainer) -> str:
    """The digest of the weights that they all have."""
    digests = {param_vector.digest(each.state.params) for each in trainers}
    assert len(digests) == 1
    return digests.pop()


async def trained_to(world: GroupWorld, step: int, *edges: str) -> None:
    """These are started, and stopped when they are that far."""
    trainers = [world.trainer(edge) for edge in edges]
    servers = [world.server()] if world.training.exchange.mode == "parameter_server" else []
    async with world.running(*trainers, *servers):
        await until(lambda: all(each.state.position.step >= step for each in trainers))


async def finished(world: GroupWorld, *edges: str) -> list[GroupTrainer]:
    """These are started, and train to the end."""
    trainers = [world.trainer(edge) for edge in edges]
    servers = [world.server()] if world.training.exchange.mode == "parameter_server" else []
    await world.finish(*trainers, servers=servers)
    return trainers


def cut(world: GroupWorld, *topics: str) -> None:
    """All is deleted, as after a day."""
    for topic in topics:
        if records := world.log.records(topic):
            world.log.truncate(TopicPartition(topic), records[-1].offset + 1)


def made_anew(world: GroupWorld, *topics: str) -> None:
    for topic in topics:
        if world.log.records(topic):
            world.log.delete(topic)


def newest(world: GroupWorld, *edges: str) -> int:
    """Steps of the newest checkpoint that one of these has."""
    return max(max(world.places[edge].store.saved) for edge in edges)


def steps_of(world: GroupWorld, event: str, field: str = "generation") -> set[int]:
    return {line[field] for line in world.events(event)}


@pytest.mark.parametrize("lose", [cut, made_anew])
@pytest.mark.parametrize("training", [LONG, SERVED], ids=["all_reduce", "parameter_server"])
@pytest.mark.parametrize("step", [5, 35], ids=["before anything was announced", "behind what was announced"])
async def test_a_group_that_lost_its_log_while_it_was_away_goes_on_from_the_newest_that_its_members_have(
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


@pytest.mark.parametrize("step", [5, 35], ids=["before anything was announced", "behind what was announced"])
async def test_a_server_that_comes_back_to_an_empty_log_of_its_own_does_not_begin_anew_with_the_old_gradients(
    log_lines, step
):
    world = GroupWorld(TWO, training=SERVED)
    await trained_to(world, step, *TWO)
    made_anew(world, TRAIN)
    had = newest(world, *TWO)
    weights(*await finished(world, *TWO))
    assert steps_of(world, "exchange.adopted") == {had}


@pytest.mark.parametrize("topics", [(TRAIN,), (TRAIN, GRADIENTS), (TRAIN, GRADIENTS, CHECKPOINTS)])
@pytest.mark.parametrize("training", [LONG, SERVED], ids=["all_reduce", "parameter_server"])
async def test_a_group_whose_topics_are_made_anew_while_it_trains_goes_on(log_lines, training, topics):
    world = GroupWorld(THREE, training=training)
    lost_at: list[int] = []

    async def lose(part: Part) -> None:
        if part.step == 6 and not lost_at:
            lost_at.append(part.step)
            made_anew(world, *topics)

    world.log.before_part = lose
    weights(*await finished(world, *THREE))
    [adopted] = steps_of(world, "exchange.adopted")
    assert adopted in {6, 7}  # a parameter server may close the step before its members find out
    assert world.events("exchange.offered")


async def test_whoever_comes_later_with_something_newer_says_what_is_lost_and_deploys_what_the_others_do(log_lines):
    world = GroupWorld(THREE, training=LONG)
    await trained_to(world, 18, *THREE)
    await trained_to(world, 30, "pi-c")
    older, newer = newest(world, *TWO), newest(world, "pi-c")
    made_anew(world, TRAIN, CHECKPOINTS)
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
    assert deployed.count(28) >= len(THREE)  # once more where pi-c had come to deploy its own, which is lost


async def test_of_members_that_come_together_the_newest_state_counts(log_lines):
    world = GroupWorld(THREE, training=LONG)
    await trained_to(world, 5, *THREE)
    await trained_to(world, 12, "pi-c")
    newer = newest(world, "pi-c")
    made_anew(world, TRAIN, CHECKPOINTS)
    weights(*await finished(world, *THREE))
    assert steps_of(world, "exchange.adopted") == {newer}
    assert not world.events("exchange.set_back")


async def test_a_member_without_a_past_does_not_begin_anew_while_others_are_about_to_go_on(log_lines):
    world = GroupWorld(THREE, training=LONG)
    await trained_to(world, 5, *TWO)
    made_anew(world, TRAIN, CHECKPOINTS)
    had = newest(world, *TWO)
    weights(*await finished(world, *THREE))
    assert min(steps_of(world, "exchange.adopted")) == had
    said = [exchange_records.decode(record.value) for record in world.log.records(TRAIN)]
    assert min(record.epoch for record in said if isinstance(record, Begin)) > 0


async def test_members_that_have_nothing_begin_where_a_log_of_which_all_was_deleted_goes_on(log_lines):
    world = GroupWorld(TWO, training=LONG)
    await trained_to(world, 5, *TWO)
    cut(world, TRAIN, CHECKPOINTS)
    for edge in TWO:
        world.places[edge].store.saved.clear()
    weights(*await finished(world, *TWO))
    assert steps_of(world, "exchange.offered") == {0}


async def test_a_founder_whose_offer_is_written_over_as_it_joins_by_one_with_a_newer_state_offers_it_again(log_lines):
    world = GroupWorld(TWO, training=LONG)
    await trained_to(world, 5, *TWO)
    made_anew(world, TRAIN, CHECKPOINTS)
    announcements = world.announcements()
    own = checkpoint.decode(max(world.places["pi-a"].store.saved.items())[1])
    newer = replace(own, position=replace(own.position, step=own.position.step + 2))

    async def join(state: TrainState) -> None:
        joined = Join("pi-a", world.job, state.position.step, param_vector.digest(state.params))
        await world.log.append([Message(TRAIN, exchange_records.encode(joined))])
        await announcements.offer(newer, "pi-b", place=0)

    async with asyncio.timeout(600):
        found = await refound(announcements, GroupAddress("pi-a", TWO, TRAIN, TRAIN), own, join)
    assert found.position == own.position


async def test_members_that_have_nothing_do_not_wait_for_ever_for_one_that_died_behind_its_offer(log_lines):
    world = GroupWorld(THREE, training=LONG)
    await trained_to(world, 5, "pi-c")
    made_anew(world, TRAIN, CHECKPOINTS)
    left = checkpoint.decode(max(world.places["pi-c"].store.saved.items())[1])
    await world.announcements().offer(left, "pi-c", place=0)
    async with asyncio.timeout(3600):
        weights(*await finished(world, *TWO))
    assert steps_of(world, "exchange.adopted") == {left.position.step}


@pytest.mark.parametrize("training", [LONG, SERVED], ids=["all_reduce", "parameter_server"])
async def test_a_founder_that_has_lost_what_it_offered_founds_nothing_by_joining_without_a_past(log_lines, training):
    """Another one has the newest state, and the offer is not whole any more."""
    world = GroupWorld(TWO, training=training)
    await trained_to(world, 5, *TWO)
    made_anew(world, TRAIN, GRADIENTS, CHECKPOINTS)
    left = checkpoint.decode(max(world.places["pi-a"].store.saved.items())[1])
    await world.announcements().offer(left, "pi-a", place=0)
    await world.log.append([Message(CHECKPOINTS, b"torn", b"0/0")])
    world.places["pi-a"].store.saved.clear()
    had = newest(world, "pi-b")
    weights(*await finished(world, *TWO))
    assert steps_of(world, "exchange.adopted") == {had}


@pytest.mark.parametrize(
    ("is_fresh", "lose"), [(True, None), (True, cut), (False, None), (False, cut), (False, made_anew)]
)
async def test_who_comes_when_all_is_trained_keeps_and_deploys_what_the_others_have(log_lines, is_fresh, lose):
    world = GroupWorld(THREE, training=LONG)
    await trained_to(world, 5, *(TWO if is_fresh else THREE))
    trained = await finished(world, *TWO)
    if lose is not None:
        lose(world, TRAIN)
    trained += await finished(world, "pi-c")
    weights(*trained)
    ended = trained[0].state.position.step
    assert newest(world, "pi-c") == ended
    assert {place.store.newest_model() for place in world.places.values()} == {
        world.places["pi-a"].store.newest_model()
    }
