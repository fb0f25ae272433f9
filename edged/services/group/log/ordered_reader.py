"""A partition reader that waits for missing offsets before it treats them as deleted.

A member that folds a log without a record that the others fold would compute something else. With several producers the
embedded broker can show a record before the one in front of it, so a gap is read again before it counts as one.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

from edged.errors import LogGap
from edged.ports import Log, LogReader, Record, TopicPartition

_MAX_READS = 20
"""Reads of a gap after which no reader can get its records any more."""


class OrderedReader:
    """Reads one partition from `position` on; made by `read_in_order`."""

    def __init__(self, log: Log, reader: LogReader, partition: TopicPartition, position: int) -> None:
        self._log = log
        self._reader = reader
        self._partition = partition
        self._position = position
        self._num_reads = 0

    def position(self, partition: TopicPartition) -> int:
        """The next offset that a poll will deliver, if there is such a record: also after offsets nobody can read."""
        return self._reader.position(partition)

    @property
    def lag(self) -> int:
        """Records known to be in the log and not read yet."""
        return self._reader.lag()

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Record]:
        """The next records, as `LogReader.poll`; an offset missing between or before them can be read by nobody.

        Empty also while a gap is read again. Raises LogGap when retention deleted the records in the gap, and when the
        log is another one of the same name. Cancel-safe.
        """
        records = await self._reader.poll(max_records=max_records, timeout_s=max(timeout_s, 0.0))
        if not records:
            return records
        if records[0].offset < self._position:
            raise LogGap(self._position, records[0].offset)
        if not self._reader.may_show_gaps:
            await self._check_gap(records)
            self._position = records[-1].offset + 1
            return records
        is_after_gap = records[0].offset > self._position
        if is_after_gap:
            self._reader.seek(self._partition, self._position)
            await self._check_kept(self._position)
            self._num_reads += 1
            if self._num_reads < _MAX_READS:
                return []
        contiguous = _before_gap(records)
        self._position, self._num_reads = contiguous[-1].offset + 1, 0
        if is_after_gap or len(contiguous) < len(records):
            self._reader.seek(self._partition, self._position)
        return contiguous

    async def _check_gap(self, records: Sequence[Record]) -> None:
        """Raises LogGap when an offset before one of these was deleted, rather than of no record."""
        offsets = (self._position - 1, *(record.offset for record in records))
        missing = next((offset + 1 for offset, after in pairwise(offsets) if after > offset + 1), None)
        if missing is None:
            return
        try:
            await self._check_kept(missing)
        except asyncio.CancelledError:
            self._reader.seek(self._partition, self._position)
            raise

    async def _check_kept(self, offset: int) -> None:
        low = (await self._log.watermarks([self._partition]))[self._partition].low
        if low > offset:
            raise LogGap(offset, low)


@asynccontextmanager
async def read_in_order(log: Log, partition: TopicPartition, position: int) -> AsyncIterator[OrderedReader]:
    """A reader from the offset `position` on."""
    async with log.reader({partition: position}) as reader:
        yield OrderedReader(log, reader, partition, position)


def _before_gap(records: Sequence[Record]) -> list[Record]:
    first = records[0].offset
    return [record for i, record in enumerate(records) if record.offset == first + i]
