"""What any client may write into a topic that it can write to: batches that a reader cannot decode, or should not."""

import asyncio
import struct
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import cramjam
import pytest
from aiokafka import AIOKafkaClient
from aiokafka.codec import lz4_encode
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from edged.adapters.kafka import KafkaLog
from edged.adapters.kafka.batches import MAX_UNPACKED_BYTES, decode
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import Kafka
from edged.ports import Message, TopicPartition, TopicSpec
from tests.support.brokers import Broker

_HEADER_BYTES = 61
_ATTRIBUTES_AT, _CRC_AT, _LENGTH_AT = 21, 17, 8
_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4


def batch(
    value: bytes = b"v", *, codec: int = 0, pack: Callable[[bytes], Any] = bytes, header: bytes = b"head"
) -> bytes:
    """One record, its header's key spelled `header`, its bytes in the batch turned into `pack(bytes)`."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 30)
    builder.append(0, 1_700_000_000_000, b"boot", value, [("head", b"x")])
    plain = bytes(builder.build()).replace(b"head", header)
    whole = bytearray(plain[:_HEADER_BYTES] + bytes(pack(plain[_HEADER_BYTES:])))
    struct.pack_into(">h", whole, _ATTRIBUTES_AT, codec)
    struct.pack_into(">i", whole, _LENGTH_AT, len(whole) - _LENGTH_AT - 4)
    struct.pack_into(">I", whole, _CRC_AT, calc_crc32c(bytes(whole[_ATTRIBUTES_AT:])))
    return bytes(whole)


def xerial(data: bytes) -> bytes:
    block = bytes(cramjam.snappy.compress_raw(data))
    return b"\x82SNAPPY\0" + struct.pack(">iiI", 1, 1, len(block)) + block


UNREADABLE = {
    "header_not_utf8": batch(header=b"\xff\xfe\xfa\xf0"),
    "zstd_bomb": batch(bytes(64 << 20), codec=_ZSTD, pack=cramjam.zstd.compress),
}
COMPRESSED = {
    "gzip": batch(bytes(100_000), codec=_GZIP, pack=cramjam.gzip.compress),
    "snappy": batch(bytes(100_000), codec=_SNAPPY, pack=cramjam.snappy.compress_raw),
    "xerial": batch(bytes(100_000), codec=_SNAPPY, pack=xerial),
    "lz4": batch(bytes(100_000), codec=_LZ4, pack=lz4_encode),
    "zstd": batch(bytes(100_000), codec=_ZSTD, pack=cramjam.zstd.compress),
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


async def produce(broker: Broker, topic: str, data: bytes) -> None:
    """Write a batch as it is, as a client of any make might."""
    client = AIOKafkaClient(bootstrap_servers=broker.bootstrap)
    await client.bootstrap()
    try:
        answer = await client.send(client.get_random_node(), ProduceRequest(None, -1, 5000, [(topic, [(0, data)])]))
    finally:
        await client.close()
    assert answer.topics[0][1][0][1] == 0, "the broker refused the batch"


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
        await produce(broker, topic, UNREADABLE[name])
    await log.append([Message(topic, b"last")])

    found = await read(log, [other, topic], count=52, max_records=7)

    assert sorted(found) == sorted(
        [(topic, 0, b"first"), (topic, 3, b"last"), *((other, number, b"%d" % number) for number in range(50))]
    )
    lines = log_lines("kafka.unreadable")
    assert [(line["first_offset"], line["next_offset"]) for line in lines] == [(1, 3)]


@pytest.mark.parametrize("name", COMPRESSED)
async def test_records_are_read_in_every_compression_that_kafka_has(
    log: KafkaLog, broker: Broker, topic: str, name: str
):
    await produce(broker, topic, COMPRESSED[name])

    assert await read(log, [topic], count=2) == [(topic, 0, b"first"), (topic, 1, bytes(100_000))]


@pytest.mark.parametrize("codec", [_GZIP, _SNAPPY, _LZ4, _ZSTD])
def test_a_batch_decompresses_within_bounds_or_not_at_all(codec: int):
    """Also one that claims gigabytes in some bytes."""
    KafkaLog(Kafka(("localhost:9092",)), RecordingHealth())
    pack = {_GZIP: cramjam.gzip, _LZ4: cramjam.lz4, _ZSTD: cramjam.zstd}.get(codec)
    compress: Callable[[bytes], Any] = pack.compress if pack else cramjam.snappy.compress_raw
    bombs = [
        batch(bytes(MAX_UNPACKED_BYTES), codec=codec, pack=compress),
        batch(codec=codec, pack=lambda _: b"\xff\xff\xff\xff\x0f garbage"),
        batch(codec=codec, pack=lambda _: b"\x82SNAPPY\0" + struct.pack(">iiI", 1, 1, 0xFFFFFFFF) + b"garbage"),
    ]
    for bomb in bombs:
        decoded = decode(bomb, TopicPartition("t"), 0)
        assert (decoded.records, decoded.next_offset) == ([], 1)
        assert decoded.error
