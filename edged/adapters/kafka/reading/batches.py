"""Decodes stored record batches one by one, within a limit on their decompressed size.

For what is fetched by hand, where a corrupt batch is to be found. aiokafka's consumer has no limit on what a batch
decompresses to, and fails on a marker that compaction has emptied: it is patched here. Fetches nothing. See also:
`unpacking` (what the consumer fetches).
"""

import mmap
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, NamedTuple

import cramjam
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.memory_records import MemoryRecords

from edged.domain.topology.message_sizes import REQUESTS_MESSAGE_BYTES
from edged.ports import Record, TopicPartition

MAX_UNPACKED_BYTES = REQUESTS_MESSAGE_BYTES + (1 << 20)
"""Of one batch: a little more than a node's largest message. A kilobyte of zstd may decompress to 32 MiB."""

_XERIAL_MAGIC = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES = 16


class Decoded(NamedTuple):
    """The records before the first corrupt batch. If there are none, `next_offset` is after the corrupt batches.

    `error`: what is wrong with the batch; empty when none is corrupt.
    """

    records: list[Record]
    next_offset: int
    error: str


def decode(
    batches: bytes,
    partition: TopicPartition,
    first_offset: int,
    aborted: Iterable[tuple[int, int]] = (),
    *,
    in_transactions: bool = True,
) -> Decoded:
    """The records from `first_offset` on in a fetch response, whose last batch may be truncated.

    Without those of the `aborted` transactions (producer id, first offset) and, unless `in_transactions`, of any.
    """
    memory = MemoryRecords(batches)
    transactions = _Transactions(aborted)
    records: list[Record] = []
    next_offset, first_error = first_offset, ""
    while memory.has_next():
        batch: Any = memory.next_batch()
        is_aborted = transactions.is_aborted(batch)
        if is_aborted or (batch.is_transactional and not in_transactions):
            next_offset = max(next_offset, batch.next_offset)
            continue
        decoded, error = _records(batch, partition)
        if error:
            if records:
                return Decoded(records, next_offset, error)
            first_error = first_error or error
            next_offset += 1  # its header is not trusted
        elif first_error and decoded:
            break
        records += [record for record in decoded if record.offset >= first_offset]
        next_offset = max(next_offset, batch.next_offset)
    return Decoded(records, next_offset, first_error)


class _Transactions:
    """Which batches of a fetch response are of aborted transactions; to be asked about each in turn."""

    def __init__(self, aborted: Iterable[tuple[int, int]]) -> None:
        self._aborted = deque(sorted(aborted, key=itemgetter(1)))
        self._producers: set[int] = set()

    def is_aborted(self, batch: Any) -> bool:
        if batch.producer_id is None or not batch.is_transactional:
            return False
        while self._aborted and self._aborted[0][1] <= batch.base_offset:
            self._producers.add(self._aborted.popleft()[0])
        if batch.is_control_batch:
            if ends_aborted(batch):
                self._producers.discard(batch.producer_id)
            return False
        return batch.producer_id in self._producers


def ends_aborted(control_batch: Any) -> bool:
    """Whether the batch is the marker of an aborted transaction; one that compaction has emptied is none."""
    return any(ControlRecord.parse(record.key) == ABORT_MARKER for record in control_batch)


def record_of(partition: TopicPartition, record: Any, incarnation: str = "", topic_id: str = "") -> Record:
    """An aiokafka record as a `Record`. A null value becomes an empty one, also that of a header."""
    headers = tuple((name, value or b"") for name, value in record.headers)
    value = record.value or b""
    return Record(*partition, record.offset, record.timestamp, record.key, value, headers, incarnation, topic_id)


def patch_decoding() -> None:
    """Patch aiokafka: ValueError for batches that decompress to more than MAX_UNPACKED_BYTES; none for empty markers.

    Compaction keeps a producer's last batch without its records: in a compacted topic that may be a marker.
    """
    PartitionRecords._contains_abort_marker = lambda _, batch: ends_aborted(batch)  # noqa: SLF001
    for kind in (DefaultRecordBatch, LegacyRecordBatch):  # from the compiled module or the pure Python one
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
        space = memoryview(mmap.mmap(-1, MAX_UNPACKED_BYTES))  # uses memory only where it is written to
        try:
            length = unpack(bytes(payload), space)
        except (cramjam.DecompressionError, struct.error) as error:
            raise ValueError(f"a batch that does not unpack to {MAX_UNPACKED_BYTES} bytes or less: {error}") from error
        return bytes(space[:length])

    return bounded


def _snappy(payload: bytes, space: memoryview) -> int:
    """Snappy, raw or in the framing of the Java library xerial, which most Kafka clients write."""
    if not payload.startswith(_XERIAL_MAGIC):
        return cramjam.snappy.decompress_raw_into(payload, space)
    position, filled = _XERIAL_HEADER_BYTES, 0
    while position < len(payload):
        (length,) = struct.unpack_from(">I", payload, position)
        position += 4
        filled += cramjam.snappy.decompress_raw_into(payload[position : position + length], space[filled:])
        position += length
    return filled


_UNPACK: dict[str, Callable[[bytes, memoryview], int]] = {
    "gzip": cramjam.gzip.decompress_into,
    "snappy": _snappy,
    "lz4": cramjam.lz4.decompress_into,
    "zstd": cramjam.zstd.decompress_into,
}
