"""Where a parameter server goes on, by what its own log says."""

import asyncio

import pytest

from edged.domain import exchange_records, gradient_log
from edged.domain.exchange_records import Begin, Contribution, Join, Update
from edged.domain.gradient_log import Member, State
from edged.ports import Message
from tests.services.group_world import TRAIN, GroupWorld, until

pytestmark = pytest.mark.looptime


async def test_a_server_finds_its_last_update_however_often_members_have_joined_since(log_lines):
    world = GroupWorld(("pi-a",))
    begin = Begin(0, {"pi-a": 1.0}, {"pi-a": 9}, 5, "0" * 64, "pi-a")
    behind = State(step=3, end_step=5, next_offset=7, begin=begin, members={"pi-a": Member(missed=0)})
    update = Update(2, 0, 1, (Contribution("pi-a", 0, 0.0, 0),), 7, gradient_log.to_json(behind), b"")
    said: list[exchange_records.Record] = [update, *[Join("pi-a", world.job, 3, "0" * 64)] * 400]
    await world.log.append([Message(TRAIN, exchange_records.encode(record)) for record in said])
    async with world.running(world.server()), asyncio.timeout(60):
        await until(lambda: bool(world.events("exchange.serving")))
    assert [line["step"] for line in world.events("exchange.serving")] == [3]
