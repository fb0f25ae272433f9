"""A log in memory whose readers do not see everything at once, as the embedded broker's at times do not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edged.adapters.memory.log import MemoryLog, MemoryReader
from edged.ports import Record


def hide(log: MemoryLog, topic: str, times: dict[int, float]) -> None:
    """From the topic's readers, the records at these offsets the first so many times that they come by."""
    opened, left = log.reader, dict(times)

    def hides(record: Record) -> bool:
        if record.topic == topic:
            left[record.offset] = left.get(record.offset, 0) - 1
        return left.get(record.offset, -1) >= 0

    @asynccontextmanager
    async def reader(positions, *, group=None) -> AsyncIterator[MemoryReader]:
        async with opened(positions, group=group) as found:
            poll = found.poll

            async def hiding(*, max_records: int, timeout_s: float) -> list[Record]:
                records = await poll(max_records=max_records, timeout_s=timeout_s)
                return [record for record in records if not hides(record)]

            found.poll = hiding  # type: ignore[method-assign]
            yield found

    log.reader = reader  # type: ignore[method-assign]


def delay(log: MemoryLog, topic: str, polls: int) -> None:
    """The topic's readers hear nothing in so many polls first, not even how much there is, as over a slow link."""
    opened = log.reader

    @asynccontextmanager
    async def reader(positions, *, group=None) -> AsyncIterator[MemoryReader]:
        async with opened(positions, group=group) as found:
            poll, lag, left = found.poll, found.lag, polls * any(partition.topic == topic for partition in positions)

            async def late(*, max_records: int, timeout_s: float) -> list[Record]:
                nonlocal left
                if left <= 0:
                    return await poll(max_records=max_records, timeout_s=timeout_s)
                left -= 1
                await asyncio.sleep(timeout_s)
                return []

            found.poll = late  # type: ignore[method-assign]
            found.lag = lambda: 0 if left > 0 else lag()  # type: ignore[method-assign]
            yield found

    log.reader = reader  # type: ignore[method-assign]
