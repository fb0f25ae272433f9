"""Writing messages exactly once, also when the connection breaks between a write and its answer.

aiokafka's own producer is not used: it repeats a write by itself (which puts it into the log twice where the broker
has no idempotent producers), it hangs on stop while brokers are away, and it cannot be abandoned without leaving tasks
behind. Here one try is one request, so its fate is known, or known to be unknown:

1. Each message gets a header `edged-id` of 16 random bytes. Before the first write to a partition its high watermark
   is noted: nothing of ours lies below it.
2. A batch goes out under the producer's id and the partition's next sequence number. When no answer comes, the same
   bytes go out again, over a new connection if need be; the broker drops what it has already.
3. When the broker has forgotten the producer, or has no idempotent producers at all (the embedded one), the same
   bytes may not go out again: the partition is read from the noted watermark on, and only what is not there is written.

Batches of one partition follow one another, one in flight, so their order holds.
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
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from edged.adapters.kafka.admin import Control, Producer
from edged.adapters.kafka.connection import CONNECT_S, Connection, Setup
from edged.adapters.kafka.reader import KafkaReader
from edged.aio import Backoff
from edged.errors import RecordTooLarge
from edged.ports import Message, Record, TopicPartition

ID_HEADER = "edged-id"

_BATCH_BYTES = 900_000
_MAX_RECORD_BYTES = 1_048_588 - 61  # Kafka's default message.max.bytes, which counts the batch's header too
_ALL_IN_SYNC = -1
_REPLICATION_TIMEOUT_MS = 15_000
_TIMEOUT_S, _MAX_TIMEOUT_S = 20.0, 160.0
"""How long a write may take before it is repeated; doubled while that is too short for a slow uplink."""

_SETTLE_S = 2.0
"""A broker that was stopped first takes in what lies in its sockets; the partition is read after that."""

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_FORGOTTEN = (OutOfOrderSequenceNumber, InvalidProducerEpoch, InvalidProducerIdMapping, ProducerFenced)
_UNKNOWN_PRODUCER_ID = 59  # has no class in aiokafka
_PERHAPS_WRITTEN = (RequestTimedOutError, NotEnoughReplicasAfterAppendError)
_SEQUENCES = 1 << 31


@dataclass(slots=True)
class _Entry:
    """A message on its way; `offset` once it is in the log."""

    message: Message
    id: bytes = field(default_factory=lambda: os.urandom(16))
    offset: int = -1

    @property
    def written(self) -> bool:
        return self.offset >= 0

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        return [*self.message.headers, (ID_HEADER, self.id)]

    def size_bytes(self) -> int:
        """At most this many bytes in a batch, uncompressed."""
        size: int = DefaultRecordBatchBuilder.estimate_size_in_bytes(self.message.key, self.message.value, self.headers)
        return size


@dataclass(slots=True)
class _Write:
    """One batch of a partition, until it is in the log.

    `data`: the bytes that may go out now under `producer`, None when there are none yet or none any more.
    `in_doubt`: the batch was sent, and nobody knows whether it arrived.
    """

    partition: TopicPartition
    batch: list[_Entry]
    producer: Producer = field(default_factory=Producer)
    data: bytes | None = None
    in_doubt: bool = False

    @property
    def missing(self) -> list[_Entry]:
        return [entry for entry in self.batch if not entry.written]

    def build(self, producer: Producer) -> bytes:
        """The bytes of what is missing, with the producer's next sequence number."""
        self.producer = producer
        sequence = producer.sequences[self.partition] if producer.idempotent else -1
        builder = DefaultRecordBatchBuilder(
            2, DefaultRecordBatch.CODEC_ZSTD, 0, producer.id, producer.epoch, sequence, 2 * _MAX_RECORD_BYTES
        )
        for index, entry in enumerate(self.missing):
            message = entry.message
            builder.append(index, message.timestamp_ms, message.key, message.value, entry.headers)
        self.data = bytes(builder.build())
        return self.data

    def done(self, base: int) -> None:
        """The missing entries were written from offset `base` on."""
        missing = self.missing
        sequence = self.producer.sequences[self.partition]
        self.producer.sequences[self.partition] = (sequence + len(missing)) % _SEQUENCES
        self.in_doubt = False
        for offset, entry in enumerate(missing, base):
            entry.offset = offset


