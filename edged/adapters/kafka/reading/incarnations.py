"""Looks at logs from places that were kept, to tell whether they are still the same logs.

Covers which requests that takes. See also: `domain.place` (the rule), `topic_ids`.
"""

import asyncio
from collections.abc import Mapping

from edged.adapters.kafka.admin import Admin
from edged.adapters.kafka.reading.batches import decode
from edged.domain import place as places
from edged.domain.place import Place, Seen
from edged.ports import Record, TopicPartition, Watermarks

_ONE_BATCH = 1
"""Bytes to ask for: a broker sends the first batch whole, however large it is."""


async def look(
    admin: Admin, kept: Mapping[TopicPartition, Place], deadline_s: float | None = None
) -> dict[TopicPartition, Seen]:
    """The logs as they are now, seen from these places; partitions that do not exist are left out.

    Asks again when a topic was recreated meanwhile. Waits for the broker; raises TimeoutError when it does not answer
    a small request within `deadline_s`.
    """
    topics = {partition.topic for partition in kept}
    while True:
        async with asyncio.timeout(deadline_s):
            ids = await admin.topic_ids(topics)
            marks = await admin.watermarks(kept)
        seen = {
            each: await _see(admin, each, place, ids.get(each.topic, ""), marks[each])
            for each, place in kept.items()
            if each.topic in ids or marks[each].high > 0
        }
        if not ids or await admin.topic_ids(topics) == ids:
            return seen


async def _see(admin: Admin, partition: TopicPartition, place: Place, topic_id: str, marks: Watermarks) -> Seen:
    """Fetches no more than it takes: a batch may have a megabyte."""
    low, _stable, high = marks
    before = await _fingerprint(admin, partition, places.offset_of(place.before), marks) if place.before else ""
    seen = Seen(topic_id, low, high, before)
    if not topic_id:
        seen = seen._replace(next=await _fingerprint_from(admin, partition, max(place.offset, low), high))
    if places.needs_first(place, seen):
        seen = seen._replace(first=await _fingerprint_from(admin, partition, low, high))
    return seen


async def _fingerprint(admin: Admin, partition: TopicPartition, offset: int, marks: Watermarks) -> str:
    """Of the record at `offset`; "" when it is gone."""
    if not marks.low <= offset < marks.high:
        return ""
    record, _ = await _first_record(admin, partition, offset)
    return record.place_after().before if record is not None and record.offset == offset else ""


async def _fingerprint_from(admin: Admin, partition: TopicPartition, offset: int, high: int) -> str:
    """Of the first record from `offset` on, past batches that hold none; "" when there is none."""
    while offset < high:
        record, next_offset = await _first_record(admin, partition, offset)
        if record is not None:
            return record.place_after().before
        if next_offset <= offset:
            break
        offset = next_offset
    return ""


async def _first_record(admin: Admin, partition: TopicPartition, offset: int) -> tuple[Record | None, int]:
    """The first record of the batch at `offset`, from there on, and the offset after that batch.

    Also one of a transaction, open or aborted: its content is as good a sign of the log.
    """
    answer = await admin.fetch(partition, offset, _ONE_BATCH, committed=False)
    decoded = decode(answer.batches, partition, offset)
    return (decoded.records[0] if decoded.records else None), decoded.next_offset
