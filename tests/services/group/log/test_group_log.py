"""A group's log as one member reads and writes it."""

import pytest

from edged.adapters.memory.log import MemoryLog
from edged.domain.group.records import Close, Join, Leave, Record, decode, encode
from edged.errors import LogGap
from edged.ports import Message, TopicPartition
from edged.services.group.log.group_log import GroupAddress, GroupLog

pytestmark = pytest.mark.looptime

TRAIN, GRADIENTS = "site.train.toy", "site.gradients.toy"
RECORDS: list[Record] = [Leave("ash"), Close(3, "ash")]


def group_log(log: MemoryLog, *, writes: str = TRAIN) -> GroupLog:
    return GroupLog(log, GroupAddress("ash", ("ash", "birch"), TRAIN, writes))


async def test_records_are_appended_in_order_and_read_from_the_offset_on():
    log = MemoryLog()
    await log.append([Message(TRAIN, encode(Join("birch", "1" * 64, 0, "2" * 64)))])
    member = group_log(log)
    await member.append(RECORDS)
    async with member.open(1):
        records = await member.poll(1.0)
        assert member.position == 3
        assert member.lag == 0
        assert await member.poll(1.0) == []
    assert [decode(record.value) for record in records] == RECORDS


async def test_a_log_is_read_to_its_present_end_which_may_be_no_record():
    log = MemoryLog()
    await group_log(log).append(RECORDS)
    log.skip(TopicPartition(TRAIN))
    member = group_log(log)
    async with member.open(0):
        read = [record async for records in member.read_to_end() for record in records]
        assert (len(read), member.position, member.lag) == (len(RECORDS), len(RECORDS) + 1, 0)


async def test_only_bytes_to_another_topic_than_the_one_read_are_counted_as_sent():
    log = MemoryLog()
    assert await group_log(log).append(RECORDS) == 0
    assert await group_log(log, writes=GRADIENTS).append(RECORDS) == sum(len(encode(record)) for record in RECORDS)
    assert len(log.records(TRAIN)) == len(log.records(GRADIENTS)) == len(RECORDS)


@pytest.mark.parametrize(("offset", "low"), [(0, 1), (4, 1), (2, 2)])
async def test_a_log_that_does_not_continue_at_the_offset_is_not_opened(offset, low):
    """The offset is deleted, was never written, or is the end of a log whose records are all deleted."""
    log = MemoryLog()
    await group_log(log).append(RECORDS)
    log.truncate(TopicPartition(TRAIN), low)
    with pytest.raises(LogGap) as gap:
        async with group_log(log).open(offset):
            pass
    assert (gap.value.expected, gap.value.found) == (offset, low)
