"""Reading assigned partitions from given positions.

Positions are the reader's own: an aiokafka consumer that dies is replaced by one that goes on from them. No consumer
group is joined; commits go through Control. A batch that aiokafka cannot decode is passed over, and said so: any client
may write one, and a reader that fails on it would fail at every start.
"""

import asyncio
from collections.abc import Iterable, Mapping

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import CorruptRecordException, KafkaError, OffsetOutOfRangeError

from edged.adapters.kafka.admin import Control
from edged.adapters.kafka.batches import Decoded, decode, record_of
from edged.adapters.kafka.connection import CONNECT_S, Setup, abandon, bootstrapping
from edged.aio import Backoff
from edged.log import logger
from edged.ports import Record, TopicPartition

_MIB = 1 << 20
_SLICE_S = 1.0
"""Longest wait inside one poll before it looks whether the broker still answers."""

_REBUILD_S = 60.0
"""A consumer that heard nothing for this long is replaced; above the time that its largest fetch may take."""

_FETCH_LIMITS = {
    "fetch_max_bytes": 4 * _MIB,  # of compressed bytes; Kafka delivers a larger record all the same
    "max_partition_fetch_bytes": _MIB + (64 << 10),
    "request_timeout_ms": 45_000,  # a full fetch takes as long on an uplink of 200 kbit/s
}


_WAIT_MS = 500
_EMBEDDED_WAIT_MS = 40
"""The embedded broker looks for new records only twice in a wait: a long one delays them by a quarter of it."""


