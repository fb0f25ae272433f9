"""A log with a hole in it: for a moment, because the broker was not done, or for good."""

import asyncio

import pytest

from edged.adapters.memory.log import MemoryLog
from edged.errors import LogGap
from edged.ports import Message, TopicPartition
from edged.services.group.log.ordered_reader import Gapless, gapless
from tests.support.holes import hide

pytestmark = pytest.mark.looptime

TOPIC = TopicPartition("site.train.toy")
VALUES = [b"a", b"b", b"c", b"d", b"e"]


async def written(log: MemoryLog) -> None:
    await log.append([Message(TOPIC.topic, value) for value in VALUES])


async def values(reader: Gapless, most: int = 8) -> list[bytes]:
    """All up to the last, read at most so many at a time."""
    found: list[bytes] = []
    while found[-1:] != VALUES[-1:]:
        found += [record.value for record in await reader.poll(max_records=most, timeout_s=1.0)]
    return found


FOR_EVER = float("inf")
HOLES: list[tuple[dict[int, float], list[bytes]]] = [
    ({1: 3}, VALUES),
    ({0: 3}, VALUES),
    ({1: 3, 3: 5}, VALUES),
    ({1: FOR_EVER}, [b"a", b"c", b"d", b"e"]),
    ({1: FOR_EVER, 3: 3}, [b"a", b"c", b"d", b"e"]),
    ({1: FOR_EVER, 3: FOR_EVER}, [b"a", b"c", b"e"]),
]


@pytest.mark.parametrize("most", [1, 2, 8])
@pytest.mark.parametrize(("hidden", "expected"), HOLES, ids=str)
async def test_what_is_hidden_for_a_moment_comes_in_its_place_and_what_nobody_can_read_is_passed_over(
    hidden, expected, most
):
    log = MemoryLog()
    await written(log)
    hide(log, TOPIC.topic, hidden)
    async with gapless(log, TOPIC, 0) as reader:
        assert await values(reader, most) == expected
        assert reader.lag == 0


async def test_what_retention_deleted_is_no_hole_but_a_loss(log_lines):
    log = MemoryLog()
    await written(log)
    async with gapless(log, TOPIC, 1) as reader:
        log.truncate(TOPIC, 3)
        with pytest.raises(LogGap) as gap:
            await values(reader)
    assert (gap.value.expected, gap.value.found) == (1, 3)


async def test_another_log_of_the_same_name_is_a_loss(log_lines):
    log = MemoryLog()
    await written(log)
    async with gapless(log, TOPIC, 5) as reader:
        log.delete(TOPIC.topic)
        await log.append([Message(TOPIC.topic, b"anew")])
        with pytest.raises(LogGap) as gap:
            await values(reader)
    assert (gap.value.expected, gap.value.found) == (5, 0)


async def test_a_look_that_is_cancelled_loses_nothing(monkeypatch):
    log = MemoryLog()
    await written(log)
    hide(log, TOPIC.topic, {0: 3})
    async with gapless(log, TOPIC, 0) as reader:
        with monkeypatch.context() as patch:
            patch.setattr(log, "watermarks", lambda _: asyncio.Event().wait())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(values(reader), 60)
        assert await values(reader) == VALUES
