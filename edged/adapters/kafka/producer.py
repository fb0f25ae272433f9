"""Writes messages exactly once, even when the connection breaks between a write and its answer.

aiokafka's own producer is not used: it retries a write by itself (which duplicates it where the broker has no
idempotent producers), it hangs on stop while brokers are away, and it cannot be abandoned without leaking tasks. Here
one try is one request, so its outcome is known, or known to be in doubt:

1. Each message gets a header `edged-id` of 16 random bytes. Before the first write to a partition its high watermark
   is recorded: none of our messages is below it.
2. A batch is sent with the producer's id and the partition's next sequence number. Without an answer, the same bytes
   are sent again, over a new connection if necessary; the broker drops duplicates.
3. When the broker has lost the producer's state, or has no idempotent producers at all (the embedded one), the same
   bytes may not be sent again: the partition is read from the recorded watermark on, and only what is missing is
   written.

One batch per partition is in flight at a time, so their order holds.

No record has this machine's time, where the broker has idempotent producers: topics that edged makes get the broker's,
and in others a wrong clock here would have records refused, or deleted before they are read. Those get the broker's
time as far as it is known, or none, and are then kept for as long as they are in the log. (The embedded broker runs
where its users do.)
"""

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaClient
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import (
    DuplicateSequenceNumber,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NoError,
    NotEnoughReplicasAfterAppendError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    RecordListTooLargeError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from edged.adapters.kafka.admin import Admin, ProducerState
from edged.adapters.kafka.broker_clock import BrokerClock
from edged.adapters.kafka.connection import CONNECT_TIMEOUT_S, Connection, Setup
from edged.adapters.kafka.reading.own_reader import OwnReader
from edged.adapters.kafka.refusals import NotAllowed
from edged.aio import Backoff
from edged.domain.topology import kafka_commands
from edged.errors import RecordTooLarge
from edged.ports import Message, Record, TopicPartition

ID_HEADER = "edged-id"

_BATCH_BYTES = 900_000
_TOPIC_MAX_BYTES = 1_048_588  # Kafka's default message.max.bytes, which counts the batch's header too
_MAX_RECORD_BYTES = _TOPIC_MAX_BYTES - 61
_ALL_IN_SYNC = -1
_REPLICATION_TIMEOUT_MS = 15_000
_TIMEOUT_S, _MAX_TIMEOUT_S = 20.0, 160.0
"""Timeout after which a write is repeated; doubled, up to the maximum, while it is too short for a slow uplink."""

_SETTLE_S = 2.0
"""A broker that was suspended first processes what is in its sockets; the partition is read after that."""

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_PRODUCER_LOST = (OutOfOrderSequenceNumber, InvalidProducerEpoch, InvalidProducerIdMapping, ProducerFenced)
_UNKNOWN_PRODUCER_ID = 59  # has no class in aiokafka
_MAYBE_WRITTEN = (RequestTimedOutError, NotEnoughReplicasAfterAppendError)
_NUM_SEQUENCES = 1 << 31
_NO_TIME = -1
"""Kafka goes by the file's time instead, and refuses none."""


@dataclass(slots=True)
class _Entry:
    """A message to be written, `index` of its call; `offset` is -1 until it is in the log."""

    message: Message
    index: int = 0
    id: bytes = field(default_factory=lambda: os.urandom(16))
    offset: int = -1

    @property
    def written(self) -> bool:
        return self.offset >= 0

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        return [*self.message.headers, (ID_HEADER, self.id)]

    def size_bytes(self) -> int:
        """Upper bound of its bytes in a batch, uncompressed."""
        size: int = DefaultRecordBatchBuilder.estimate_size_in_bytes(self.message.key, self.message.value, self.headers)
        return size


@dataclass(slots=True)
class _Write:
    """One batch of a partition, until it is in the log.

    `data`: the bytes that may be sent with `producer`'s id; None when they must be built (again).
    `in_doubt`: the batch was sent, and it is not known whether it was written. `time_refused`: with the time it had.
    """

    partition: TopicPartition
    batch: list[_Entry]
    producer: ProducerState = field(default_factory=ProducerState)
    data: bytes | None = None
    in_doubt: bool = False
    time_refused: bool = False

    @property
    def missing(self) -> list[_Entry]:
        return [entry for entry in self.batch if not entry.written]

    def build(self, producer: ProducerState, now_ms: int | None) -> bytes:
        """The bytes of the missing entries, with the producer's next sequence number.

        `now_ms`: their time, if they have none; None: this machine's.
        """
        self.producer = producer
        sequence = producer.sequences[self.partition] if producer.idempotent else -1
        builder = DefaultRecordBatchBuilder(
            2, DefaultRecordBatch.CODEC_ZSTD, 0, producer.id, producer.epoch, sequence, 2 * _MAX_RECORD_BYTES
        )
        for index, entry in enumerate(self.missing):
            message = entry.message
            time_ms = now_ms if message.timestamp_ms is None else message.timestamp_ms
            time_ms = _NO_TIME if self.time_refused else time_ms
            builder.append(index, time_ms, message.key, message.value, entry.headers)
        self.data = bytes(builder.build())
        return self.data

    def done(self, base: int) -> None:
        """The missing entries were written from offset `base` on."""
        missing = self.missing
        sequence = self.producer.sequences[self.partition]
        self.producer.sequences[self.partition] = (sequence + len(missing)) % _NUM_SEQUENCES
        self.in_doubt = False
        for offset, entry in enumerate(missing, base):
            entry.offset = offset


class Producer:
    """Appends for all users of the log; appends to one partition are serialised."""

    def __init__(self, setup: Setup, admin: Admin, clock: BrokerClock) -> None:
        self._setup = setup
        self._clock = clock
        self._admin = admin
        self._connection = Connection(setup, request_timeout_s=_TIMEOUT_S)
        self._state: ProducerState | None = None
        self._locks: dict[TopicPartition, asyncio.Lock] = {}
        self._search_from: dict[TopicPartition, int] = {}  # nothing that is being written is below this offset

    async def close(self) -> None:
        await self._connection.close()

    async def append(self, messages: Sequence[Message], *, refuse_too_large: bool) -> list[int]:
        """As in the port."""
        entries = [_Entry(message, index) for index, message in enumerate(messages)]
        by_partition: dict[TopicPartition, list[_Entry]] = {}
        for entry in entries:
            if entry.size_bytes() > _MAX_RECORD_BYTES:
                raise RecordTooLarge(entry.message.topic, len(entry.message.value), index=entry.index)
            by_partition.setdefault(TopicPartition(entry.message.topic, entry.message.partition), []).append(entry)
        for partition, its_entries in by_partition.items():
            async with self._locks.setdefault(partition, asyncio.Lock()):
                await self._write_all(partition, its_entries, refuse_too_large=refuse_too_large)
        return [entry.offset for entry in entries]

    async def _write_all(self, partition: TopicPartition, entries: list[_Entry], *, refuse_too_large: bool) -> None:
        if partition not in self._search_from:
            self._search_from[partition] = (await self._admin.watermarks([partition]))[partition].high
        max_bytes = _BATCH_BYTES
        while missing := [entry for entry in entries if not entry.written]:
            write = _Write(partition, _first_fitting(missing, max_bytes))
            try:
                await self._until_written(write, refuse_too_large=refuse_too_large or len(write.batch) > 1)
            except _TOO_LARGE as error:
                if len(write.batch) == 1:
                    (refused,) = write.batch
                    written = [entry.offset for entry in entries[: entries.index(refused)]]
                    size = len(refused.message.value)
                    raise RecordTooLarge(partition.topic, size, written, refused.index) from error
                max_bytes = sum(entry.size_bytes() for entry in write.batch) // 2
            else:
                self._search_from[partition] = max(entry.offset for entry in write.batch) + 1

    async def _until_written(self, write: _Write, *, refuse_too_large: bool) -> None:
        """Raises one of _TOO_LARGE if asked to; else waits until the topic takes it, as for all that is missing."""
        backoff = Backoff()
        try:
            with self._setup.outages.waiting(f"a write to {write.partition.topic}") as wait:
                while True:
                    try:
                        await self._try(write)
                    except (KafkaError, OSError) as error:
                        if refuse_too_large and isinstance(error, _TOO_LARGE):
                            raise
                        self._connection.failed(wait, error)
                        await self._connection.recover_from(error)
                        await backoff.wait()
                    else:
                        return
        finally:
            if write.in_doubt:  # cancelled: it is not known whether its sequence number was used
                self._state = None

    async def _try(self, write: _Write) -> None:
        """Try once. Raises KafkaError or OSError unless the write is known to be in the log."""
        if write.data is None and write.in_doubt:
            await self._look_up(write)
        if not write.missing:
            return
        data = write.data
        if data is None:
            state = await self._current_state()
            data = write.build(state, (self._clock.now_ms() or _NO_TIME) if state.idempotent else None)
        client = await self._connection.client()
        leader = await _leader(client, write.partition)

        was_in_doubt, write.in_doubt = write.in_doubt, True
        code, base = await self._send(client, leader, write, data)
        error = for_code(code)
        if error is NoError:
            write.done(base)
            return
        if error is InvalidTimestampError:  # the same bytes would be refused for ever
            self._clock.forget()
            write.data, write.time_refused = None, True
        if error in _PRODUCER_LOST or error is DuplicateSequenceNumber or code == _UNKNOWN_PRODUCER_ID:
            self._discard_state(write)
        if error is not DuplicateSequenceNumber and error not in _MAYBE_WRITTEN:
            write.in_doubt = was_in_doubt
        if error is TopicAuthorizationFailedError:
            raise NotAllowed("topic", write.partition.topic, "Write")
        if error in _TOO_LARGE:
            raise error(self._too_large(write))
        raise error(f"a write to {write.partition.topic}: {error.description or error.__name__}")

    def _too_large(self, write: _Write) -> str:
        topic, size = write.partition.topic, max(entry.size_bytes() for entry in write.batch)
        command = kafka_commands.alter(
            self._setup.identity.bootstrap, topic, {"max.message.bytes": str(_TOPIC_MAX_BYTES)}
        )
        return f"a record of {size} bytes is too large for topic {topic}; it is taken after: {command}"

    async def _send(self, client: AIOKafkaClient, leader: int, write: _Write, data: bytes) -> tuple[int, int]:
        """Error code and base offset from the broker."""
        topic, partition = write.partition
        request = ProduceRequest(None, _ALL_IN_SYNC, _REPLICATION_TIMEOUT_MS, [(topic, [(partition, data)])])
        sent_s = asyncio.get_running_loop().time()
        try:
            answer = await client.send(leader, request)
        except (KafkaError, OSError) as error:
            if isinstance(error, RequestTimedOutError):
                self._connection.request_timeout_s = min(2 * self._connection.request_timeout_s, _MAX_TIMEOUT_S)
            if not write.producer.idempotent:
                self._discard_state(write)
            raise
        self._connection.request_timeout_s = _TIMEOUT_S
        [(_topic, [(_partition, code, base, appended_ms, *_more)])] = answer.topics
        if appended_ms >= 0:
            self._clock.answered(appended_ms, sent_s)
        return code, base

    def _discard_state(self, write: _Write) -> None:
        """Neither the same bytes nor others may be sent with this producer id."""
        self._state = None
        write.data = None

    async def _current_state(self) -> ProducerState:
        if self._state is None:
            self._state = await self._admin.producer()
        return self._state

    async def _look_up(self, write: _Write) -> None:
        """Find what of a batch in doubt is in the log: read from the recorded watermark to the current end."""
        await self._admin.ping()
        await asyncio.sleep(_SETTLE_S)
        partition = write.partition
        end = (await self._admin.watermarks([partition]))[partition].high
        by_id = {entry.id: entry for entry in write.missing}
        reader = OwnReader(self._admin, {partition: self._search_from[partition]})
        try:
            while reader.position(partition) < end:
                for record in await reader.poll(max_records=1000, timeout_s=1.0):
                    entry = by_id.get(_id(record))
                    if entry is not None:
                        entry.offset = record.offset
        finally:
            await reader.close()
        write.in_doubt = False


async def _leader(client: AIOKafkaClient, partition: TopicPartition) -> int:
    """The connected node that leads the partition."""
    kafka_partition = KafkaPartition(*partition)
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        leader: int | None = client.cluster.leader_for_partition(kafka_partition)
        if leader is None or leader < 0:
            # A broker that makes unknown topics by itself does so for who is about to write, if they may.
            await client.send(client.get_random_node(), MetadataRequest([partition.topic], True))
            client.add_topic(partition.topic)
            await client.force_metadata_update()
            leader = client.cluster.leader_for_partition(kafka_partition)
        if partition.topic in client.cluster.unauthorized_topics:
            raise NotAllowed("topic", partition.topic, None)
        if leader is None or leader < 0:
            raise UnknownTopicOrPartitionError(f"{partition.topic}: partition {partition.partition} has no leader")
        if not await client.ready(leader):
            raise NodeNotReadyError(f"no connection to node {leader}")
    return leader


def _first_fitting(entries: Iterable[_Entry], max_bytes: int) -> list[_Entry]:
    """As many from the front as fit into `max_bytes`, at least one."""
    fitting: list[_Entry] = []
    left = max_bytes
    for entry in entries:
        left -= entry.size_bytes()
        if fitting and left < 0:
            break
        fitting.append(entry)
    return fitting


def _id(record: Record) -> bytes:
    return next((value for key, value in record.headers if key == ID_HEADER), b"")
