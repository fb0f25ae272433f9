"""What the companion published last: found again after a crash, so that nothing is predicted twice.

Reads the predictions topic's end and single records, once; publishes nothing.
"""

from edged.domain.samples.prediction import Identity, decode
from edged.errors import FormatError
from edged.ports import Log, Record, TopicPartition


async def published_lately(log: Log, partition: TopicPartition, *, most: int, poll_s: float) -> set[Identity]:
    """The samples of the last `most` predictions in `partition`; messages that are none are passed over.

    Waits while the broker is away. Cancellation changes nothing.
    """
    low, high = (await log.watermarks([partition]))[partition]
    position = max(low, high - most)
    identities: set[Identity] = set()
    async with log.reader({partition: position}) as reader:
        while position < high:
            records = await reader.poll(max_records=most, timeout_s=poll_s)
            for record in records:
                position = record.offset + 1
                try:
                    identities.add(decode(record.value).identity)
                except FormatError:
                    continue  # not ours, then; and no one else's prediction can be repeated here
            if not records:  # the broker is away, or retention was faster
                position = max(position, (await log.watermarks([partition]))[partition].low)
    return identities


async def record_at(log: Log, partition: TopicPartition, offset: int, *, poll_s: float) -> Record | None:
    """The record at `offset`; None where the partition has none, or has lost it.

    Waits while the broker is away. Cancellation changes nothing.
    """
    async with log.reader({partition: offset}) as reader:
        while True:
            low, high = (await log.watermarks([partition]))[partition]
            if not low <= offset < high:
                return None
            records = await reader.poll(max_records=1, timeout_s=poll_s)
            if records:
                return records[0] if records[0].offset == offset else None
