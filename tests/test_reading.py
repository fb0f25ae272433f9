"""Reading to the end that a log has now, and back from there."""

import asyncio

import pytest

from edged.adapters.memory.log import MemoryLog
from edged.ports import Message, Record, TopicPartition
from edged.reading import Partitions, newest, read_to_end

pytestmark = pytest.mark.looptime

GARDEN = TopicPartition("garden")


async def numbered(log: MemoryLog, *numbers: int) -> None:
    await log.append([Message(GARDEN.topic, b"%d" % number) for number in numbers])


async def to_end(log: MemoryLog, start: int = 0, end: int | None = None) -> list[int]:
    async with log.reader({GARDEN: start}) as reader, asyncio.timeout(60):
        reading = read_to_end(log, reader, GARDEN, max_records=2, end=end)
        return [int(record.value) async for records in reading for record in records]


def even(record: Record) -> int | None:
    number = int(record.value)
    return None if number % 2 else number


async def test_a_log_is_read_to_its_end_or_to_one_before():
    log = MemoryLog()
    assert await to_end(log) == []
    await numbered(log, *range(7))
    assert await to_end(log) == list(range(7))
    assert await to_end(log, 2, end=4) == [2, 3]
    assert await to_end(log, 2, end=400) == [2, 3, 4, 5, 6]


async def test_the_end_moves_back_with_a_log_that_becomes_shorter(log_lines):
    log = MemoryLog()
    await numbered(log, *range(7))
    async with log.reader({GARDEN: 0}) as reader, asyncio.timeout(60):
        reading = read_to_end(log, reader, GARDEN, max_records=4)
        assert len(await anext(reading)) == 4
        log.delete(GARDEN.topic)
        await numbered(log, 100)
        assert [int(record.value) async for records in reading for record in records] == [100]


async def test_it_says_what_it_waits_for_when_that_takes_long_and_when_it_is_over(log_lines):
    log = MemoryLog()
    await numbered(log, *range(3))
    async with log.reader({GARDEN: 0}) as reader:
        reading = read_to_end(log, reader, GARDEN, max_records=1)
        for _ in range(2):
            await anext(reading)
            await asyncio.sleep(29)
        assert not log_lines("life.waiting")
        assert [int(record.value) async for records in reading for record in records] == [2]
    [waiting], [waited] = log_lines("life.waiting"), log_lines("life.waited")
    assert waiting["wait_for"] == waited["wait_for"] == "garden/0, which is read to offset 3, now at 2"
    assert waiting["waited_s"] >= 30


@pytest.mark.parametrize("count", [1, 3, 100])
async def test_the_newest_are_found_however_far_back_they_are(count):
    log = MemoryLog()
    await numbered(log, *range(20), *[1] * 300)
    log.skip(GARDEN, 50)
    log.compact(GARDEN, 100, 200)
    assert await newest(log, GARDEN, even, count=count) == list(range(0, 20, 2))[-count:]


async def test_no_further_back_than_asked_for_is_read():
    log = MemoryLog()
    await numbered(log, *range(20), *[1] * 300)
    taken: list[int] = []
    assert await newest(log, GARDEN, lambda record: taken.append(record.offset), count=5, within=100) == []
    assert (min(taken), max(taken)) == (220, 319)


async def test_there_may_be_none():
    log = MemoryLog()
    assert await newest(log, GARDEN, even) == []
    await numbered(log, 1, 3, 5)
    assert await newest(log, GARDEN, even) == []
    log.truncate(GARDEN, 3)
    assert await newest(log, GARDEN, even) == []


async def test_partitions_are_looked_for_now_and_then_and_a_topic_that_is_gone_keeps_its_own():
    log = MemoryLog()
    partitions = Partitions(log, lambda: [GARDEN.topic])
    one = await partitions.look()
    log.add_partitions(GARDEN.topic, 2)
    assert await partitions.are_still(one)
    await asyncio.sleep(31)
    assert not await partitions.are_still(one)
    two = await partitions.look()
    log.delete(GARDEN.topic)
    assert await partitions.look() == two
    await numbered(log, 0)
    assert await partitions.look() == one
