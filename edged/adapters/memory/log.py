# ruff: noqa: SLF001 - the reader is the log's other half
"""The fake of ports.Log.

It keeps the port's contract (tests/contracts runs on it too), never waits while there is something to return, and takes
time from the event loop, so that fake time works. Every call passes through the loop once, as real I/O does.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.partition import Fate, Partition, Transaction
from edged.domain import place as places
from edged.domain.archive.sharing import share
from edged.domain.place import Place
from edged.errors import LogRefused, RecordTooLarge
from edged.log import logger
from edged.ports import Committed, Health, Message, Record, TopicPartition, TopicSpec, Watermarks


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
        self.max_record_bytes = 1_048_000
        self.shows_settings = True
        self.topic_settings: dict[str, dict[str, str]] = {}
        self.has_topic_ids = True
        self.commits: dict[tuple[str, TopicPartition], Committed] = {}
        self._health = health or RecordingHealth()
        self._now_ms = now_ms
        self._topics: dict[str, list[Partition]] = {}
        self._members: dict[str, list[MemoryMembership]] = {}
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
        self._of(partition).truncate(before)
        self._changed()

    async def trim(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        await self._available()
        if not self.trims:
            raise LogRefused("this broker deletes no records")
        for partition, offset in before.items():
            if offset > self._of(partition).low:
                self.truncate(partition, offset)
        return {partition: self._of(partition).low for partition in before}

    def compact(self, partition: TopicPartition, first: int, end: int) -> None:
        """Remove the records from offset `first` to `end` - 1, as compaction does: their offsets stay used."""
        self._of(partition).remove(first, end)

    def skip(self, partition: TopicPartition, count: int = 1) -> None:
        """Append what is no record: a transaction's marker, or a batch that nobody can read."""
        self._created(partition).skip(count)
        self._changed()

    def transaction(self) -> "MemoryTransaction":
        """A transaction that another client has begun."""
        return MemoryTransaction(self)

    def add_partitions(self, topic: str, count: int) -> None:
        """Give the topic as many partitions as `count`, as an administrator does."""
        self._created(TopicPartition(topic, count - 1))
        self._changed()

    def delete(self, topic: str) -> None:
        """Delete the topic and its commits; the next append recreates it, from offset 0."""
        del self._topics[topic]
        self.commits = {key: commit for key, commit in self.commits.items() if key[1].topic != topic}
        self._changed()

    def lose(self, partition: TopicPartition, kept: int = 0) -> None:
        """Lose the partition's newest records, as a disk does: `kept` are left. The topic keeps its id."""
        self._of(partition).lose(kept)
        self._changed()

    def mirror(self, topic: str) -> None:
        """Give the topic another id, as the copy of another cluster has."""
        topic_id = self._new_id()
        for partition in self._topics[topic]:
            partition.topic_id = topic_id
        self._changed()

    @contextlib.asynccontextmanager
    async def reader(
        self, positions: Mapping[TopicPartition, Place | int], *, group: str | None = None, own: bool = False
    ) -> AsyncIterator["MemoryReader"]:
        yield MemoryReader(self, positions, group, own=own)

    @contextlib.asynccontextmanager
    async def join(self, group: str, topics: Collection[str]) -> AsyncIterator["MemoryMembership"]:
        membership = MemoryMembership(self, group, topics)
        try:
            yield membership
        finally:
            self.expire(membership)

    def expire(self, membership: "MemoryMembership") -> None:
        """Give what the member holds to the others, as when a broker hears nothing of it; it does not know yet."""
        members = self._members.get(membership.group, [])
        if membership in members:
            members.remove(membership)
            self._changed()

    async def append(self, messages: Sequence[Message], *, refuse_too_large: bool = False) -> list[int]:
        await self._available()
        for index, message in enumerate(messages):
            if _size(message) > self.max_record_bytes:
                raise RecordTooLarge(message.topic, len(message.value), index=index)
            while _size(message) > self._max_bytes(message.topic):
                refusal = RecordTooLarge(message.topic, len(message.value), index=index)
                if refuse_too_large:
                    raise refusal
                self._health.degraded("kafka", str(refusal))
                await self._change.wait()
        self._health.recovered("kafka")
        offsets = [self._append(message) for message in messages]
        self._changed()
        return offsets

    def set(self, topic: str, setting: str, value: str) -> None:
        """Change a setting of the topic."""
        self.topic_settings.setdefault(topic, {})[setting] = value
        self._changed()

    async def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        await self._available()
        return {partition: self._of(partition).watermarks for partition in partitions}

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
            self._changed()
        return [topic.name for topic in topics if topic.name not in self._topics]

    async def settings(self, topics: Iterable[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
        await self._available()
        return {
            topic: {name: value for name, value in self.topic_settings.get(topic, {}).items() if name in names}
            for topic in topics
            if topic in self._topics and self.shows_settings
        }

    def _join(self, membership: "MemoryMembership") -> None:
        members = self._members.setdefault(membership.group, [])
        if membership not in members:
            members.append(membership)
            self._changed()

    def _share(self, group: str) -> None:
        members = {f"{number:03}": member for number, member in enumerate(self._members[group])}
        shared = share(
            {name: member.topics for name, member in members.items()},
            {topic: len(partitions) for topic, partitions in self._topics.items()},
            {name: member.held for name, member in members.items()},
        )
        for name, held in shared.items():
            members[name].held = frozenset(TopicPartition(*each) for each in held)

    def _append(self, message: Message, transaction: Transaction | None = None) -> int:
        partition = self._created(TopicPartition(message.topic, message.partition))
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
        partition.add(record, transaction)
        return record.offset

    def _created(self, partition: TopicPartition) -> Partition:
        partitions = self._topics.get(partition.topic) or self._create(partition.topic, 1)
        partitions.extend(Partition(partitions[0].topic_id) for _ in range(len(partitions), partition.partition + 1))
        return partitions[partition.partition]

    def _create(self, topic: str, partitions: int) -> list[Partition]:
        topic_id = self._new_id()
        self._topics[topic] = [Partition(topic_id) for _ in range(partitions)]
        return self._topics[topic]

    def _max_bytes(self, topic: str) -> int:
        return int(self.topic_settings.get(topic, {}).get("max.message.bytes", self.max_record_bytes))

    def _new_id(self) -> str:
        self._num_created += 1
        return f"id-{self._num_created}" if self.has_topic_ids else ""

    def _resume(self, partition: TopicPartition, place: Place) -> Place:
        return places.resume(place, self._of(partition).seen(place)) if self._exists(partition) else place

    def _exists(self, partition: TopicPartition) -> bool:
        return partition.partition < len(self._topics.get(partition.topic, ()))

    def _of(self, partition: TopicPartition) -> Partition:
        partitions = self._topics.get(partition.topic, ())
        return partitions[partition.partition] if partition.partition < len(partitions) else Partition()

    async def _available(self) -> None:
        await asyncio.sleep(0)
        while self._unavailable:
            self._health.degraded("kafka", "the log is unavailable")
            await self._change.wait()
        self._health.recovered("kafka")

    def _changed(self) -> None:
        for group in self._members if not self._unavailable else ():
            self._share(group)
        self._change.set()
        self._change = asyncio.Event()


class MemoryTransaction:
    """A transaction of another client; made by `MemoryLog.transaction`."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._transaction = Transaction()
        self._partitions: set[TopicPartition] = set()

    def append(self, messages: Sequence[Message]) -> list[int]:
        """Write the messages; return their offsets."""
        self._partitions |= {TopicPartition(each.topic, each.partition) for each in messages}
        offsets = [self._log._append(each, self._transaction) for each in messages]
        self._log._changed()
        return offsets

    def commit(self) -> None:
        """End it: a marker follows in each partition, and its records can be read."""
        self._end(Fate.COMMITTED)

    def abort(self) -> None:
        """End it: a marker follows in each partition, and its records are nobody's."""
        self._end(Fate.ABORTED)

    def _end(self, fate: Fate) -> None:
        self._transaction.fate = fate
        for each in self._partitions:
            self._log.skip(each)


class MemoryMembership:
    """A `ports.Membership` of a MemoryLog; made by `MemoryLog.join`."""

    def __init__(self, log: MemoryLog, group: str, topics: Collection[str]) -> None:
        self.group = group
        self.topics = frozenset(topics)
        self.held: frozenset[TopicPartition] = frozenset()
        self._log = log

    async def other_than(self, known: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        await self._log._available()
        self._log._join(self)
        while self.held == known:
            await self._log._change.wait()
        return self.held


_TICK_S = 1e-6
"""A shorter wait may not advance a fake clock: a loop that polls until a time would never end."""


class MemoryReader:
    """A `ports.LogReader` of a MemoryLog; made by `MemoryLog.reader`."""

    def __init__(
        self, log: MemoryLog, positions: Mapping[TopicPartition, Place | int], group: str | None, *, own: bool
    ) -> None:
        self._log = log
        self._places = {each: places.of(position) for each, position in positions.items()}
        self._group = group
        self._own = own
        self.may_show_gaps = True

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
        return sum(self.lag_by_topic().values())

    def lag_by_topic(self) -> dict[str, int]:
        lag = Counter[str]()
        for each, place in self._places.items():
            lag[each.topic] += max(0, self._end(each) - place.offset)
        return dict(+lag)

    def _end(self, partition: TopicPartition) -> int:
        marks = self._log._of(partition).watermarks
        return marks.high if self._own else marks.stable

    def _any_waiting(self) -> bool:
        self._follow()
        return any(
            any(True for _ in self._log._of(each).readable(place.offset, own=self._own))
            for each, place in self._places.items()
        )

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
            readable = itertools.islice(stored.readable(place.offset, own=self._own), limit - len(taken))
            records = [replace(record, incarnation=place.incarnation, topic_id=stored.topic_id) for record in readable]
            if records:
                taken += records
                del self._places[partition]  # last in the next poll
                self._places[partition] = records[-1].place_after()
            if len(taken) < limit:
                passed = self._places[partition]
                self._places[partition] = passed._replace(offset=max(passed.offset, self._end(partition)))
        return taken


def _log_loss(event: str, partition: TopicPartition, wanted: int, found: int) -> None:
    topic, number = partition
    logger().warning(event, topic=topic, partition=number, wanted_offset=wanted, next_offset=found)


def _size(message: Message) -> int:
    """Bytes of a record without its envelope."""
    return len(message.key or b"") + len(message.value) + sum(len(name) + len(each) for name, each in message.headers)
