"""Kafka record batches, byte by byte, for tests."""

import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import cramjam
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

_HEADER_BYTES = 61
_ATTRIBUTES_AT, _CRC_AT, _LENGTH_AT = 21, 17, 8
_NUM_RECORDS_AT = 57
TRANSACTIONAL, CONTROL = 0x10, 0x20
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4


def batch(
    value: bytes = b"v",
    *,
    codec: int = 0,
    pack: Callable[[bytes], Any] = bytes,
    header: bytes = b"head",
    header_value: bytes | None = b"x",
    producer: int = -1,
    attributes: int = 0,
) -> bytes:
    """A batch of one record with a header of key `header`, its records compressed by `pack`.

    `producer`: its id; `attributes`: more of the batch's flags.
    """
    builder = DefaultRecordBatchBuilder(2, 0, 0, producer, 0 if producer >= 0 else -1, -1, 1 << 30)
    builder.append(0, 1_700_000_000_000, b"boot", value, [("head", header_value)])
    plain = bytes(builder.build()).replace(b"head", header)
    whole = bytearray(plain[:_HEADER_BYTES] + bytes(pack(plain[_HEADER_BYTES:])))
    struct.pack_into(">h", whole, _ATTRIBUTES_AT, codec | attributes)
    struct.pack_into(">i", whole, _LENGTH_AT, len(whole) - _LENGTH_AT - 4)
    struct.pack_into(">I", whole, _CRC_AT, calc_crc32c(bytes(whole[_ATTRIBUTES_AT:])))
    return bytes(whole)


@cache
def bomb() -> bytes:
    """A batch of some kB whose records are 64 MiB: made for who needs it, for it takes a while."""
    return batch(bytes(64 << 20), codec=ZSTD, pack=cramjam.zstd.compress)


def marker(producer: int, kind: int = 0, *, is_empty: bool = False) -> bytes:
    """The marker that ends a producer's transaction: kind 0 aborts it, 1 commits it. Compaction may have emptied it."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, producer, 0, -1, 1 << 20)
    builder.append(0, 1_700_000_000_000, struct.pack(">HH", 0, kind), bytes(6), [])
    whole = bytearray(builder.build())
    if is_empty:
        del whole[_HEADER_BYTES:]
        struct.pack_into(">i", whole, _NUM_RECORDS_AT, 0)
        struct.pack_into(">i", whole, _LENGTH_AT, len(whole) - _LENGTH_AT - 4)
    struct.pack_into(">h", whole, _ATTRIBUTES_AT, CONTROL | TRANSACTIONAL)
    struct.pack_into(">I", whole, _CRC_AT, calc_crc32c(bytes(whole[_ATTRIBUTES_AT:])))
    return bytes(whole)


def xerial(data: bytes) -> bytes:
    """Snappy in the framing of the Java library xerial."""
    block = bytes(cramjam.snappy.compress_raw(data))
    return b"\x82SNAPPY\0" + struct.pack(">iiI", 1, 1, len(block)) + block
