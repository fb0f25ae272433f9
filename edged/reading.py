"""What there is to read of a log: its partitions, and one partition to the end that it has now, or back from there.

For services and commands. The end is an offset, not a record: a log may end in a transaction's marker, in a batch that
nobody can decode, or in what compaction has left of one.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

from edged.aio import LongWait
from edged.ports import Log, Record, TopicPartition, Watermarks

POLL_S = 1.0
"""Longest wait for records, before the end is looked up again."""

_GROWTH = 8
"""By how much each step of walking back is longer than the one before."""

_RECORDS_PER_POLL = 64

_NEAR = 1024
"""Records that are read sooner than searched."""

_LOOK_S = 30.0
"""How often partitions are looked for that have come or gone."""

T = TypeVar("T")


class Reader(Protocol):
    """A reader of one partition or more, as far as it is needed here."""

    async def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Record]:
        """As `ports.LogReader.poll`."""

    def position(self, partition: TopicPartition) -> int:
        """As `ports.LogReader.position`."""


class Partitions:
    """The partitions of topics that others write, those too that come later.

    One that comes later is to be read from offset 0: its first records were written before anybody looked.
    """

    def __init__(self, log: Log, topics: Callable[[], Collection[str]], every_s: float = _LOOK_S) -> None:
        """`topics`: those that there are now; more may come."""
        self._log = log
        self._topics = topics
        self._every_s = every_s
        self._count: dict[str, int] = {}
        self._look_at_s = 0.0

    async def look(self) -> frozenset[TopicPartition]:
        """All partitions that there are. Waits while the broker is away.

        A topic that does not exist yet has partition 0; one that is gone keeps those that it had, until it is back.
        """
        self._look_at_s = asyncio.get_running_loop().time() + self._every_s
        self._count = dict.fromkeys(self._topics(), 1) | self._count
        self._count |= await self._log.partitions(self._count)
        return frozenset(TopicPartition(topic, each) for topic, count in self._count.items() for each in range(count))

    async def are_still(self, known: frozenset[TopicPartition]) -> bool:
        """Whether there are these and no others. To be called often: it looks every 30 s, and says yes in between."""
        is_due = asyncio.get_running_loop().time() >= self._look_at_s or len(self._topics()) > len(self._count)
        return not is_due or await self.look() == known


async def read_to_end(
    log: Log,
    reader: Reader,
    partition: TopicPartition,
    *,
    max_records: int,
    end: int | None = None,
    own: bool = False,
) -> AsyncGenerator[Sequence[Record], None]:
    """The records from the reader's position to the partition's present end, at most `max_records` at a time.

    The end is the last stable offset, for a reader that was opened with `own` the high watermark, or `end` before it;
    it moves back with a log that becomes shorter. The last records may be from after it. Says so when it takes long.
    Close it (`contextlib.aclosing`) when leaving it early. Waits while the broker is away. Cancelled: nothing is lost,
    since the reader's position is after what was yielded.
    """
    known = _end((await log.watermarks([partition]))[partition], own=own)
    end = known if end is None else min(end, known)
    wait = LongWait()
    try:
        while (position := reader.position(partition)) < end:
            wait.goes_on(f"{partition.topic}/{partition.partition}, which is read to offset {end}, now at {position}")
            if records := await reader.poll(max_records=max_records, timeout_s=POLL_S):
                yield records
            else:
                end = min(end, _end((await log.watermarks([partition]))[partition], own=own))
    finally:
        wait.is_over()


async def newest(
    log: Log,
    partition: TopicPartition,
    take: Callable[[Record], T | None],
    *,
    count: int = 1,
    within: int | None = None,
) -> list[T]:
    """What `take` makes of this node's newest records in the partition, in their order: `count`, or all.

    Walks back from the high watermark over what is no record, and over those of which `take` makes None; over `within`
    offsets at most. Waits while the broker is away.
    """
    low, _stable, high = (await log.watermarks([partition]))[partition]
    if within is not None:
        low = max(low, high - within)
    start, end = max(low, high - count), high
    found: list[T] = []
    while start < end and len(found) < count:
        older: list[T] = []
        async with (
            log.reader({partition: start}, own=True) as reader,
            aclosing(read_to_end(log, reader, partition, max_records=_RECORDS_PER_POLL, end=end, own=True)) as reading,
        ):
            async for records in reading:
                older += [each for record in records if record.offset < end and (each := take(record)) is not None]
        found = older + found
        start, end = max(low, start - _GROWTH * (end - start)), start
    return found[-count:]


async def first_since(log: Log, partition: TopicPartition, since_ms: int, *, low: int, high: int) -> int:
    """An offset in [low, high] before which all records are older than `since_ms`, and not many after it are.

    By the records' times, in a log in which they never fall; where they do, it may be too low. It is `low` while the
    broker is away.
    """
    async with log.reader({partition: low}) as reader:
        while high - low > _NEAR:
            middle = (low + high) // 2
            reader.seek(partition, middle)
            records = await reader.poll(max_records=1, timeout_s=POLL_S)
            if records and 0 <= records[0].timestamp_ms < since_ms and records[0].offset < high:
                low = records[0].offset
            else:
                high = middle
    return low


def _end(marks: Watermarks, *, own: bool) -> int:
    return marks.high if own else marks.stable
