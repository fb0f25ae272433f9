"""A partition's records without the holes that are there for a moment only.

Whoever folds a log would come to something else than the rest without a record that the others have. With several
producers the embedded broker can show a record before the one in front of it: so a hole is looked at again before it
is believed. What is in the records is the reader's matter.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from edged.errors import LogGap
from edged.ports import Log, LogReader, Record, TopicPartition

_LOOKS = 20
"""So often a hole is looked at, before it is taken for one that stays for everybody."""


class Gapless:
    """Reads one partition on from `position`; made by `gapless`."""

    def __init__(self, log: Log, reader: LogReader, partition: TopicPartition, position: int) -> None:
        self._log = log
        self._reader = reader
        self._partition = partition
        self._position = position
        self._looks = 0

    @property
    def position(self) -> int:
        """The next offset that a poll will deliver, if there is such a record: behind what nobody can read, too."""
        return self._reader.position(self._partition)

    @property
    def lag(self) -> int:
        """Records that are known to be there and were not read yet."""
        return self._reader.lag()

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Record]:
        """The next records, as `LogReader.poll`; between two of them, or before the first, is what nobody can read.

        Empty, too, while a hole is looked at. Raises LogGap when the hole is what retention deleted, and when the log
        is another one of the same name. Cancel-safe.
        """
        records = await self._reader.poll(max_records=max_records, timeout_s=max(timeout_s, 0.0))
        if not records:
            return records
        if records[0].offset < self._position:
            raise LogGap(self._position, records[0].offset)
        is_behind_hole = records[0].offset > self._position
        if is_behind_hole:
            self._reader.seek(self._partition, self._position)
            await self._check_kept()
            self._looks += 1
            if self._looks < _LOOKS:
                return []
        whole = _before_hole(records)
        self._position, self._looks = whole[-1].offset + 1, 0
        if is_behind_hole or len(whole) < len(records):
            self._reader.seek(self._partition, self._position)
        return whole

    async def _check_kept(self) -> None:
        low = (await self._log.watermarks([self._partition]))[self._partition].low
        if low > self._position:
            raise LogGap(self._position, low)


@asynccontextmanager
async def gapless(log: Log, partition: TopicPartition, position: int) -> AsyncIterator[Gapless]:
    """A reader from the offset `position` on."""
    async with log.reader({partition: position}) as reader:
        yield Gapless(log, reader, partition, position)


def _before_hole(records: Sequence[Record]) -> list[Record]:
    first = records[0].offset
    return [record for i, record in enumerate(records) if record.offset == first + i]
