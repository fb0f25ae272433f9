"""Where a parameter server resumes, by its own log and by published checkpoints."""

import asyncio
import math
from dataclasses import replace

import pytest

from edged.domain.group import records as exchange_records
from edged.domain.group import state_json
from edged.domain.group.records import Begin, Contribution, Join, Update
from edged.domain.group.state import Member, State
from edged.domain.training.learner import Learner
from edged.domain.training.state import TrainState
from edged.ports import Message
from tests.support.fake_time import until
from tests.support.group_world import GRADIENTS, TRAIN, GroupWorld
from tests.support.holes import hide

pytestmark = pytest.mark.looptime


BEGIN = Begin(0, {"pi-a": 1.0}, {"pi-a": 9}, 50, "0" * 64, "pi-a")


def group(step: int, offset: int) -> State:
    """The state after `step` updates."""
    return State(step=step, end_step=50, next_offset=offset, begin=BEGIN, members={"pi-a": Member(missed=0)})


def update(step: int) -> Update:
    return Update(step - 1, 0, 1, (Contribution("pi-a", 0, 0.0, 0),), 7, state_json.to_json(group(step, 7)), b"")


def published(world: GroupWorld, step: int, offset: int) -> TrainState:
    """A member's state after `step` updates, at `offset` of the server's log."""
    state = Learner(world.training, world.model()).initial(world.job)
    at_offset = state_json.to_json(group(step, offset))
    return replace(state, position=replace(state.position, step=step), exchange=at_offset)


def join(world: GroupWorld, edge: str, step: int = 0) -> Join:
    return Join(edge, world.job, step, "0" * 64)


async def log(world: GroupWorld, topic: str, *records: exchange_records.Record) -> None:
    await world.log.append([Message(topic, exchange_records.encode(record)) for record in records])


async def serving(world: GroupWorld) -> int:
    """Start a server, and return the step at which it begins."""
    before = len(world.events("exchange.serving"))
    async with world.running(world.server()), asyncio.timeout(600):
        await until(lambda: len(world.events("exchange.serving")) > before)
    step: int = world.events("exchange.serving")[-1]["step"]
    return step


async def test_a_server_finds_its_last_update_however_often_members_have_joined_since(log_lines):
    world = GroupWorld(("pi-a",))
    await log(world, TRAIN, update(3), *[join(world, "pi-a")] * 400)
    assert await serving(world) == 3


async def test_a_server_finds_its_last_update_before_an_unreadable_record(log_lines):
    world = GroupWorld(("pi-a",))
    await log(world, TRAIN, update(3), join(world, "pi-a"))
    hide(world.log, TRAIN, {1: math.inf})
    assert await serving(world) == 3


async def test_a_server_whose_updates_were_deleted_resumes_from_a_published_checkpoint(log_lines):
    world = GroupWorld(("pi-a",))
    await log(world, TRAIN, *[join(world, "pi-a")] * 3)
    assert await serving(world) == 0
    await world.publisher().announce(published(world, 20, offset=2))
    assert await serving(world) == 20


async def test_an_update_is_preferred_to_a_checkpoint_of_an_earlier_offset(log_lines):
    world = GroupWorld(("pi-a",))
    await log(world, TRAIN, join(world, "pi-a"), update(30))
    await world.publisher().announce(published(world, 20, offset=1))
    assert await serving(world) == 30


async def test_an_update_before_an_accepted_offer_no_longer_counts(log_lines):
    world = GroupWorld(("pi-a",))
    await log(world, TRAIN, update(30))
    await world.publisher().offer(published(world, 20, offset=0), "pi-a", 1)
    await log(world, TRAIN, join(world, "pi-a", 20))
    assert await serving(world) == 20


async def test_a_server_resumes_from_an_offer_when_its_proposer_joins(log_lines):
    world = GroupWorld(("pi-a", "pi-b"))
    await log(world, TRAIN, update(30))
    async with world.running(world.server()), asyncio.timeout(600):
        await until(lambda: bool(world.events("exchange.serving")))
        await world.publisher().offer(published(world, 20, offset=0), "pi-a", 1)
        await log(world, GRADIENTS, join(world, "pi-b"))
        await until(lambda: len(world.log.records(TRAIN)) == 2)
        assert not world.events("exchange.adopted")
        await log(world, GRADIENTS, join(world, "pi-a", 20))
        await until(lambda: len(world.log.records(TRAIN)) == 3)
    assert [line["generation"] for line in world.events("exchange.adopted")] == [20]
    assert await serving(world) == 20


async def test_a_record_hidden_from_the_server_for_a_moment_is_not_lost(log_lines):
    world = GroupWorld(("pi-a", "pi-b", "pi-c"))
    joins = [Message(GRADIENTS, exchange_records.encode(join(world, edge))) for edge in world.edges]
    await world.log.append(joins)
    hide(world.log, GRADIENTS, {1: 3})
    async with world.running(world.server()), asyncio.timeout(60):
        await until(lambda: len(world.log.records(TRAIN)) == len(joins))
    assert [record.value for record in world.log.records(TRAIN)] == [message.value for message in joins]


async def test_a_server_whose_log_is_recreated_resumes_at_its_beginning(log_lines):
    world = GroupWorld(("pi-a", "pi-b"))
    first, second = (Message(GRADIENTS, exchange_records.encode(join(world, edge))) for edge in world.edges)
    await world.log.append([first, first])
    async with world.running(world.server()), asyncio.timeout(60):
        await until(lambda: len(world.log.records(TRAIN)) == 2)
        world.log.delete(GRADIENTS)
        await world.log.append([second])
        await until(lambda: len(world.log.records(TRAIN)) == 3)
    assert world.log.records(TRAIN)[-1].value == second.value
    assert [line["first_offset"] for line in world.events("exchange.log_lost")] == [0]
