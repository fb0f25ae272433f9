"""What every `ports.Log` makes of what is no record, and of other clients' transactions."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.kafka.producer import _Entry, _Write
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog, MemoryTransaction
from edged.domain.topology import Kafka
from edged.ports import Log, LogReader, Message, TopicPartition, TopicSpec, Watermarks
from edged.reading import newest, read_to_end
from tests.support.foreign_producers import UNREADABLE, transaction, write_batch
from tests.support.shared_brokers import SharedBroker


class Transaction(Protocol):
    """Another client's."""

    async def append(self, messages: Sequence[Message]) -> None: ...
    async def commit(self) -> None: ...
    async def abort(self) -> None: ...


class Bed(Protocol):
    """A log, and other clients of it."""

    @property
    def log(self) -> Log: ...
    def transaction(self) -> AbstractAsyncContextManager[Transaction]: ...
    async def write_unreadable(self, topic: str) -> None: ...


class _MemoryTransaction:
    def __init__(self, inner: MemoryTransaction) -> None:
        self._inner = inner

    async def append(self, messages: Sequence[Message]) -> None:
        self._inner.append(messages)

    async def commit(self) -> None:
        self._inner.commit()

    async def abort(self) -> None:
        self._inner.abort()


class MemoryBed:
    def __init__(self) -> None:
        self.log = MemoryLog()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        yield _MemoryTransaction(self.log.transaction())

    async def write_unreadable(self, topic: str) -> None:
        self.log.skip(TopicPartition(topic))


class ApacheBed:
    def __init__(self, log: KafkaLog, bootstrap: str) -> None:
        self.log = log
        self._bootstrap = bootstrap

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return transaction(self._bootstrap)

    async def write_unreadable(self, topic: str) -> None:
        await write_batch(self._bootstrap, topic, UNREADABLE)


@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.looptime), "apache_kafka"])
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    if request.param == "memory":
        yield MemoryBed()
        return
    broker: SharedBroker = request.getfixturevalue("apache_kafka")
    async with KafkaLog(Kafka((broker.bootstrap,)), RecordingHealth()) as log:
        yield ApacheBed(log, broker.bootstrap)


@pytest.fixture
async def partition(bed: Bed) -> TopicPartition:
    topic = f"garden.{uuid.uuid4()}"
    await bed.log.ensure([TopicSpec(topic)])
    return TopicPartition(topic)


def numbered(partition: TopicPartition, *numbers: int) -> list[Message]:
    return [Message(partition.topic, b"%d" % number) for number in numbers]


async def numbers(log: Log, reader: LogReader, partition: TopicPartition, *, own: bool = False) -> list[int]:
    """What is read to the end."""
    read = read_to_end(log, reader, partition, max_records=2, own=own)
    async with asyncio.timeout(120):
        return [int(record.value) async for records in read for record in records]


async def until(bed: Bed, partition: TopicPartition, marks: Watermarks) -> None:
    """Markers follow the end of a transaction."""
    async with asyncio.timeout(120):
        while (await bed.log.watermarks([partition]))[partition] != marks:
            pass


async def test_only_committed_records_are_read_and_the_end_may_be_a_marker(bed: Bed, partition: TopicPartition):
    await bed.log.append(numbered(partition, 0))
    async with bed.transaction() as committed:
        await committed.append(numbered(partition, 1, 2))
        await committed.commit()
    await until(bed, partition, Watermarks(0, 4, 4))
    await bed.log.append(numbered(partition, 3))
    async with bed.transaction() as aborted:
        await aborted.append(numbered(partition, 4, 5, 6))
        await aborted.abort()
    await until(bed, partition, Watermarks(0, 9, 9))

    for own in (False, True):
        async with bed.log.reader({partition: 0}, own=own) as reader:
            assert await numbers(bed.log, reader, partition, own=own) == [0, 1, 2, 3]
            assert (reader.position(partition), reader.lag()) == (9, 0)
    assert await newest(bed.log, partition, lambda record: int(record.value)) == [3]


async def test_an_open_transaction_holds_up_readers_of_content_and_not_those_of_own_records(
    bed: Bed, partition: TopicPartition
):
    await bed.log.append(numbered(partition, 0))
    async with bed.transaction() as foreign, bed.log.reader({partition: 0}) as reader:
        await foreign.append(numbered(partition, 1))
        await bed.log.append(numbered(partition, 2))

        assert await bed.log.watermarks([partition]) == {partition: Watermarks(0, 1, 3)}
        assert await numbers(bed.log, reader, partition) == [0]
        assert await reader.poll(max_records=10, timeout_s=0.1) == []
        assert (reader.position(partition), reader.lag()) == (1, 0)
        async with bed.log.reader({partition: 0}, own=True) as own:
            assert await numbers(bed.log, own, partition, own=True) == [0, 2]
            assert (own.position(partition), own.lag()) == (3, 0)
        assert await newest(bed.log, partition, lambda record: int(record.value), count=2) == [0, 2]

        await foreign.commit()
        await until(bed, partition, Watermarks(0, 4, 4))
        assert await numbers(bed.log, reader, partition) == [1, 2]


async def test_unreadable_batches_at_the_end_are_passed(
    bed: Bed, partition: TopicPartition, log_lines: Callable[..., list[dict[str, Any]]]
):
    await bed.log.append(numbered(partition, 0))
    for _ in range(2):
        await bed.write_unreadable(partition.topic)

    for own in (False, True):
        async with bed.log.reader({partition: 0}, own=own) as reader:
            assert await numbers(bed.log, reader, partition, own=own) == [0]
            assert (reader.position(partition), reader.lag()) == (3, 0)
    assert await newest(bed.log, partition, lambda record: int(record.value)) == [0]


async def test_a_topic_of_nothing_but_what_is_no_record_is_at_its_end(bed: Bed, partition: TopicPartition):
    async with bed.transaction() as foreign:
        await foreign.append(numbered(partition, 0))
        await foreign.abort()
    await until(bed, partition, Watermarks(0, 2, 2))

    async with bed.log.reader({partition: 0}) as reader:
        assert await numbers(bed.log, reader, partition) == []
        assert reader.position(partition) == 2
    assert await newest(bed.log, partition, lambda record: record) == []


async def test_a_write_in_doubt_is_looked_up_past_an_open_transaction(apache_kafka: SharedBroker):
    async with KafkaLog(Kafka((apache_kafka.bootstrap,)), RecordingHealth()) as log:
        partition = TopicPartition(f"garden.{uuid.uuid4()}")
        await log.ensure([TopicSpec(partition.topic)])
        write = _Write(partition, [_Entry(message) for message in numbered(partition, 1, 2)])
        async with transaction(apache_kafka.bootstrap) as foreign, asyncio.timeout(120):
            await foreign.append(numbered(partition, 0))
            log._producer._search_from[partition] = 0
            await log._producer._until_written(write, refuse_too_large=False)
            offsets = [entry.offset for entry in write.batch]
            write.batch[0].offset = write.batch[1].offset = -1
            await log._producer._look_up(write)
            assert [entry.offset for entry in write.batch] == offsets == [1, 2]
            await foreign.abort()
