"""The time of a record is the broker's or none, never that of this machine's clock, and never in the way of a write."""

import asyncio
import time
import uuid

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import Kafka
from edged.ports import Message, Record, TopicPartition, TopicSpec
from tests.support.shared_brokers import SharedBroker

HOUR_MS = 3_600_000


async def make(broker: SharedBroker, topic: str, **settings: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    (made,) = admin.create_topics([NewTopic(topic, 1, 1, config=settings)]).values()
    await asyncio.to_thread(made.result)


async def read(log: KafkaLog, topic: str, count: int) -> list[Record]:
    records: list[Record] = []
    async with log.reader({TopicPartition(topic): 0}) as reader:
        while len(records) < count:
            records += await reader.poll(max_records=count, timeout_s=1)
    return records


@pytest.mark.parametrize("given_ms", [None, 5, 4_102_444_800_000])
async def test_a_topic_that_edged_makes_has_the_brokers_time(apache_kafka: SharedBroker, given_ms: int | None) -> None:
    topic = f"garden.{uuid.uuid4()}"
    async with KafkaLog(Kafka((apache_kafka.bootstrap,)), RecordingHealth()) as log:
        await log.ensure([TopicSpec(topic)])
        before_ms = time.time() * 1000
        await log.append([Message(topic, b"sample", timestamp_ms=given_ms)])
        (record,) = await read(log, topic, 1)
    assert before_ms - 1 <= record.timestamp_ms <= time.time() * 1000


async def test_a_record_of_a_topic_with_its_writers_time_has_the_brokers_or_none(apache_kafka: SharedBroker) -> None:
    theirs, ours = (f"garden.{uuid.uuid4()}" for _ in range(2))
    await make(apache_kafka, theirs, **{"message.timestamp.type": "CreateTime"})
    async with KafkaLog(Kafka((apache_kafka.bootstrap,)), RecordingHealth()) as log:
        await log.ensure([TopicSpec(ours)])
        for topic in (theirs, ours, theirs):
            await log.append([Message(topic, b"sample")])
        records = await read(log, theirs, 2)
    assert records[0].timestamp_ms == -1
    assert records[1].timestamp_ms == pytest.approx(time.time() * 1000, abs=60_000)


@pytest.mark.parametrize(
    ("off_ms", "setting"),
    [(3 * HOUR_MS, "message.timestamp.after.max.ms"), (-240 * HOUR_MS, "message.timestamp.before.max.ms")],
)
async def test_a_write_that_is_refused_for_its_time_is_built_anew(
    apache_kafka: SharedBroker, off_ms: int, setting: str
) -> None:
    topic = f"garden.{uuid.uuid4()}"
    await make(apache_kafka, topic, **{"message.timestamp.type": "CreateTime", setting: str(HOUR_MS)})
    wrong_ms = int(time.time() * 1000) + off_ms
    async with KafkaLog(Kafka((apache_kafka.bootstrap,)), RecordingHealth()) as log:
        messages = [Message(topic, b"%d" % i, timestamp_ms=wrong_ms) for i in range(3)]
        assert await log.append(messages) == [0, 1, 2]
        assert await log.append([Message(topic, b"3")]) == [3]
        records = await read(log, topic, 4)
    assert [record.value for record in records] == [b"0", b"1", b"2", b"3"]
