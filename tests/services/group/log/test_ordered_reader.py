"""A log with a gap in it: for a moment, because the broker was not done, or for good."""

import asyncio

import pytest

from edged.adapters.memory.log import MemoryLog
from edged.errors import LogGap
from edged.ports import Message, TopicPartition
from edged.services.group.log.ordered_reader import OrderedReader, read_in_order
from tests.support.holes import hide

pytestmark = pytest.mark.looptime

TOPIC = TopicPartition("site.train.toy")
VALUES = [b"a", b"b", b"c", b"d", b"e"]


async def written(log: MemoryLog) -> None:
    await log.append([Message(TOPIC.topic, value) for value in VALUES])


async def values(reader: OrderedReader, max_records: int = 8) -> list[bytes]:
    """All values up to the last."""
    found: list[bytes] = []
    while found[-1:] != VALUES[-1:]:
        found += [record.value for record in await reader.poll(max_records=max_records, timeout_s=1.0)]
    return found


FOREVER = float("inf")
GAPS: list[tuple[dict[int, float], list[bytes]]] = [
    ({1: 3}, VALUES),
    ({0: 3}, VALUES),
    ({1: 3, 3: 5}, VALUES),
    ({1: FOREVER}, [b"a", b"c", b"d", b"e"]),
    ({1: FOREVER, 3: 3}, [b"a", b"c", b"d", b"e"]),
    ({1: FOREVER, 3: FOREVER}, [b"a", b"c", b"e"]),
]


@pytest.mark.parametrize("max_records", [1, 2, 8])
@pytest.mark.parametrize(("hidden", "expected"), GAPS, ids=str)
async def test_records_hidden_for_a_moment_come_in_order_and_unreadable_ones_are_skipped(hidden, expected, max_records):
    log = MemoryLog()
    await written(log)
    hide(log, TOPIC.topic, hidden)
    async with read_in_order(log, TOPIC, 0) as reader:
        assert await values(reader, max_records) == expected
        assert reader.lag == 0


async def test_where_no_gap_closes_none_is_read_again(monkeypatch):
    """As on Kafka, where transactions of other clients leave markers everywhere."""
    log = MemoryLog()
    for value in VALUES:
        await log.append([Message(TOPIC.topic, value)])
        log.skip(TOPIC)
    async with read_in_order(log, TOPIC, 0) as reader:
        monkeypatch.setattr(reader._reader, "may_show_gaps", False)
        assert [record.value for record in await reader.poll(max_records=8, timeout_s=1.0)] == VALUES
        assert (reader.position(TOPIC), reader.lag) == (10, 0)


async def test_where_no_gap_closes_a_deleted_record_is_a_loss_still(monkeypatch, log_lines):
    log = MemoryLog()
    await written(log)
    log.skip(TOPIC)
    await log.append([Message(TOPIC.topic, b"f")])
    async with read_in_order(log, TOPIC, 1) as reader:
        monkeypatch.setattr(reader._reader, "may_show_gaps", False)
        log.truncate(TOPIC, 3)
        with pytest.raises(LogGap) as gap:
            await reader.poll(max_records=8, timeout_s=1.0)
    assert (gap.value.expected, gap.value.found) == (1, 3)


async def test_records_deleted_by_retention_are_a_loss(log_lines):
    log = MemoryLog()
    await written(log)
    async with read_in_order(log, TOPIC, 1) as reader:
        log.truncate(TOPIC, 3)
        with pytest.raises(LogGap) as gap:
            await values(reader)
    assert (gap.value.expected, gap.value.found) == (1, 3)


async def test_a_recreated_log_is_a_loss(log_lines):
    log = MemoryLog()
    await written(log)
    async with read_in_order(log, TOPIC, 5) as reader:
        log.delete(TOPIC.topic)
        await log.append([Message(TOPIC.topic, b"new")])
        with pytest.raises(LogGap) as gap:
            await values(reader)
    assert (gap.value.expected, gap.value.found) == (5, 0)


async def test_a_cancelled_poll_loses_nothing(monkeypatch):
    log = MemoryLog()
    await written(log)
    hide(log, TOPIC.topic, {0: 3})
    async with read_in_order(log, TOPIC, 0) as reader:
        with monkeypatch.context() as patch:
            patch.setattr(log, "watermarks", lambda _: asyncio.Event().wait())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(values(reader), 60)
        assert await values(reader) == VALUES
