"""Finds what the companion published last, so that after a crash nothing is predicted twice.

Reads the end of the predictions topic and single records; publishes nothing.
"""

from edged.domain.samples.prediction import Identity, decode
from edged.errors import FormatError
from edged.ports import Log, Record, TopicPartition


async def newest_published(log: Log, partition: TopicPartition, *, limit: int, poll_s: float) -> set[Identity]:
    """The samples of the last `limit` predictions in `partition`; foreign messages are skipped.

    Waits while the broker is away. Cancelled: nothing changes.
    """
    low, high = (await log.watermarks([partition]))[partition]
    position = max(low, high - limit)
    identities: set[Identity] = set()
    async with log.reader({partition: position}) as reader:
        while position < high:
            records = await reader.poll(max_records=limit, timeout_s=poll_s)
            for record in records:
                position = record.offset + 1
                try:
                    identities.add(decode(record.value).identity)
                except FormatError:
                    continue  # not ours: nothing of ours is repeated by skipping it
            if not records:  # the broker is away, or retention deleted them
                position = max(position, (await log.watermarks([partition]))[partition].low)
    return identities


async def record_at(log: Log, partition: TopicPartition, offset: int, *, poll_s: float) -> Record | None:
    """The record at `offset`; None if the partition does not have it, or has it no longer.

    Waits while the broker is away. Cancelled: nothing changes.
    """
    async with log.reader({partition: offset}) as reader:
        while True:
            low, high = (await log.watermarks([partition]))[partition]
            if not low <= offset < high:
                return None
            records = await reader.poll(max_records=1, timeout_s=poll_s)
            if records:
                return records[0] if records[0].offset == offset else None
