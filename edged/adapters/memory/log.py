# ruff: noqa: SLF001 - the reader is the log's other half
"""The fake of ports.Log.

It keeps the port's contract (tests/contracts runs on it too), never waits while there is something to return, and takes
time from the event loop, so that fake time works. Every call passes through the loop once, as real I/O does.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edged.adapters.memory.health import RecordingHealth
from edged.domain import place as places
from edged.domain.place import Place, Seen, fingerprint
from edged.errors import LogRefused, RecordTooLarge
from edged.log import logger
from edged.ports import Committed, Health, Message, Record, TopicPartition, TopicSpec, Watermarks


@dataclass
class _Partition:
    """Records from offset `low` on."""

    topic_id: str = ""
    low: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def high(self) -> int:
        return self.low + len(self.records)

    def seen(self, place: Place) -> Seen:
        """The log as seen from the place."""
        before = self.fingerprint(places.offset_of(place.before)) if place.before else ""
        after = self.fingerprint(max(place.offset, self.low))
        return Seen(self.topic_id, self.low, self.high, before, after, self.fingerprint(self.low))

    def fingerprint(self, offset: int) -> str:
        """Of the record at `offset`; "" when it is not here."""
        if not self.low <= offset < self.high:
            return ""
        record = self.records[offset - self.low]
        return fingerprint(offset, record.timestamp_ms, record.key, record.value, record.headers)


class MemoryLog:
    """A `ports.Log` in memory. Appending to an unknown topic creates it, as brokers do by default.

    Switches that tests may set at any time: `unavailable` (calls wait, polls return nothing), `creates_topics`
    (whether `ensure` is allowed to), `trims` (whether `trim` is), `max_record_bytes`, `has_topic_ids` (of topics that
    are created from then on). `commits` is by (group, partition).
    """

    def __init__(
        self, health: Health | None = None, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self.creates_topics = True
        self.trims = True
        self.max_record_bytes = 1_000_000
        self.has_topic_ids = True
        self.commits: dict[tuple[str, TopicPartition], Committed] = {}
        self._health = health or RecordingHealth()
        self._now_ms = now_ms
        self._topics: dict[str, list[_Partition]] = {}
        self._num_created = 0
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

    @property
    def committed_offsets(self) -> dict[tuple[str, TopicPartition], int]:
        """The offsets in `commits`, for assertions."""
        return {key: commit.place.offset for key, commit in self.commits.items()}

    def records(self, topic: str, partition: int = 0) -> list[Record]:
        """All records in the partition, for assertions."""
        return list(self._of(TopicPartition(topic, partition)).records)

    def truncate(self, partition: TopicPartition, before: int) -> None:
        """Delete the records below offset `before`, as retention does."""
        stored = self._of(partition)
        del stored.records[: before - stored.low]
        stored.low = before
        self._changed()

    async def trim(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        await self._available()
        if not self.trims:
            raise LogRefused("this broker deletes no records")
        for partition, offset in before.items():
            if offset > self._of(partition).low:
                self.truncate(partition, offset)
        return {partition: self._of(partition).low for partition in before}

    def delete(self, topic: str) -> None:
        """Delete the topic and its commits; the next append recreates it, from offset 0."""
        del self._topics[topic]
        self.commits = {key: commit for key, commit in self.commits.items() if key[1].topic != topic}
        self._changed()

    def lose(self, partition: TopicPartition, kept: int = 0) -> None:
        """Lose the partition's newest records, as a disk does: `kept` are left. The topic keeps its id."""
        del self._of(partition).records[kept:]
        self._changed()

    def mirror(self, topic: str) -> None:
        """Give the topic another id, as the copy of another cluster has."""
        topic_id = self._new_id()
        for partition in self._topics[topic]:
            partition.topic_id = topic_id
        self._changed()

    @contextlib.asynccontextmanager
    async def reader(
        self, positions: Mapping[TopicPartition, Place | int], *, group: str | None = None
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

    async def resume(self, kept: Mapping[TopicPartition, Place]) -> dict[TopicPartition, Place]:
        await self._available()
        return {each: self._resume(each, place) for each, place in kept.items()}

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        await self._available()
        stored = self.commits
        return {partition: stored[group, partition] for partition in partitions if (group, partition) in stored}

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        await self._available()
        return {topic: len(self._topics[topic]) for topic in topics if topic in self._topics}

    async def ensure(self, topics: Sequence[TopicSpec]) -> list[str]:
        await self._available()
        if self.creates_topics:
            for topic in topics:
                if topic.name not in self._topics:
                    self._create(topic.name, topic.partitions)
        return [topic.name for topic in topics if topic.name not in self._topics]

    def _append(self, message: Message) -> int:
        partitions = self._topics.get(message.topic) or self._create(message.topic, 1)
        partitions.extend(_Partition(partitions[0].topic_id) for _ in range(len(partitions), message.partition + 1))
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

    def _create(self, topic: str, partitions: int) -> list[_Partition]:
        topic_id = self._new_id()
        self._topics[topic] = [_Partition(topic_id) for _ in range(partitions)]
        return self._topics[topic]

    def _new_id(self) -> str:
        self._num_created += 1
        return f"id-{self._num_created}" if self.has_topic_ids else ""

    def _resume(self, partition: TopicPartition, place: Place) -> Place:
        return places.resume(place, self._of(partition).seen(place)) if self._exists(partition) else place

    def _exists(self, partition: TopicPartition) -> bool:
        return partition.partition < len(self._topics.get(partition.topic, ()))

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

    def __init__(self, log: MemoryLog, positions: Mapping[TopicPartition, Place | int], group: str | None) -> None:
        self._log = log
        self._places = {each: places.of(position) for each, position in positions.items()}
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
        self._places[partition] = self._places[partition]._replace(offset=offset, before="", next="")

    async def commit(self, places: Mapping[TopicPartition, Place], note: str = "") -> None:
        assert self._group is not None, "a commit needs the reader's group"
        await self._log._available()
        self._log.commits |= {(self._group, each): Committed(place, note) for each, place in places.items()}

    def position(self, partition: TopicPartition) -> int:
        return self._places[partition].offset

    def place(self, partition: TopicPartition) -> Place:
        return self._places[partition]

    def lag(self) -> int:
        return sum(max(0, self._log._of(each).high - place.offset) for each, place in self._places.items())

    def _any_waiting(self) -> bool:
        self._follow()
        return self.lag() > 0

    def _follow(self) -> None:
        """Follow partitions that have become another log, and skip what was deleted."""
        for partition, place in self._places.items():
            if not self._log._exists(partition):
                continue
            stored = self._log._of(partition)
            seen = stored.seen(place)
            now = places.resume(place, seen)
            if not places.is_same(place, seen):
                _log_loss("kafka.another_log", partition, place.offset, now.offset)
            elif now.offset < stored.low:
                _log_loss("kafka.gap", partition, place.offset, stored.low)
                now = now._replace(offset=stored.low)
            self._places[partition] = now

    def _take(self, limit: int) -> list[Record]:
        self._follow()
        taken: list[Record] = []
        for partition, place in list(self._places.items()):
            stored = self._log._of(partition)
            records = [
                replace(record, incarnation=place.incarnation, topic_id=stored.topic_id)
                for record in stored.records[place.offset - stored.low :][: limit - len(taken)]
            ]
            if records:
                taken += records
                del self._places[partition]  # last in the next poll
                self._places[partition] = records[-1].place_after()
        return taken


def _log_loss(event: str, partition: TopicPartition, wanted: int, found: int) -> None:
    topic, number = partition
    logger().warning(event, topic=topic, partition=number, wanted_offset=wanted, next_offset=found)
