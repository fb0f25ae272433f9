"""A log in memory whose readers miss or delay records, as the embedded broker's sometimes do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edged.adapters.memory.log import MemoryLog, MemoryReader
from edged.ports import Record


def hide(log: MemoryLog, topic: str, times: dict[int, float]) -> None:
    """Hide records from the topic's readers: offset → the number of times that it is hidden."""
    open_reader, left = log.reader, dict(times)

    def hides(record: Record) -> bool:
        if record.topic == topic:
            left[record.offset] = left.get(record.offset, 0) - 1
        return left.get(record.offset, -1) >= 0

    @asynccontextmanager
    async def reader(positions, *, group=None, own=False) -> AsyncIterator[MemoryReader]:
        async with open_reader(positions, group=group, own=own) as inner:
            poll = inner.poll

            async def hiding(*, max_records: int, timeout_s: float) -> list[Record]:
                records = await poll(max_records=max_records, timeout_s=timeout_s)
                return [record for record in records if not hides(record)]

            inner.poll = hiding  # type: ignore[method-assign]
            yield inner

    log.reader = reader  # type: ignore[method-assign]


def delay(log: MemoryLog, topic: str, polls: int) -> None:
    """Let the first `polls` polls of the topic's readers time out, without a lag, as over a slow link."""
    open_reader = log.reader

    @asynccontextmanager
    async def reader(positions, *, group=None, own=False) -> AsyncIterator[MemoryReader]:
        async with open_reader(positions, group=group, own=own) as inner:
            poll, lag, left = inner.poll, inner.lag, polls * any(partition.topic == topic for partition in positions)

            async def late(*, max_records: int, timeout_s: float) -> list[Record]:
                nonlocal left
                if left <= 0:
                    return await poll(max_records=max_records, timeout_s=timeout_s)
                left -= 1
                await asyncio.sleep(timeout_s)
                return []

            inner.poll = late  # type: ignore[method-assign]
            inner.lag = lambda: 0 if left > 0 else lag()  # type: ignore[method-assign]
            yield inner

    log.reader = reader  # type: ignore[method-assign]
