"""Reads the committed records of assigned partitions from given positions.

The reader keeps the positions itself: when an aiokafka consumer fails, its replacement resumes from them. No consumer
group is joined; commits go through Admin. Before its first fetch, and again before what it fetched is delivered, the
reader looks whether the logs are the ones that its places are of: another log is read from its beginning. A batch that
aiokafka cannot decode is skipped and logged: any client may write one, and a reader that fails on it would fail at
every start.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, TopicAuthorizationFailedError

from edged.adapters.kafka.admin import Admin
from edged.adapters.kafka.connection import CONNECT_TIMEOUT_S, Setup, abandon_consumer, start_consumer
from edged.adapters.kafka.reading.batches import record_of
from edged.adapters.kafka.reading.incarnations import look
from edged.adapters.kafka.reading.skipped import log_loss
from edged.aio import Backoff
from edged.domain import place as places
from edged.domain.place import Place
from edged.ports import Record, TopicPartition

_MIB = 1 << 20
_DENIED_S = 5.0
"""Time between two tries to read a topic without the right to."""

_MAX_POLL_S = 1.0
"""Maximum wait within a poll before it checks whether the broker still answers."""

_REPLACE_CONSUMER_S = 60.0
"""A consumer without an answer for this long is replaced; above the time that its largest fetch may take."""

_FETCH_LIMITS = {
    "fetch_max_bytes": 4 * _MIB,  # compressed; Kafka still delivers a larger record
    "max_partition_fetch_bytes": _MIB + (64 << 10),
    "request_timeout_ms": 45_000,  # a full fetch takes as long on an uplink of 200 kbit/s
}


_CHECK_S, _CHECK_WITHOUT_IDS_S, _IDLE_CHECK_S = 1.0, 5.0, 5.0
"""For how long a log is not looked at again: no topic is deleted, recreated and longer than before within a second in
which its reader had no error. Without ids a look takes a fetch."""

_WAIT_MS = 500
_EMBEDDED_WAIT_MS = 40
"""The embedded broker checks for new records only twice per wait: a long wait delays them by a quarter of it."""


_Batches = dict[KafkaPartition, list["ConsumerRecord[bytes, bytes]"]]


class _EmptyFetches(NamedTuple):
    """What fetches from `offset` on had said by the end of the last poll; had one of them records, the next has them.

    `answered_ms` and `stable`: of the last answer. `since_ms`: of the last one before the first of these polls.
    """

    offset: int
    answered_ms: int | None
    stable: int
    since_ms: int | None


class _Denied(NamedTuple):
    """A topic that may not be read: not asked for again `until_s` (the loop's time), denied `since_ms` (Unix time)."""

    until_s: float
    since_ms: int


class KafkaReader:
    """A `ports.LogReader`, from `KafkaLog.reader`.

    A poll that has to connect may exceed its timeout by up to CONNECT_TIMEOUT_S.
    """

    def __init__(
        self, setup: Setup, admin: Admin, positions: Mapping[TopicPartition, Place | int], group: str | None
    ) -> None:
        self._setup = setup
        self._admin = admin
        self._places = {each: places.of(position) for each, position in positions.items()}
        self._positions = {each: place.offset for each, place in self._places.items()}
        self._last: dict[TopicPartition, Record] = {}
        self._fetched: list[ConsumerRecord[bytes, bytes]] = []  # not delivered yet
        self._check_at_s = 0.0
        self._idle_check_at_s = asyncio.get_running_loop().time() + _IDLE_CHECK_S
        self._had_turn: set[KafkaPartition] = set()
        self._group = group
        self._consumer: AIOKafkaConsumer | None = None
        self._denied: dict[str, _Denied] = {}
        self._backoff = Backoff()
        self._connect_at_s = 0.0
        self._high: dict[TopicPartition, int] = {}
        self._stable: dict[TopicPartition, int] = {}
        self._empty: dict[TopicPartition, _EmptyFetches] = {}  # since the last record of any partition
        self._poll_timestamps: tuple[int | None, ...] = ()
        self._fetched_at: dict[TopicPartition, tuple[int | None, float]] = {}  # its timestamp, and when that was new
        self._ask_at_s = 0.0
        self._answered_s = asyncio.get_running_loop().time()
        self._checked_s = self._answered_s
        self._silent_s = 0.0

    @property
    def may_show_gaps(self) -> bool:
        return not self._admin.idempotent

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Record]:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        while True:
            await asyncio.sleep(0)  # lets the consumer fetch, even in polls without a timeout
            try:
                records = await self._poll_once(max_records, min(max(0.0, ends_s - loop.time()), _MAX_POLL_S))
            except (KafkaError, OSError) as error:
                await self._fail(self._setup.explained(error), at_once=self._setup.is_refusal(error))
                records = []
            if records or loop.time() >= ends_s:
                return records

    def seek(self, partition: TopicPartition, offset: int) -> None:
        assert partition in self._positions
        self._go_to(partition, self._places[partition]._replace(offset=offset, before="", next=""))
        if self._consumer is not None:
            self._consumer.seek(KafkaPartition(*partition), offset)

    async def commit(self, kept: Mapping[TopicPartition, Place], note: str = "") -> None:
        assert self._group is not None, "a commit needs the reader's group"
        await self._admin.commit(self._group, kept, note)

    def lag(self) -> int:
        return sum(self.lag_by_topic().values())

    def lag_by_topic(self) -> dict[str, int]:
        lag = Counter[str]()
        for each, position in self._positions.items():
            lag[each.topic] += max(0, self._stable.get(each, 0) - position)
        return dict(+lag)

    def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    def place(self, partition: TopicPartition) -> Place:
        last = self._last.pop(partition, None)
        if last is not None:
            self._places[partition] = last.place_after()
        return self._places[partition]._replace(offset=self._positions[partition])

    async def close(self) -> None:
        """Abandon the consumer, within seconds."""
        self._setup.outages.withdraw(self)
        for topic in self._denied:
            self._setup.outages.withdraw((self, topic))
        await self._drop_consumer()

    async def _poll_once(self, max_records: int, timeout_s: float) -> list[Record]:
        consumer = await self._connected(timeout_s)
        if consumer is None:
            return []
        self._try_again(consumer)
        if self._fetched:  # by a poll that was cancelled or had no answer
            return await self._deliver(consumer, max_records)
        try:
            batches = await self._next_batches(consumer, max_records, timeout_s)
        except (TopicAuthorizationFailedError, OffsetOutOfRangeError) as error:
            if isinstance(error, TopicAuthorizationFailedError):
                self._set_aside(consumer, error)
            else:
                await self._follow((TopicPartition(*each) for each in error.args[0]), consumer)
            return []
        # No await from here on until the records are kept: what aiokafka has delivered must reach the caller.
        if not batches:
            await self._pass_what_is_no_record(consumer)
            return await self._handle_empty_poll(consumer)
        self._empty.clear()
        self._fetched = [each for batch in batches.values() for each in batch]
        return await self._deliver(consumer, max_records)

    async def _next_batches(self, consumer: AIOKafkaConsumer, max_records: int, timeout_s: float) -> _Batches:
        """What is there of partitions that have not had their turn; else of any, and then all are without one again.

        A full poll is the turn of the partitions that it is of. aiokafka gives all that it has fetched of a partition,
        which may take the caller many polls, before it gives the next one's.
        """
        waiting = {KafkaPartition(*each) for each in self._positions} - self._had_turn
        batches: _Batches = {}
        if self._had_turn and waiting:
            batches = await consumer.getmany(*waiting, timeout_ms=0, max_records=max_records)
        if not batches:
            self._had_turn.clear()
            batches = await consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        if sum(map(len, batches.values())) == max_records:
            self._had_turn.update(batches)
        return batches

    async def _deliver(self, consumer: AIOKafkaConsumer, max_records: int) -> list[Record]:
        """What was fetched, once it is known whose records they are."""
        fetched_from = {TopicPartition(each.topic, each.partition) for each in self._fetched}
        is_known = all(self._places[each].is_named for each in fetched_from)
        if not is_known or asyncio.get_running_loop().time() >= self._check_at_s:
            await self._check_logs(consumer)
        fetched, self._fetched = self._fetched[:max_records], self._fetched[max_records:]
        delivered = [self._delivered(TopicPartition(each.topic, each.partition), each) for each in fetched]
        await self._pass_what_is_no_record(consumer)
        self._update(consumer)
        self._mark_answered()
        return delivered

    def _delivered(self, partition: TopicPartition, fetched: "ConsumerRecord[bytes, bytes]") -> Record:
        place = self._places[partition]
        record = record_of(partition, fetched, place.incarnation, place.topic_id)
        self._positions[partition] = record.offset + 1
        self._last[partition] = record
        return record

    async def _pass_what_is_no_record(self, consumer: AIOKafkaConsumer) -> None:
        """Go on to the consumer's own positions, which are after markers, too. Does not wait."""
        if not self._fetched:
            for partition in self._positions:
                self._positions[partition] = await consumer.position(KafkaPartition(*partition))

    async def _check_logs(self, consumer: AIOKafkaConsumer) -> None:
        """Follow what has become another log since the last look. Raises KafkaError or OSError, and stays due.

        It reports no outage: the reader does, when nothing is delivered for too long.
        """
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            ids = await self._admin.topic_ids_now(each.topic for each in self._positions)
        known = {each: place.topic_id for each, place in self._places.items()}
        changed = [each for each in known if ids.get(each.topic, known[each]) != known[each]] if ids else list(known)
        if changed:
            await self._follow(changed, consumer)
        now_s = asyncio.get_running_loop().time()
        self._check_at_s = now_s + (_CHECK_S if ids else _CHECK_WITHOUT_IDS_S)
        self._idle_check_at_s = now_s + _IDLE_CHECK_S

    async def _follow(self, partitions: Iterable[TopicPartition], consumer: AIOKafkaConsumer | None = None) -> None:
        """Look at these logs: go to the beginning of another one, and past what was deleted. Raises TimeoutError."""
        kept = {each: self.place(each) for each in partitions}
        seen = await look(self._admin, kept, self._setup.outages.deadline_s)
        for each, log in seen.items():
            self._high[each] = log.high
            self._stable.pop(each, None)
            now = places.resume(kept[each], log)
            is_same = places.is_same(kept[each], log)
            if is_same and now.offset < log.low:
                now = now._replace(offset=log.low)
                log_loss("kafka.gap", each, kept[each].offset, log.low)
            elif not is_same and kept[each].offset > 0:
                log_loss("kafka.another_log", each, kept[each].offset, now.offset)
            if now.offset != kept[each].offset or not is_same:
                self._go_to(each, now)
                if consumer is not None:
                    consumer.seek(KafkaPartition(*each), now.offset)
            else:
                self._places[each] = now

    def _go_to(self, partition: TopicPartition, place: Place) -> None:
        """Read there next, and forget what was fetched elsewhere."""
        self._places[partition] = place
        self._positions[partition] = place.offset
        self._last.pop(partition, None)
        self._fetched = [each for each in self._fetched if (each.topic, each.partition) != partition]

    async def _connected(self, timeout_s: float) -> AIOKafkaConsumer | None:
        """The consumer; None while the backoff after a failed try exceeds `timeout_s`."""
        if self._consumer is not None:
            return self._consumer
        loop = asyncio.get_running_loop()
        pause_s = self._connect_at_s - loop.time()
        if pause_s > 0:
            await asyncio.sleep(min(pause_s, timeout_s))
        if loop.time() < self._connect_at_s:
            return None
        with self._setup.outages.waiting("a connection"):
            self._consumer = await self._start()
        self._backoff.reset()
        return self._consumer

    async def _start(self) -> AIOKafkaConsumer:
        await self._admin.connect()
        await self._follow(self._positions)
        self._check_at_s = 0.0
        consumer = AIOKafkaConsumer(
            **self._setup.options,
            **_FETCH_LIMITS,
            isolation_level="read_committed",
            fetch_max_wait_ms=_WAIT_MS if self._admin.idempotent else _EMBEDDED_WAIT_MS,
            auto_offset_reset="none",
            enable_auto_commit=False,
        )
        await start_consumer(consumer)
        consumer.assign([KafkaPartition(*each) for each in self._positions])
        for partition, offset in self._positions.items():
            consumer.seek(KafkaPartition(*partition), offset)
        self._setup.outages.clients.add(consumer._client)  # noqa: SLF001 - it has one like all others
        self._fetched_at.clear()
        return consumer

    def _set_aside(self, consumer: AIOKafkaConsumer, denied: TopicAuthorizationFailedError) -> None:
        """Do without a topic that may not be read, for a while: the others are read on."""
        topic = str(denied.args[0])
        consumer.pause(*self._partitions_of(topic))
        self._denied[topic] = _Denied(asyncio.get_running_loop().time() + _DENIED_S, int(1000 * time.time()))
        self._setup.outages.begin((self, topic), self._setup.explained(denied))

    def _try_again(self, consumer: AIOKafkaConsumer) -> None:
        """Read the topics again that were set aside long enough ago."""
        now_s = asyncio.get_running_loop().time()
        for topic, denied in self._denied.items():
            if now_s >= denied.until_s:
                consumer.resume(*self._partitions_of(topic))

    def _end_denials(self, consumer: AIOKafkaConsumer) -> None:
        """Topics that were denied and are being read are no outage any more."""
        for topic, denied in list(self._denied.items()):
            fetched_ms = [consumer.last_poll_timestamp(each) or 0 for each in self._partitions_of(topic)]
            if max(fetched_ms) > denied.since_ms:
                del self._denied[topic]
                self._setup.outages.end((self, topic))

    def _partitions_of(self, topic: str) -> list[KafkaPartition]:
        return [KafkaPartition(*each) for each in self._positions if each.topic == topic]

    async def _handle_empty_poll(self, consumer: AIOKafkaConsumer) -> list[Record]:
        """Distinguish a broker without new records from one that does not answer."""
        self._update(consumer)
        # Not every broker refuses a fetch beyond the end, where readers of a recreated topic are.
        beyond = {each: offset for each, offset in self._positions.items() if offset > self._high.get(each, offset)}
        if beyond:
            await self._follow(beyond, consumer)
        self._pass_empty_ends(consumer)
        # A recreated topic of the same length has nothing to fetch, and no error to answer with.
        if self._silent_s < _MAX_POLL_S and asyncio.get_running_loop().time() >= self._idle_check_at_s:
            await self._check_logs(consumer)
        # More than that is delay of this process itself, in which it could not have received an answer.
        now_s = asyncio.get_running_loop().time()
        self._silent_s += min(now_s - self._checked_s, _MAX_POLL_S)
        self._checked_s = now_s
        if not self._any_exists(consumer) or all(each.topic in self._denied for each in self._positions):
            async with asyncio.timeout(self._setup.outages.deadline_s):
                await self._admin.ping()
            self._mark_answered()
        elif self._silent_s > _REPLACE_CONSUMER_S:
            await self._fail(f"no fetch answered for {self._silent_s:.0f} s")
        elif self._silent_s > self._setup.outages.deadline_s:
            self._setup.outages.begin(self, f"no fetch answered for {self._silent_s:.0f} s")
        return []

    def _update(self, consumer: AIOKafkaConsumer) -> None:
        """Update the watermarks, and note whether a fetch was answered since the last update."""
        self._end_denials(consumer)
        now_s = asyncio.get_running_loop().time()
        timestamps = []
        for each in self._positions:
            partition = KafkaPartition(*each)
            timestamps.append(consumer.last_poll_timestamp(partition))
            if each not in self._fetched_at or self._fetched_at[each][0] != timestamps[-1]:
                self._fetched_at[each] = timestamps[-1], now_s
            high = consumer.highwater(partition)
            if high is not None:
                stable = consumer.last_stable_offset(partition)  # of the same answer
                self._high[each], self._stable[each] = high, stable
                self._setup.open_transactions.update(
                    each, position=self._positions[each], stable=stable, high=high, now_s=now_s
                )
        self._ask_for_silent_leaders(now_s)
        if tuple(timestamps) != self._poll_timestamps:
            self._poll_timestamps = tuple(timestamps)
            if any(timestamps):
                self._mark_answered()

    def _ask_for_silent_leaders(self, now_s: float) -> None:
        """Whether another broker leads a partition by now whose leader is silent, also while the others answer.

        What was fetched and waits for its turn is silent, too: to ask costs little.
        """
        deadline_s = self._setup.outages.deadline_s
        is_any_silent = any(now_s - since_s > deadline_s for _timestamp, since_s in self._fetched_at.values())
        if is_any_silent and now_s >= self._ask_at_s:
            self._setup.outages.clients.ask_who_leads()
            self._ask_at_s = now_s + deadline_s

    def _any_exists(self, consumer: AIOKafkaConsumer) -> bool:
        return any(each.partition in (consumer.partitions_for_topic(each.topic) or ()) for each in self._positions)

    def _pass_empty_ends(self, consumer: AIOKafkaConsumer) -> None:
        """Pass the offsets up to the end whose batches compaction has removed whole: no fetch brings any."""
        if not self._admin.idempotent:  # the embedded broker removes nothing, and may answer before it has looked
            return
        for each, offset in self._positions.items():
            seen = consumer.last_poll_timestamp(KafkaPartition(*each)), self._stable.get(each, 0)
            before = self._empty.get(each)
            if before is None or before.offset != offset:
                self._empty[each] = _EmptyFetches(offset, *seen, since_ms=seen[0])
            elif before.answered_ms != before.since_ms and offset < before.stable:
                self._positions[each] = before.stable
                consumer.seek(KafkaPartition(*each), before.stable)
            else:
                self._empty[each] = _EmptyFetches(offset, *seen, since_ms=before.since_ms)

    def _mark_answered(self) -> None:
        self._answered_s = self._checked_s = asyncio.get_running_loop().time()
        self._silent_s = 0.0
        self._setup.outages.end(self)

    async def _fail(self, reason: str, *, at_once: bool = False) -> None:
        """Replace the consumer after a backoff; degrade health `at_once`, or when the silence exceeds the deadline."""
        loop = asyncio.get_running_loop()
        self._connect_at_s = loop.time() + self._backoff.next_s()
        if at_once or loop.time() - self._answered_s > self._setup.outages.deadline_s:
            self._setup.outages.begin(self, reason)
        self._silent_s = 0.0
        await self._drop_consumer()

    async def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._fetched = []  # the next consumer fetches it again
        if consumer is not None:
            await abandon_consumer(consumer)
