"""What the companion published last is found at the end of the predictions topic."""

import pytest

from edged.adapters.memory.log import MemoryLog
from edged.domain.samples.prediction import Prediction, encode
from edged.ports import Message, TopicPartition
from edged.services.inference.published import newest_published, record_at

TOPIC = TopicPartition("predictions")

pytestmark = pytest.mark.looptime


def message(offset):
    return Message(TOPIC.topic, encode(Prediction("cam", 0, offset, 7, None, "cat", 0.5, {"cat": 0.5}, 1, 1.0, 1.0)))


async def newest(log, limit):
    return sorted(each.offset for each in await newest_published(log, TOPIC, limit=limit))


async def test_the_newest_predictions_are_found_and_foreign_messages_skipped():
    log = MemoryLog()
    await log.append([*map(message, range(5)), Message(TOPIC.topic, b"foreign"), message(5)])
    assert await newest(log, 1) == [5]
    assert await newest(log, 2) == [4, 5]
    assert await newest(log, 100) == [0, 1, 2, 3, 4, 5]


async def test_an_empty_or_missing_topic_has_none():
    log = MemoryLog()
    assert await newest(log, 3) == []
    await log.append([message(0)])
    log.truncate(TOPIC, 1)
    assert await newest(log, 3) == []


async def test_a_record_is_found_by_its_offset_unless_it_is_deleted_or_not_written_yet():
    log = MemoryLog()
    await log.append([message(0), message(1)])
    log.truncate(TOPIC, 1)
    found = [await record_at(log, TOPIC, offset) for offset in range(3)]
    assert [each and each.offset for each in found] == [None, 1, None]