class KafkaReader:
    """A `ports.LogReader`; made by `KafkaLog.reader`.

    A poll may take up to CONNECT_S more than its timeout while it has to connect.
    """

    def __init__(
        self, setup: Setup, control: Control, positions: Mapping[TopicPartition, int], group: str | None
    ) -> None:
        self._setup = setup
        self._control = control
        self._positions = dict(positions)
        self._group = group
        self._consumer: AIOKafkaConsumer | None = None
        self._backoff = Backoff()
        self._connect_at_s = 0.0
        self._high: dict[TopicPartition, int] = {}
        self._stamps: tuple[int | None, ...] = ()
        self._heard_s = asyncio.get_running_loop().time()
        self._looked_s = self._heard_s
        self._silent_s = 0.0

    async def poll(self, *, max_records: int, timeout_s: float) -> list[Record]:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        while True:
            await asyncio.sleep(0)  # a poll without a timeout would else never let the consumer fetch
            try:
                records = await self._poll_once(max_records, min(max(0.0, ends_s - loop.time()), _SLICE_S))
            except (KafkaError, OSError) as error:
                await self._fail(self._setup.reason(error))
                records = []
            if records or loop.time() >= ends_s:
                return records

    def seek(self, partition: TopicPartition, offset: int) -> None:
        assert partition in self._positions
        self._positions[partition] = offset
        if self._consumer is not None:
            self._consumer.seek(KafkaPartition(*partition), offset)

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        assert self._group is not None, "a commit needs the reader's group"
        await self._control.commit(self._group, positions)

    def lag(self) -> int:
        return sum(max(0, self._high.get(each, 0) - position) for each, position in self._positions.items())

    def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    async def close(self) -> None:
        """Abandon the consumer, within seconds."""
        self._setup.outages.gave_up(self)
        await self._drop()

    async def _poll_once(self, max_records: int, timeout_s: float) -> list[Record]:
        consumer = await self._connected(timeout_s)
        if consumer is None:
            return []
        try:
            found = await consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        except OffsetOutOfRangeError as gap:
            await self._skip(consumer, gap.args[0])
            return []
        except Exception as error:  # hostile bytes make aiokafka raise nearly anything
            if isinstance(error, (KafkaError, OSError)) and not isinstance(error, CorruptRecordException):
                raise
            return await self._read_around(consumer, max_records, error)
        # No await from here to the return: what aiokafka handed over must reach the caller.
        if not found:
            return await self._nothing(consumer)
        records = [_record(each) for batch in found.values() for each in batch]
        for each in records:
            self._positions[TopicPartition(each.topic, each.partition)] = each.offset + 1
        self._look(consumer)
        self._hear()
        return records

    async def _connected(self, timeout_s: float) -> AIOKafkaConsumer | None:
        """The consumer; None while the wait after a failed try is longer than `timeout_s`."""
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
        await self._control.connect()
        consumer = AIOKafkaConsumer(
            **self._setup.options,
            **_FETCH_LIMITS,
            fetch_max_wait_ms=_WAIT_MS if self._control.idempotent else _EMBEDDED_WAIT_MS,
            auto_offset_reset="none",
            enable_auto_commit=False,
        )
        try:
            async with asyncio.timeout(CONNECT_S):
                with bootstrapping():
                    await consumer.start()
        except BaseException:
            await abandon(consumer.stop)
            raise
        consumer.assign([KafkaPartition(*each) for each in self._positions])
        for partition, offset in self._positions.items():
            consumer.seek(KafkaPartition(*partition), offset)
        return consumer

    async def _nothing(self, consumer: AIOKafkaConsumer) -> list[Record]:
        """No record came: because there is none, or because the broker does not answer?"""
        self._look(consumer)
        # Not every broker refuses a fetch beyond the end, where a topic that was made anew leaves its readers.
        beyond = {each: at for each, at in self._positions.items() if at > self._high.get(each, at)}
        if beyond:
            await self._skip(consumer, beyond)
        # A longer time is this process's own lateness, in which it could not have heard an answer.
        now_s = asyncio.get_running_loop().time()
        self._silent_s += min(now_s - self._looked_s, _SLICE_S)
        self._looked_s = now_s
        if not self._any_exists(consumer):
            async with asyncio.timeout(self._setup.outages.deadline_s):
                await self._control.greeted()
            self._hear()
        elif self._silent_s > _REBUILD_S:
            await self._fail(f"no fetch answered for {self._silent_s:.0f} s")
        elif self._silent_s > self._setup.outages.deadline_s:
            self._setup.outages.began(self, f"no fetch answered for {self._silent_s:.0f} s")
        return []

    def _look(self, consumer: AIOKafkaConsumer) -> None:
        """Take over the high watermarks, and hear whether a fetch was answered since the last look."""
        stamps = []
        for each in self._positions:
            partition = KafkaPartition(*each)
            stamps.append(consumer.last_poll_timestamp(partition))
            high = consumer.highwater(partition)
            if high is not None:
                self._high[each] = high
        if tuple(stamps) != self._stamps:
            self._stamps = tuple(stamps)
            if any(stamps):
                self._hear()

    def _any_exists(self, consumer: AIOKafkaConsumer) -> bool:
        return any(each.partition in (consumer.partitions_for_topic(each.topic) or ()) for each in self._positions)

    async def _skip(self, consumer: AIOKafkaConsumer, partitions: Iterable[tuple[str, int]]) -> None:
        """Go on at the first record still there, where the position is outside what the partition holds."""
        async with asyncio.timeout(self._setup.outages.deadline_s):
            marks = await self._control.watermarks(TopicPartition(*each) for each in partitions)
        for each, kept in marks.items():
            offset = self._positions[each]
            self._high[each] = kept.high
            if not kept.low <= offset <= kept.high:
                self._positions[each] = kept.low
                consumer.seek(KafkaPartition(*each), kept.low)
                logger().warning(
                    "kafka.gap",
                    topic=each.topic,
                    partition=each.partition,
                    wanted_offset=offset,
                    next_offset=kept.low,
                )

    async def _read_around(self, consumer: AIOKafkaConsumer, max_records: int, error: Exception) -> list[Record]:
        """After a failure to decode: the records before the batch at fault, or none and the position behind it.

        Raises `error` again when no batch is at fault.
        """
        async with asyncio.timeout(self._setup.outages.deadline_s):
            partition, found = await self._find_fault(error)
        records = found.records[:max_records]
        if records:
            self._positions[partition] = records[-1].offset + 1
        else:
            logger().error(
                "kafka.unreadable",
                topic=partition.topic,
                partition=partition.partition,
                first_offset=self._positions[partition],
                next_offset=found.next_offset,
                err=found.fault,
            )
            self._positions[partition] = found.next_offset
        for each, offset in self._positions.items():
            consumer.seek(KafkaPartition(*each), offset)  # records of other partitions may have gone down with these
        self._hear()
        return records

    async def _find_fault(self, error: Exception) -> tuple[TopicPartition, Decoded]:
        for partition, offset in self._positions.items():
            batches = await self._control.fetch(partition, offset, _FETCH_LIMITS["max_partition_fetch_bytes"])
            found = decode(batches, partition, offset)
            if found.fault:
                return partition, found
        raise error

    def _hear(self) -> None:
        self._heard_s = self._looked_s = asyncio.get_running_loop().time()
        self._silent_s = 0.0
        self._setup.outages.answered(self)

    async def _fail(self, reason: str) -> None:
        """Start over with a new consumer after a pause; tell health once the silence is too long."""
        loop = asyncio.get_running_loop()
        self._connect_at_s = loop.time() + self._backoff.next_s()
        if loop.time() - self._heard_s > self._setup.outages.deadline_s:
            self._setup.outages.began(self, reason)
        self._silent_s = 0.0
        await self._drop()

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await abandon(consumer.stop)


def _record(record: "ConsumerRecord[bytes, bytes]") -> Record:
    return record_of(TopicPartition(record.topic, record.partition), record)
