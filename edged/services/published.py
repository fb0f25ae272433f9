"""What the companion published last: found again after a crash, so that nothing is predicted twice.

Reads the predictions topic's end once; publishes nothing.
"""

from edged.domain.prediction import Identity, decode
from edged.errors import FormatError
from edged.ports import Log, TopicPartition


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