class Appender:
    """Appends for all users of the log; those to one partition wait for each other."""

    def __init__(self, setup: Setup, control: Control) -> None:
        self._setup = setup
        self._control = control
        self._connection = Connection(setup, request_timeout_s=_TIMEOUT_S)
        self._producer: Producer | None = None
        self._locks: dict[TopicPartition, asyncio.Lock] = {}
        self._above: dict[TopicPartition, int] = {}  # nothing that is being written lies below this offset

    async def close(self) -> None:
        await self._connection.close()

    async def append(self, messages: Sequence[Message]) -> list[int]:
        """The messages' offsets. Raises RecordTooLarge."""
        entries = [_Entry(message) for message in messages]
        by_partition: dict[TopicPartition, list[_Entry]] = {}
        for entry in entries:
            if entry.size_bytes() > _MAX_RECORD_BYTES:
                raise RecordTooLarge(entry.message.topic, len(entry.message.value))
            by_partition.setdefault(TopicPartition(entry.message.topic, entry.message.partition), []).append(entry)
        for partition, mine in by_partition.items():
            async with self._locks.setdefault(partition, asyncio.Lock()):
                await self._write_all(partition, mine)
        return [entry.offset for entry in entries]

    async def _write_all(self, partition: TopicPartition, entries: list[_Entry]) -> None:
        if partition not in self._above:
            self._above[partition] = (await self._control.watermarks([partition]))[partition].high
        max_bytes = _BATCH_BYTES
        while missing := [entry for entry in entries if not entry.written]:
            write = _Write(partition, _first(missing, max_bytes))
            try:
                await self._until_written(write)
            except _TOO_LARGE as error:
                if len(write.batch) == 1:
                    raise RecordTooLarge(partition.topic, len(write.batch[0].message.value)) from error
                max_bytes = sum(entry.size_bytes() for entry in write.batch) // 2
            else:
                self._above[partition] = max(entry.offset for entry in write.batch) + 1

    async def _until_written(self, write: _Write) -> None:
        backoff = Backoff()
        try:
            with self._setup.outages.waiting(f"a write to {write.partition.topic}") as wait:
                while True:
                    try:
                        await self._try(write)
                    except _TOO_LARGE:
                        raise
                    except (KafkaError, OSError) as error:
                        wait.failed(self._setup.reason(error))
                        await self._connection.after(error)
                        await backoff.wait()
                    else:
                        return
        finally:
            if write.in_doubt:  # cancelled: whether its sequence number was used is not known
                self._producer = None

    async def _try(self, write: _Write) -> None:
        """One try. Raises KafkaError or OSError when the write is not known to be in the log after it."""
        if write.data is None and write.in_doubt:
            await self._look_up(write)
        if not write.missing:
            return
        data = write.data or write.build(await self._current_producer())
        client = await self._connection.client()
        leader = await _leader(client, write.partition)

        was_in_doubt, write.in_doubt = write.in_doubt, True
        code, base = await self._send(client, leader, write, data)
        error = for_code(code)
        if error is NoError:
            write.done(base)
            return
        if error in _FORGOTTEN or error is DuplicateSequenceNumber or code == _UNKNOWN_PRODUCER_ID:
            self._forget(write)
        if error is not DuplicateSequenceNumber and error not in _PERHAPS_WRITTEN:
            write.in_doubt = was_in_doubt
        raise error(f"a write to {write.partition.topic}: {error.description or error.__name__}")

    async def _send(self, client: AIOKafkaClient, leader: int, write: _Write, data: bytes) -> tuple[int, int]:
        """Error code and base offset from the broker."""
        where = write.partition
        request = ProduceRequest(
            None, _ALL_IN_SYNC, _REPLICATION_TIMEOUT_MS, [(where.topic, [(where.partition, data)])]
        )
        try:
            answer = await client.send(leader, request)
        except (KafkaError, OSError) as error:
            if isinstance(error, RequestTimedOutError):
                self._connection.request_timeout_s = min(2 * self._connection.request_timeout_s, _MAX_TIMEOUT_S)
            if not write.producer.idempotent:
                self._forget(write)
            raise
        self._connection.request_timeout_s = _TIMEOUT_S
        [(_topic, [(_partition, code, base, *_more)])] = answer.topics
        return code, base

    def _forget(self, write: _Write) -> None:
        """The same bytes may not go out again, nor others under this producer's id."""
        self._producer = None
        write.data = None

    async def _current_producer(self) -> Producer:
        if self._producer is None:
            self._producer = await self._control.producer()
        return self._producer

    async def _look_up(self, write: _Write) -> None:
        """Find out what of a batch in doubt is in the log: read from the noted watermark to the present end."""
        await self._control.greeted()
        await asyncio.sleep(_SETTLE_S)
        partition = write.partition
        end = (await self._control.watermarks([partition]))[partition].high
        by_id = {entry.id: entry for entry in write.missing}
        reader = KafkaReader(self._setup, self._control, {partition: self._above[partition]}, None)
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
    where = KafkaPartition(*partition)
    async with asyncio.timeout(CONNECT_S):
        leader: int | None = client.cluster.leader_for_partition(where)
        if leader is None or leader < 0:
            client.add_topic(partition.topic)
            await client.force_metadata_update()
            leader = client.cluster.leader_for_partition(where)
        if partition.topic in client.cluster.unauthorized_topics:
            raise TopicAuthorizationFailedError(f"not authorized for topic {partition.topic}")
        if leader is None or leader < 0:
            raise UnknownTopicOrPartitionError(f"{partition.topic}: partition {partition.partition} has no leader")
        if not await client.ready(leader):
            raise NodeNotReadyError(f"no connection to node {leader}")
    return leader


def _first(entries: Iterable[_Entry], max_bytes: int) -> list[_Entry]:
    """As many from the front as fit, at least one."""
    chosen: list[_Entry] = []
    left = max_bytes
    for entry in entries:
        left -= entry.size_bytes()
        if chosen and left < 0:
            break
        chosen.append(entry)
    return chosen


def _id(record: Record) -> bytes:
    return next((value for key, value in record.headers if key == ID_HEADER), b"")
