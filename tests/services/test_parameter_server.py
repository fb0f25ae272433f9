"""Where a parameter server goes on, by what its own log says."""

import asyncio

import pytest

from edged.domain import exchange_records, gradient_log
from edged.domain.exchange_records import Begin, Contribution, Join, Update
from edged.domain.gradient_log import Member, State
from edged.ports import Message
from tests.services.group_world import GRADIENTS, TRAIN, GroupWorld, until
from tests.services.holes import hide

pytestmark = pytest.mark.looptime


async def test_a_server_finds_its_last_update_however_often_members_have_joined_since(log_lines):
    world = GroupWorld(("pi-a",))
    begin = Begin(0, {"pi-a": 1.0}, {"pi-a": 9}, 5, "0" * 64, "pi-a")
    behind = State(step=3, end_step=5, next_offset=7, begin=begin, members={"pi-a": Member(missed=0)})
    update = Update(2, 0, 1, (Contribution("pi-a", 0, 0.0, 0),), 7, gradient_log.to_json(behind), b"")
    said: list[exchange_records.Record] = [update, *[Join("pi-a", world.job)] * 400]
    await world.log.append([Message(TRAIN, exchange_records.encode(record)) for record in said])
    async with world.running(world.server()), asyncio.timeout(60):
        await until(lambda: bool(world.events("exchange.serving")))
    assert [line["step"] for line in world.events("exchange.serving")] == [3]


async def test_a_record_that_is_hidden_from_the_server_for_a_moment_is_not_lost(log_lines):
    world = GroupWorld(("pi-a", "pi-b", "pi-c"))
    joins = [Message(GRADIENTS, exchange_records.encode(Join(edge, world.job))) for edge in world.edges]
    await world.log.append(joins)
    hide(world.log, GRADIENTS, {1: 3})
    async with world.running(world.server()), asyncio.timeout(60):
        await until(lambda: len(world.log.records(TRAIN)) == len(joins))
    assert [record.value for record in world.log.records(TRAIN)] == [message.value for message in joins]


async def test_a_server_whose_log_is_made_anew_goes_on_where_it_begins(log_lines):
    world = GroupWorld(("pi-a", "pi-b"))
    first, second = (Message(GRADIENTS, exchange_records.encode(Join(edge, world.job))) for edge in world.edges)
    await world.log.append([first, first])
    async with world.running(world.server()), asyncio.timeout(60):
        await until(lambda: len(world.log.records(TRAIN)) == 2)
        world.log.delete(GRADIENTS)
        await world.log.append([second])
        await until(lambda: len(world.log.records(TRAIN)) == 3)
    assert world.log.records(TRAIN)[-1].value == second.value
    assert [line["first_offset"] for line in world.events("exchange.log_lost")] == [0]
