# ruff: noqa: SLF001 - the reader is the log's other half
"""The fake of ports.Log.

It keeps the port's contract (tests/contracts runs on it too), never waits while there is something to return, and takes
time from the event loop, so that fake time works. Every call passes through the loop once, as real I/O does.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edged.adapters.memory.health import RecordingHealth
from edged.errors import RecordTooLarge
from edged.log import logger
from edged.ports import Health, Message, Record, TopicPartition, TopicSpec, Watermarks


@dataclass
class _Partition:
    """Records from offset `low` on."""

    low: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def high(self) -> int:
        return self.low + len(self.records)


class MemoryLog:
    """A `ports.Log` in memory. Appending to an unknown topic creates it, as brokers do by default.

    Switches that tests may set at any time: `unavailable` (calls wait, polls return nothing), `creates_topics`
    (whether `ensure` is allowed to), `max_record_bytes`. `committed_offsets` is by (group, partition).
    """

    def __init__(
        self, health: Health | None = None, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self.creates_topics = True
        self.max_record_bytes = 1_000_000
        self.committed_offsets: dict[tuple[str, TopicPartition], int] = {}
        self._health = health or RecordingHealth()
        self._now_ms = now_ms
        self._topics: dict[str, list[_Partition]] = {}
        self._unavailable = False
        self._change = asyncio.Event()
        self._appended = 0

    @property
    def unavailable(self) -> bool:
        """The broker is unavailable: calls wait, polls return nothing, health is degraded."""
        return self._unavailable

    @unavailable.setter
    def unavailable(self, unavailable: bool) -> None:
        self._unavailable = unavailable
        self._changed()

    def records(self, topic: str, partition: int = 0) -> list[Record]:
        """All records in the partition, for assertions."""
        return list(self._of(TopicPartition(topic, partition)).records)

    def truncate(self, partition: TopicPartition, before: int) -> None:
        """Delete the records below offset `before`, as retention does."""
        stored = self._of(partition)
        del stored.records[: before - stored.low]
        stored.low = before
        self._changed()

    def delete(self, topic: str) -> None:
        """Delete the topic; the next append recreates it, from offset 0."""
        del self._topics[topic]
        self._changed()

    @contextlib.asynccontextmanager
    async def reader(
        self, positions: Mapping[TopicPartition, int], *, group: str | None = None
    ) -> AsyncIterator["MemoryReader"]:
        yield MemoryReader(self, positions, group)

    async def append(self, messages: Sequence[Message]) -> list[int]:
        await self._available()
        for message in messages:
            if len(message.value) > self.max_record_bytes:
                raise RecordTooLarge(message.topic, len(message.value))
        offsets = [self._append(message) for message in messages]
        self._changed()
        return offsets

    async def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        await self._available()
        return {partition: Watermarks(self._of(partition).low, self._of(partition).high) for partition in partitions}

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        await self._available()
        stored = self.committed_offsets
        return {partition: stored[group, partition] for partition in partitions if (group, partition) in stored}

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        await self._available()
        return {topic: len(self._topics[topic]) for topic in topics if topic in self._topics}

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        await self._available()
        if self.creates_topics:
            for topic in topics:
                self._topics.setdefault(topic.name, [_Partition() for _ in range(topic.partitions)])

    def _append(self, message: Message) -> int:
        partitions = self._topics.setdefault(message.topic, [])
        partitions.extend(_Partition() for _ in range(len(partitions), message.partition + 1))
        partition = partitions[message.partition]
        self._appended += 1
        timestamp_ms = self._now_ms() if message.timestamp_ms is None else message.timestamp_ms
        record = Record(
            message.topic,
            message.partition,
            partition.high,
            timestamp_ms,
            message.key,
            message.value,
            (*message.headers, ("edged-id", self._appended.to_bytes(16, "big"))),
        )
        partition.records.append(record)
        return record.offset

    def _of(self, partition: TopicPartition) -> _Partition:
        partitions = self._topics.get(partition.topic, ())
        return partitions[partition.partition] if partition.partition < len(partitions) else _Partition()

    async def _available(self) -> None:
        await asyncio.sleep(0)
        while self._unavailable:
            self._health.degraded("kafka", "the log is unavailable")
            await self._change.wait()
        self._health.recovered("kafka")

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()


_TICK_S = 1e-6
"""A shorter wait may not advance a fake clock: a loop that polls until a time would never end."""


class MemoryReader:
    """A `ports.LogReader` of a MemoryLog; made by `MemoryLog.reader`."""

    def __init__(self, log: MemoryLog, positions: Mapping[TopicPartition, int], group: str | None) -> None:
        self._log = log
        self._positions = dict(positions)
        self._group = group

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Record]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(timeout_s, _TICK_S) if timeout_s > 0 else 0.0):
                await self._log._available()
                while not self._any_waiting():
                    await self._log._change.wait()
                    await self._log._available()
        return [] if self._log.unavailable else self._take(max_records)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        assert partition in self._positions
        self._positions[partition] = offset

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        assert self._group is not None, "a commit needs the reader's group"
        await self._log._available()
        self._log.committed_offsets |= {(self._group, partition): offset for partition, offset in positions.items()}

    def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    def lag(self) -> int:
        return sum(max(0, self._log._of(each).high - position) for each, position in self._positions.items())

    def _any_waiting(self) -> bool:
        self._skip_gaps()
        return self.lag() > 0

    def _skip_gaps(self) -> None:
        for partition, position in self._positions.items():
            stored = self._log._of(partition)
            exists = stored.high > 0
            if exists and not stored.low <= position <= stored.high:
                logger().warning(
                    "kafka.gap",
                    topic=partition.topic,
                    partition=partition.partition,
                    wanted_offset=position,
                    next_offset=stored.low,
                )
                self._positions[partition] = stored.low

    def _take(self, limit: int) -> list[Record]:
        self._skip_gaps()
        taken: list[Record] = []
        for partition, position in list(self._positions.items()):
            stored = self._log._of(partition)
            records = stored.records[position - stored.low :][: limit - len(taken)]
            if records:
                taken += records
                self._positions[partition] = self._positions.pop(partition) + len(records)  # last in the next poll
        return taken
