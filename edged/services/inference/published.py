"""Finds what the companion published last, so that after a crash nothing is predicted twice.

Reads the end of the predictions topic and single records; publishes nothing.
"""

from contextlib import aclosing

from edged.domain.samples.prediction import Identity, decode
from edged.errors import FormatError
from edged.ports import Log, Record, TopicPartition
from edged.reading import newest, read_to_end


async def newest_published(log: Log, partition: TopicPartition, *, limit: int) -> set[Identity]:
    """The samples of the last `limit` predictions in `partition`; foreign messages are skipped.

    Waits while the broker is away. Cancelled: nothing changes.
    """
    return set(await newest(log, partition, _identity, count=limit))


async def record_at(log: Log, partition: TopicPartition, offset: int) -> Record | None:
    """The record at `offset`; None if the partition does not have it, or has it no longer.

    Waits while the broker is away. Cancelled: nothing changes.
    """
    low, stable, _high = (await log.watermarks([partition]))[partition]
    if not low <= offset < stable:
        return None
    async with (
        log.reader({partition: offset}) as reader,
        aclosing(read_to_end(log, reader, partition, max_records=1, end=offset + 1)) as reading,
    ):
        async for records in reading:
            return records[0] if records[0].offset == offset else None
    return None


def _identity(record: Record) -> Identity | None:
    try:
        return decode(record.value).identity
    except FormatError:
        return None  # not ours: nothing of ours is repeated by skipping it
