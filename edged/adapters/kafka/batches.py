"""Record batches as they lie in the log: decoding what can be decoded, within bounds.

aiokafka's consumer decodes by itself and fails as a whole. Covers finding the batch at fault, and how much a batch may
unpack to, for which aiokafka has no limit. Fetches nothing.
"""

import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import cramjam
import numpy as np
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.memory_records import MemoryRecords

from edged.domain.topology.topics import REQUESTS_MESSAGE_BYTES
from edged.ports import Record, TopicPartition

MAX_UNPACKED_BYTES = REQUESTS_MESSAGE_BYTES + (1 << 20)
"""Of one batch: a little more than the largest message that a node sends. A kilobyte of zstd may unpack to 32 MiB."""

_XERIAL_MAGIC = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES = 16


class Decoded(NamedTuple):
    """The records before the first batch at fault. Without any, `next_offset` is behind it and those that follow it.

    `fault`: what is wrong with the batch; empty when none is at fault.
    """

    records: list[Record]
    next_offset: int
    fault: str


def decode(batches: bytes, partition: TopicPartition, first_offset: int) -> Decoded:
    """The records from `first_offset` on in what a broker answered to a fetch; its last batch may be cut off."""
    memory = MemoryRecords(batches)
    records: list[Record] = []
    next_offset, fault = first_offset, ""
    while memory.has_next():
        batch: Any = memory.next_batch()
        found, error = _records(batch, partition)
        if error:
            if records:
                return Decoded(records, next_offset, error)
            fault = fault or error
            next_offset += 1  # whatever the batch says of itself
        elif fault and found:
            break
        records += [record for record in found if record.offset >= first_offset]
        next_offset = max(next_offset, batch.next_offset)
    return Decoded(records, next_offset, fault)


def record_of(partition: TopicPartition, record: Any) -> Record:
    """One of aiokafka's records as ours. A record without a value has an empty one."""
    return Record(*partition, record.offset, record.timestamp, record.key, record.value or b"", tuple(record.headers))


def bound_unpacking() -> None:
    """Have aiokafka unpack no batch to more than MAX_UNPACKED_BYTES: it raises ValueError instead."""
    for kind in (DefaultRecordBatch, LegacyRecordBatch):  # of the compiled module or of the one in Python
        module = sys.modules[kind.__module__]
        for name, unpack in _UNPACK.items():
            setattr(module, f"{name}_decode", _bounded(unpack))


def _records(batch: Any, partition: TopicPartition) -> tuple[list[Record], str]:
    """The batch's records, or what is wrong with it."""
    try:
        if batch.is_control_batch:
            return [], ""
        return [record_of(partition, record) for record in batch], ""
    except Exception as error:  # noqa: BLE001 - hostile bytes make aiokafka raise nearly anything
        return [], f"{type(error).__name__}: {error!s:.200}"


def _bounded(unpack: Callable[[bytes, memoryview], int]) -> Callable[[bytes], bytes]:
    def bounded(payload: bytes) -> bytes:
        space = np.empty(MAX_UNPACKED_BYTES, np.uint8).data  # takes memory only where it is written to
        try:
            length = unpack(bytes(payload), space)
        except (cramjam.DecompressionError, struct.error) as error:
            raise ValueError(f"a batch that does not unpack to {MAX_UNPACKED_BYTES} bytes or less: {error}") from error
        return bytes(space[:length])

    return bounded


def _snappy(payload: bytes, space: memoryview) -> int:
    """Snappy, raw or in the blocks of the Java library xerial, which most Kafka clients write."""
    if not payload.startswith(_XERIAL_MAGIC):
        return cramjam.snappy.decompress_raw_into(payload, space)
    at, filled = _XERIAL_HEADER_BYTES, 0
    while at < len(payload):
        (length,) = struct.unpack_from(">I", payload, at)
        filled += cramjam.snappy.decompress_raw_into(payload[at + 4 : at + 4 + length], space[filled:])
        at += 4 + length
    return filled


_UNPACK: dict[str, Callable[[bytes, memoryview], int]] = {
    "gzip": cramjam.gzip.decompress_into,
    "snappy": _snappy,
    "lz4": cramjam.lz4.decompress_into,
    "zstd": cramjam.zstd.decompress_into,
}
