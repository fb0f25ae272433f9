"""Record batches decompress within a limit; a corrupt one costs no other its records."""

import struct
from collections.abc import Callable
from typing import Any

import cramjam
import pytest
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.memory_records import MemoryRecords

from edged.adapters.kafka import KafkaLog
from edged.adapters.kafka.reading.batches import MAX_UNPACKED_BYTES, decode
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import Kafka
from edged.ports import TopicPartition
from tests.support.record_batches import GZIP, LZ4, SNAPPY, TRANSACTIONAL, ZSTD, batch, marker

PARTITION = TopicPartition("t")
CORRUPT = batch(header=b"\xff\xfe\xfa\xf0")


def at(data: bytes, offset: int) -> bytes:
    """The batch with that base offset."""
    return struct.pack(">q", offset) + data[8:]


def test_records_before_a_corrupt_batch_are_decoded_and_it_is_named():
    decoded = decode(at(batch(b"good"), 0) + at(CORRUPT, 1) + at(batch(b"later"), 2), PARTITION, 0)
    assert ([record.value for record in decoded.records], decoded.next_offset) == ([b"good"], 1)
    assert "UnicodeDecodeError" in decoded.error


def test_corrupt_batches_at_the_front_are_skipped_together():
    decoded = decode(at(CORRUPT, 5) + at(CORRUPT, 6) + at(batch(b"later"), 7), PARTITION, 5)
    assert (decoded.records, decoded.next_offset) == ([], 7)
    assert "UnicodeDecodeError" in decoded.error


def test_null_headers_are_empty_ones():
    """Kafka has them, and who reads a header takes bytes."""
    (record,) = decode(batch(header_value=None), PARTITION, 0).records
    assert record.headers == (("head", b""),)


def test_records_below_the_first_offset_and_a_truncated_batch_are_left_out():
    decoded = decode(at(batch(b"old"), 3) + at(batch(b"new"), 4) + at(batch(b"cut"), 5)[:-1], PARTITION, 4)
    assert ([record.value for record in decoded.records], decoded.next_offset, decoded.error) == ([b"new"], 5, "")


LOG = [
    batch(b"plain"),
    batch(b"aborted", producer=7, attributes=TRANSACTIONAL),
    batch(b"other", producer=8, attributes=TRANSACTIONAL),
    marker(7, 0),
    batch(b"again", producer=7, attributes=TRANSACTIONAL),
    marker(8, 1),
    marker(7, 1),
    batch(b"last", producer=7),
]
BATCHES = b"".join(at(data, offset) for offset, data in enumerate(LOG))


def test_records_of_aborted_transactions_are_left_out_up_to_their_markers():
    decoded = decode(BATCHES, PARTITION, 0, [(7, 1)])
    assert [record.value for record in decoded.records] == [b"plain", b"other", b"again", b"last"]
    assert (decoded.next_offset, decoded.error) == (8, "")


def test_records_of_a_transaction_that_began_before_are_left_out_too():
    decoded = decode(BATCHES[len(LOG[0]) :], PARTITION, 1, [(7, 0), (8, 0)])
    assert [record.value for record in decoded.records] == [b"again", b"last"]


def test_without_transactions_only_records_of_none_are_left():
    decoded = decode(BATCHES, PARTITION, 0, in_transactions=False)
    assert [record.value for record in decoded.records] == [b"plain", b"last"]
    assert decoded.next_offset == 8


def test_a_corrupt_batch_in_an_aborted_transaction_is_nobodys():
    corrupt = batch(header=b"\xff\xfe\xfa\xf0", producer=7, attributes=TRANSACTIONAL)
    decoded = decode(at(corrupt, 0) + at(marker(7), 1), PARTITION, 0, [(7, 0)])
    assert decoded == ([], 2, "")


def test_a_marker_that_compaction_has_emptied_stops_neither_us_nor_aiokafkas_consumer():
    KafkaLog(Kafka(("localhost:9092",)), RecordingHealth())
    batches = at(marker(7, is_empty=True), 3) + at(batch(b"after"), 4)
    decoded = decode(batches, PARTITION, 3, [(7, 0)])
    assert ([record.value for record in decoded.records], decoded.next_offset) == ([b"after"], 5)
    records = PartitionRecords(KafkaPartition("t", 0), MemoryRecords(batches), [(7, 0)], 3, None, None, True, 1)
    assert [record.value for record in records] == [b"after"]
    assert records.next_fetch_offset == 5


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_batch_decompresses_within_bounds_or_not_at_all(codec: int):
    """Also one that claims gigabytes in some bytes."""
    KafkaLog(Kafka(("localhost:9092",)), RecordingHealth())
    pack = {GZIP: cramjam.gzip, LZ4: cramjam.lz4, ZSTD: cramjam.zstd}.get(codec)
    compress: Callable[[bytes], Any] = pack.compress if pack else cramjam.snappy.compress_raw
    bombs = [
        batch(bytes(MAX_UNPACKED_BYTES), codec=codec, pack=compress),
        batch(codec=codec, pack=lambda _: b"\xff\xff\xff\xff\x0f garbage"),
        batch(codec=codec, pack=lambda _: b"\x82SNAPPY\0" + struct.pack(">iiI", 1, 1, 0xFFFFFFFF) + b"garbage"),
    ]
    for bomb in bombs:
        decoded = decode(bomb, PARTITION, 0)
        assert (decoded.records, decoded.next_offset) == ([], 1)
        assert decoded.error
