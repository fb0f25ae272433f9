# ruff: noqa: SLF001 - aiokafka has no other place where a batch that it cannot decode may be left out
"""Unpacks what aiokafka's consumer has fetched of a partition, and passes by what cannot be unpacked.

aiokafka raises for such a batch out of a poll of all partitions, whose records are lost with it. Here the batch is left
out where it is met, so that a device that writes many costs nobody else a record, a fetch or a wait. Covers the limit
on one fetch of a partition, too: the bytes that are unpacked, in vain or not; the rest is fetched again, when others
have had their turn. See also: `batches` (the limit on one batch).
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException

from edged.adapters.kafka.reading.batches import MAX_UNPACKED_BYTES
from edged.adapters.kafka.reading.skipped import log_unreadable
from edged.ports import TopicPartition

_MAX_BYTES = 4 * MAX_UNPACKED_BYTES


def pass_unreadable_batches() -> None:
    """Patch aiokafka's consumers."""
    PartitionRecords._unpack_records = _unpacked


def _unpacked(fetched: Any) -> Iterator[Any]:
    """The records of `fetched`, a PartitionRecords, from its `next_fetch_offset` on, which is kept up to date."""
    unreadable = _Unreadable(TopicPartition(*fetched._tp))
    num_bytes = 0
    while fetched._records.has_next() and num_bytes < _MAX_BYTES:
        cost = 0
        end = fetched.next_fetch_offset + 1  # of a batch whose header cannot be trusted
        try:
            batch = _checked(fetched)
            end = max(fetched.next_fetch_offset, batch.next_offset)
            cost = MAX_UNPACKED_BYTES if batch.compression_type else 0
            for record in () if _is_passed(fetched, batch) else batch:
                if _is_wanted(record, batch, fetched.next_fetch_offset):
                    unreadable.tell(record.offset)
                    num_bytes += len(record.value or b"")
                    fetched.next_fetch_offset = record.offset + 1
                    yield fetched._consumer_record(fetched._tp, record)
        except Exception as error:  # noqa: BLE001 - hostile bytes make aiokafka raise nearly anything
            unreadable.add(fetched.next_fetch_offset, end, error)
            num_bytes += cost
        fetched.next_fetch_offset = end
    unreadable.tell()


def _checked(fetched: Any) -> Any:
    """The next batch, whose header is as it was written."""
    batch = fetched._records.next_batch()
    if fetched._check_crcs and not batch.validate_crc():
        raise CorruptRecordException("a batch with another checksum than its own")
    return batch


def _is_passed(fetched: Any, batch: Any) -> bool:
    """Whether the batch is a marker, or of an aborted transaction, as aiokafka decides it."""
    if fetched._isolation_level == READ_COMMITTED and batch.producer_id is not None:
        fetched._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and fetched._contains_abort_marker(batch):
            fetched._aborted_producers.discard(batch.producer_id)
        if batch.is_transactional and batch.producer_id in fetched._aborted_producers:
            return True
    return bool(batch.is_control_batch)


def _is_wanted(record: Any, batch: Any, next_offset: int) -> bool:
    """Whether the record is not before the position. Raises CorruptRecordException for one that is not the batch's."""
    if record.offset >= batch.next_offset:
        raise CorruptRecordException(f"a record of offset {record.offset} in a batch that ends at {batch.next_offset}")
    return bool(record.offset >= next_offset)


class _Unreadable:
    """Unreadable batches one after the other, told together in one line."""

    def __init__(self, partition: TopicPartition) -> None:
        self._partition = partition
        self._first = self._next = 0
        self._error = ""

    def add(self, first: int, end: int, error: Exception) -> None:
        if not self._error:
            self._first, self._error = first, f"{type(error).__name__}: {error!s:.200}"
        self._next = end

    def tell(self, continued: int = 0) -> None:
        """`continued`: the offset of the record behind them, which tells how many they held, if there is one."""
        if self._error:
            log_unreadable(self._partition, self._first, max(self._next, continued), self._error)
            self._error = ""
