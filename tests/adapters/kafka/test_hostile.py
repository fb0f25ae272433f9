"""Batches that any client may write and a reader cannot decode, or should not."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import cramjam
import pytest
from aiokafka.codec import lz4_encode

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import Kafka
from edged.ports import Message, TopicPartition, TopicSpec
from tests.support.brokers import Broker
from tests.support.foreign_producers import UNREADABLE as NOT_UTF8
from tests.support.foreign_producers import write_batch
from tests.support.record_batches import GZIP, LZ4, SNAPPY, ZSTD, batch, bomb, xerial

UNREADABLE: dict[str, Callable[[], bytes]] = {"header_not_utf8": lambda: NOT_UTF8, "zstd_bomb": bomb}
COMPRESSED = {
    "gzip": batch(bytes(100_000), codec=GZIP, pack=cramjam.gzip.compress),
    "snappy": batch(bytes(100_000), codec=SNAPPY, pack=cramjam.snappy.compress_raw),
    "xerial": batch(bytes(100_000), codec=SNAPPY, pack=xerial),
    "lz4": batch(bytes(100_000), codec=LZ4, pack=lz4_encode),
    "zstd": batch(bytes(100_000), codec=ZSTD, pack=cramjam.zstd.compress),
}


@pytest.fixture(params=["embedded_broker", "apache_kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    broker: Broker = request.getfixturevalue(request.param)
    return broker


@pytest.fixture
async def log(broker: Broker) -> AsyncIterator[KafkaLog]:
    async with KafkaLog(Kafka((broker.bootstrap,)), RecordingHealth()) as log:
        yield log


@pytest.fixture
async def topic(log: KafkaLog) -> str:
    """A topic that has taken its first record."""
    name = f"garden.{uuid.uuid4()}"
    await log.ensure([TopicSpec(name)])
    await log.append([Message(name, b"first")])
    return name


async def read(log: KafkaLog, topics: list[str], count: int, max_records: int = 100) -> list[tuple[str, int, bytes]]:
    """The next `count` records: topic, offset, value."""
    found: list[tuple[str, int, bytes]] = []
    async with log.reader({TopicPartition(topic): 0 for topic in topics}) as reader, asyncio.timeout(120):
        while len(found) < count:
            records = await reader.poll(max_records=max_records, timeout_s=1.0)
            assert len(records) <= max_records
            found += [(record.topic, record.offset, record.value) for record in records]
    return found


@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_batch_that_cannot_be_decoded_is_skipped_and_logged(
    log: KafkaLog, broker: Broker, topic: str, name: str, log_lines: Callable[..., list[dict[str, Any]]]
):
    """Between good records, of which none is lost or comes twice; also of another topic in the same reader."""
    other = f"{topic}.other"
    await log.ensure([TopicSpec(other)])
    await log.append([Message(other, b"%d" % number) for number in range(50)])
    for _ in range(2):
        await write_batch(broker.bootstrap, topic, UNREADABLE[name]())
    await log.append([Message(topic, b"last")])

    found = await read(log, [other, topic], count=52, max_records=7)

    assert sorted(found) == sorted(
        [(topic, 0, b"first"), (topic, 3, b"last"), *((other, number, b"%d" % number) for number in range(50))]
    )
    lines = log_lines("kafka.unreadable")
    assert [(line["first_offset"], line["next_offset"]) for line in lines] == [(1, 3)]


async def test_a_device_full_of_unreadable_batches_costs_the_others_no_record_and_no_turn(
    apache_kafka: Broker, log_lines: Callable[..., list[dict[str, Any]]]
):
    """Before, each such batch cost a fetch of every partition by hand, and what the consumer had fetched of all."""
    bad, good = f"garden.{uuid.uuid4()}", f"garden.{uuid.uuid4()}"
    async with KafkaLog(Kafka((apache_kafka.bootstrap,)), RecordingHealth()) as log:
        await log.ensure([TopicSpec(bad), TopicSpec(good)])
        for _ in range(60):
            await log.append([Message(bad, b"between")])  # first: a new topic refuses while it has no leader yet
            await write_batch(apache_kafka.bootstrap, bad, NOT_UTF8)
        await log.append([Message(good, b"%d" % number) for number in range(600)])

        started_s = asyncio.get_running_loop().time()
        turns: list[dict[str, int]] = []
        async with log.reader({TopicPartition(bad): 0, TopicPartition(good): 0}) as reader, asyncio.timeout(120):
            while sum(sum(turn.values()) for turn in turns) < 660:
                records = await reader.poll(max_records=20, timeout_s=1.0)
                turns.append(Counter(record.topic for record in records))
            positions = [reader.position(TopicPartition(topic)) for topic in (bad, good)]
        read_s = asyncio.get_running_loop().time() - started_s

    assert positions == [120, 600]
    both = [index for index, turn in enumerate(turns) if turn.get(bad)]
    between = turns[both[0] : both[-1] + 1]
    assert sum(turn.get(good, 0) for turn in between) >= 40, "the two take turns"
    lines = log_lines("kafka.unreadable")
    assert (lines[0]["topic"], lines[0]["first_offset"], lines[0]["next_offset"]) == (bad, 1, 2)
    assert len(lines) <= 1 + read_s / 10, "one in 10 s"


@pytest.mark.parametrize("name", COMPRESSED)
async def test_records_are_read_in_every_compression_that_kafka_has(
    log: KafkaLog, broker: Broker, topic: str, name: str
):
    await write_batch(broker.bootstrap, topic, COMPRESSED[name])

    assert await read(log, [topic], count=2) == [(topic, 0, b"first"), (topic, 1, bytes(100_000))]
