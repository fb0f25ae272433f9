"""Kafka record batches, byte by byte, for tests."""

import struct
from collections.abc import Callable
from typing import Any

import cramjam
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

_HEADER_BYTES = 61
_ATTRIBUTES_AT, _CRC_AT, _LENGTH_AT = 21, 17, 8
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4


def batch(
    value: bytes = b"v",
    *,
    codec: int = 0,
    pack: Callable[[bytes], Any] = bytes,
    header: bytes = b"head",
    header_value: bytes | None = b"x",
) -> bytes:
    """A batch of one record with a header of key `header`, its records compressed by `pack`."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 30)
    builder.append(0, 1_700_000_000_000, b"boot", value, [("head", header_value)])
    plain = bytes(builder.build()).replace(b"head", header)
    whole = bytearray(plain[:_HEADER_BYTES] + bytes(pack(plain[_HEADER_BYTES:])))
    struct.pack_into(">h", whole, _ATTRIBUTES_AT, codec)
    struct.pack_into(">i", whole, _LENGTH_AT, len(whole) - _LENGTH_AT - 4)
    struct.pack_into(">I", whole, _CRC_AT, calc_crc32c(bytes(whole[_ATTRIBUTES_AT:])))
    return bytes(whole)


def xerial(data: bytes) -> bytes:
    """Snappy in the framing of the Java library xerial."""
    block = bytes(cramjam.snappy.compress_raw(data))
    return b"\x82SNAPPY\0" + struct.pack(">iiI", 1, 1, len(block)) + block
