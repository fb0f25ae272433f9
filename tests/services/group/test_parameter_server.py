"""Where a parameter server goes on, by what its own log says."""

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
from tests.support.group_world import GRADIENTS, TRAIN, GroupWorld, until
from tests.support.holes import hide

pytestmark = pytest.mark.looptime


BEGIN = Begin(0, {"pi-a": 1.0}, {"pi-a": 9}, 50, "0" * 64, "pi-a")


def group(step: int, offset: int) -> State:
    """The state behind so many steps."""
    return State(step=step, end_step=50, next_offset=offset, begin=BEGIN, members={"pi-a": Member(missed=0)})


def update(step: int) -> Update:
    return Update(step - 1, 0, 1, (Contribution("pi-a", 0, 0.0, 0),), 7, state_json.to_json(group(step, 7)), b"")


def announced(world: GroupWorld, step: int, offset: int) -> TrainState:
    """A member's state behind so many steps, with its place in the server's log."""
    state = Learner(world.training, world.model()).initial(world.job)
    place = state_json.to_json(group(step, offset))
    return replace(state, position=replace(state.position, step=step), exchange=place)


def join(world: GroupWorld, edge: str, step: int = 0) -> Join:
    return Join(edge, world.job, step, "0" * 64)


async def log(world: GroupWorld, topic: str, *records: exchange_records.Record) -> None:
    await world.log.append([Message(topic, exchange_records.encode(record)) for record in records])


async def serving(world: GroupWorld) -> int:
    """The step at which a server begins that starts now."""
    before = len(world.events("exchange.serving"))
    async with world.running(world.server()), asyncio.timeout(600):
        await until(lambda: len(world.events("exchange.serving")) > before)
    step: int = world.events("exchange.serving")[-1]["step"]
    return step


async def test_a_server_finds_its_last_update_however_often_members_have_joined_since(log_lines):
    world = GroupWorld(("pi-a",))
    await log(world, TRAIN, update(3), *[join(world, "pi-a")] * 400)
    assert await serving(world) == 3


async def test_a_server_finds_its_last_update_in_front_of_what_cannot_be_read(log_lines):
    world = GroupWorld(("pi-a",))
    await log(world, TRAIN, update(3), join(world, "pi-a"))
    hide(world.log, TRAIN, {1: math.inf})
    assert await serving(world) == 3


async def test_a_server_whose_updates_were_deleted_goes_on_from_what_a_member_announced(log_lines):
    world = GroupWorld(("pi-a",))
    await log(world, TRAIN, *[join(world, "pi-a")] * 3)
    assert await serving(world) == 0
    await world.publisher().announce(announced(world, 20, offset=2))
    assert await serving(world) == 20


async def test_an_update_in_the_log_comes_before_what_was_announced_in_front_of_it(log_lines):
    world = GroupWorld(("pi-a",))
    await log(world, TRAIN, join(world, "pi-a"), update(30))
    await world.publisher().announce(announced(world, 20, offset=1))
    assert await serving(world) == 30


async def test_an_update_from_before_the_log_was_founded_anew_counts_no_more(log_lines):
    world = GroupWorld(("pi-a",))
    await log(world, TRAIN, update(30))
    await world.publisher().offer(announced(world, 20, offset=0), "pi-a", 1)
    await log(world, TRAIN, join(world, "pi-a", 20))
    assert await serving(world) == 20


async def test_a_server_goes_on_from_an_offer_when_its_founder_joins(log_lines):
    world = GroupWorld(("pi-a", "pi-b"))
    await log(world, TRAIN, update(30))
    async with world.running(world.server()), asyncio.timeout(600):
        await until(lambda: bool(world.events("exchange.serving")))
        await world.publisher().offer(announced(world, 20, offset=0), "pi-a", 1)
        await log(world, GRADIENTS, join(world, "pi-b"))
        await until(lambda: len(world.log.records(TRAIN)) == 2)
        assert not world.events("exchange.adopted")
        await log(world, GRADIENTS, join(world, "pi-a", 20))
        await until(lambda: len(world.log.records(TRAIN)) == 3)
    assert [line["generation"] for line in world.events("exchange.adopted")] == [20]
    assert await serving(world) == 20


async def test_a_record_that_is_hidden_from_the_server_for_a_moment_is_not_lost(log_lines):
    world = GroupWorld(("pi-a", "pi-b", "pi-c"))
    joins = [Message(GRADIENTS, exchange_records.encode(join(world, edge))) for edge in world.edges]
    await world.log.append(joins)
    hide(world.log, GRADIENTS, {1: 3})
    async with world.running(world.server()), asyncio.timeout(60):
        await until(lambda: len(world.log.records(TRAIN)) == len(joins))
    assert [record.value for record in world.log.records(TRAIN)] == [message.value for message in joins]


async def test_a_server_whose_log_is_made_anew_goes_on_where_it_begins(log_lines):
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
