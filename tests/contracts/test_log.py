"""What every `ports.Log` does: the fake, and the Kafka adapter on the embedded broker and on Apache Kafka."""

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import pytest
from confluent_kafka import TopicPartition as ConfluentPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
)

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.domain.place import Place
from edged.domain.topology import Kafka
from edged.errors import LogRefused, RecordTooLarge
from edged.ports import KEPT, Committed, Log, LogReader, Message, Record, TopicPartition, TopicSpec, Watermarks
from edged.reading import Partitions
from tests.support.brokers import Apache, Broker, Embedded
from tests.support.recreated import recreate
from tests.support.shared_brokers import SharedBroker


class Bed(Protocol):
    """A log under test, and control of its broker."""

    def log(self, health: RecordingHealth) -> AbstractAsyncContextManager[Log]: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def truncate(self, partition: TopicPartition, before: int) -> None: ...
    def recreate(self, topic: str) -> None: ...
    def add_partitions(self, topic: str, count: int) -> None: ...
    def set_max_message_bytes(self, topic: str, max_bytes: int) -> None: ...


class MemoryBed:
    def __init__(self) -> None:
        self._log: MemoryLog | None = None
        self._away = False

    @contextlib.asynccontextmanager
    async def log(self, health: RecordingHealth) -> AsyncIterator[MemoryLog]:
        self._log = MemoryLog(health)
        self._log.unavailable = self._away
        yield self._log

    def pause(self) -> None:
        self._set(away=True)

    def resume(self) -> None:
        self._set(away=False)

    def truncate(self, partition: TopicPartition, before: int) -> None:
        assert self._log is not None
        self._log.truncate(partition, before)

    def recreate(self, topic: str) -> None:
        assert self._log is not None
        self._log.delete(topic)

    def add_partitions(self, topic: str, count: int) -> None:
        assert self._log is not None
        self._log.add_partitions(topic, count)

    def set_max_message_bytes(self, topic: str, max_bytes: int) -> None:
        assert self._log is not None
        self._log.set(topic, "max.message.bytes", str(max_bytes))

    def _set(self, *, away: bool) -> None:
        self._away = away
        if self._log is not None:
            self._log.unavailable = away


class BrokerBed:
    def __init__(self, broker: SharedBroker | Broker) -> None:
        self._broker = broker

    def pause(self) -> None:
        assert isinstance(self._broker, Broker), "other tests use the shared one"
        self._broker.pause()

    def resume(self) -> None:
        if isinstance(self._broker, Broker):
            self._broker.resume()

    def log(self, health: RecordingHealth) -> AbstractAsyncContextManager[Log]:
        return KafkaLog(Kafka((self._broker.bootstrap,)), health, deadline_s=1.0)

    def truncate(self, partition: TopicPartition, before: int) -> None:
        admin = AdminClient({"bootstrap.servers": self._broker.bootstrap})
        for done in admin.delete_records([ConfluentPartition(*partition, before)]).values():
            done.result()

    def recreate(self, topic: str) -> None:
        recreate(self._broker.bootstrap, topic)

    def add_partitions(self, topic: str, count: int) -> None:
        admin = AdminClient({"bootstrap.servers": self._broker.bootstrap})
        for done in admin.create_partitions([NewPartitions(topic, count)]).values():
            done.result()

    def set_max_message_bytes(self, topic: str, max_bytes: int) -> None:
        entry = ConfigEntry("max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        admin = AdminClient({"bootstrap.servers": self._broker.bootstrap})
        for done in admin.incremental_alter_configs([resource]).values():
            done.result()


def any_log(*kinds: str) -> pytest.MarkDecorator:
    """`kinds`: "memory" for the fake, in fake time, or the name of a broker's fixture."""
    fake = pytest.param("memory", marks=pytest.mark.looptime)
    return pytest.mark.parametrize("bed", [fake if kind == "memory" else kind for kind in kinds], indirect=True)


every_log = any_log("memory", "embedded_broker", "apache_kafka")
every_pausable_log = any_log("memory", "pausable_embedded_broker", "pausable_apache_kafka")


@pytest.fixture(scope="module")
def pausable_embedded_broker(need_broker: Callable[[type[Broker]], None]) -> Iterator[Embedded]:
    need_broker(Embedded)
    with Embedded() as broker:
        yield broker


@pytest.fixture(scope="module")
def pausable_apache_kafka(need_broker: Callable[[type[Broker]], None]) -> Iterator[Apache]:
    need_broker(Apache)
    with Apache() as broker:
        yield broker


@pytest.fixture
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    if request.param == "memory":
        yield MemoryBed()
        return
    bed = BrokerBed(request.getfixturevalue(request.param))
    yield bed
    bed.resume()


@pytest.fixture
def topic() -> str:
    return f"garden.{uuid.uuid4()}"


@pytest.fixture
async def health() -> RecordingHealth:
    return RecordingHealth()


@pytest.fixture
async def log(bed: Bed, health: RecordingHealth) -> AsyncIterator[Log]:
    async with bed.log(health) as log:
        yield log


def numbered(topic: str, count: int, first: int = 0) -> list[Message]:
    return [Message(topic, b"%d" % number) for number in range(first, first + count)]


async def read(reader: LogReader, count: int, max_records: int = 500) -> list[Record]:
    records: list[Record] = []
    async with asyncio.timeout(120):
        while len(records) < count:
            records += await reader.poll(max_records=max_records, timeout_s=1.0)
    return records


async def read_all(log: Log, topic: str) -> list[Record]:
    """The whole partition."""
    partition = TopicPartition(topic)
    marks = (await log.watermarks([partition]))[partition]
    async with log.reader({partition: marks.low}) as reader:
        return await read(reader, marks.high - marks.low)


@every_log
async def test_records_are_read_as_written_in_order(log: Log, topic: str):
    messages = [
        Message(topic, b"pixels", key=b"sneaker", headers=(("codec", b"jpeg"),), timestamp_ms=1_700_000_000_000),
        Message(topic, b"", key=None, timestamp_ms=1_700_000_000_001),
        *numbered(topic, 50),
    ]

    offsets = await log.append(messages)
    async with log.reader({TopicPartition(topic): 0}) as reader:
        records = await read(reader, len(messages))

    assert offsets == [record.offset for record in records] == list(range(52))
    assert [(record.key, record.value) for record in records] == [(each.key, each.value) for each in messages]
    assert [record.timestamp_ms for record in records[:2]] == [1_700_000_000_000, 1_700_000_000_001]
    assert ("codec", b"jpeg") in records[0].headers
    assert {(record.topic, record.partition) for record in records} == {(topic, 0)}


@every_log
async def test_offsets_are_returned_in_the_order_of_the_messages_whatever_their_partition(log: Log, topic: str):
    await log.ensure([TopicSpec(topic, partitions=2)])

    offsets = await log.append([Message(topic, b"%d" % number, partition=number % 2) for number in range(6)])

    assert offsets == [0, 0, 1, 1, 2, 2]


@every_log
async def test_a_poll_returns_at_most_its_limit_and_the_next_one_continues(log: Log, topic: str):
    await log.append(numbered(topic, 10))

    async with log.reader({TopicPartition(topic): 4}) as reader:
        first = await read(reader, 3, max_records=3)
        rest = await read(reader, 3)

    assert [record.offset for record in first + rest] == [4, 5, 6, 7, 8, 9]


@every_log
async def test_several_partitions_are_read_by_one_reader(log: Log, topic: str):
    await log.ensure([TopicSpec(topic, partitions=2)])
    await log.append([Message(topic, b"%d" % number, partition=number % 2) for number in range(20)])

    async with log.reader({TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 5}) as reader:
        records = await read(reader, 15)

    assert [record.offset for record in records if record.partition == 0] == list(range(10))
    assert [record.offset for record in records if record.partition == 1] == list(range(5, 10))


@every_log
async def test_a_poll_of_a_topic_without_records_is_empty(log: Log, topic: str):
    await log.ensure([TopicSpec(topic)])

    async with log.reader({TopicPartition(topic): 0}) as reader:
        assert await reader.poll(max_records=10, timeout_s=0.1) == []


@every_log
async def test_a_topic_that_does_not_exist_yet_is_read_once_it_does(log: Log, topic: str, health: RecordingHealth):
    async with log.reader({TopicPartition(topic): 0}) as reader:
        assert await reader.poll(max_records=10, timeout_s=0.1) == []
        await log.append(numbered(topic, 3))
        records = await read(reader, 3)

    assert [record.value for record in records] == [b"0", b"1", b"2"]
    assert health.history == []


@every_log
async def test_seek_delivers_again(log: Log, topic: str):
    await log.append(numbered(topic, 5))

    async with log.reader({TopicPartition(topic): 0}) as reader:
        await read(reader, 5)
        reader.seek(TopicPartition(topic), 2)
        again = await read(reader, 3)

    assert [record.offset for record in again] == [2, 3, 4]


@every_log
async def test_lag_counts_records_not_delivered_yet(log: Log, topic: str):
    await log.append(numbered(topic, 10))

    async with log.reader({TopicPartition(topic): 0}) as reader:
        await read(reader, 4, max_records=4)
        assert reader.lag() == 6
        await read(reader, 6)
        assert reader.lag() == 0


@every_log
async def test_lag_is_told_of_each_topic_that_has_one(log: Log, topic: str):
    other = f"{topic}.other"
    await log.append([*numbered(topic, 10), *numbered(other, 3)])

    async with log.reader({TopicPartition(topic): 10, TopicPartition(other): 1}) as reader:
        await read(reader, 1, max_records=1)
        assert reader.lag_by_topic() == {other: 1}
        await read(reader, 1)
        assert reader.lag_by_topic() == {}


@every_log
async def test_partitions_take_turns_of_a_poll(log: Log, topic: str):
    """A topic with many records costs another one a poll at most, whatever was fetched of it."""
    other = f"{topic}.other"
    await log.append([*numbered(topic, 200), *numbered(other, 200)])

    async with log.reader({TopicPartition(topic): 0, TopicPartition(other): 0}) as reader:
        turns = [{record.topic for record in await read(reader, 20, max_records=20)} for _ in range(8)]

    assert max(sum(name in turn for turn in turns) for name in (topic, other)) < 8


@every_log
async def test_a_readers_position_is_after_what_it_delivered_or_where_it_was_sought(log: Log, topic: str):
    partition = TopicPartition(topic)
    await log.append(numbered(topic, 10))

    async with log.reader({partition: 2}) as reader:
        assert reader.position(partition) == 2
        await read(reader, 4, max_records=4)
        assert reader.position(partition) == 6
        reader.seek(partition, 5)
        assert reader.position(partition) == 5


@every_log
async def test_committed_offsets_are_kept_for_the_group(log: Log, topic: str):
    partition = TopicPartition(topic)
    await log.append(numbered(topic, 5))

    async with log.reader({partition: 0}, group=topic) as reader:
        await reader.commit({partition: Place(3)})

    assert (await log.committed(topic, [partition]))[partition].place.offset == 3
    assert await log.committed(f"{topic}-other", [partition]) == {}


@every_log
async def test_a_commit_is_not_held_up_by_a_topic_that_does_not_exist(log: Log, topic: str):
    partition, absent = TopicPartition(topic), TopicPartition(f"{topic}-absent")
    await log.append(numbered(topic, 5))
    async with log.reader({partition: 0, absent: 0}, group=topic) as reader:
        await reader.commit({partition: Place(3), absent: Place(0)})
    assert (await log.committed(topic, [partition]))[partition].place.offset == 3


@any_log("memory", "apache_kafka")  # the embedded broker keeps nothing beside an offset
async def test_the_log_that_a_committed_place_is_of_is_kept(log: Log, topic: str):
    partition = TopicPartition(topic)
    await log.append(numbered(topic, 5))

    async with log.reader({partition: 0}, group=topic) as reader:
        await read(reader, 3, max_records=3)
        place = reader.place(partition)
        await reader.commit({partition: place}, note="7")

    assert await log.committed(topic, [partition]) == {partition: Committed(place, "7")}
    assert place.offset == 3


@any_log("memory", "apache_kafka")  # the embedded broker adds no partitions
async def test_partitions_that_are_added_while_others_are_read_are_found_and_read_from_their_beginnings(
    bed: Bed, log: Log, topic: str
):
    partitions = Partitions(log, lambda: [topic], every_s=0)
    missing = await partitions.look()
    await log.append(numbered(topic, 3))
    assert await partitions.are_still(missing)
    bed.add_partitions(topic, 3)
    async with asyncio.timeout(60):  # brokers hear of them one after the other
        while await partitions.are_still(missing):
            pass
    await log.append([Message(topic, b"1", partition=1), Message(topic, b"2", partition=2)])

    found = await partitions.look()
    async with log.reader(dict.fromkeys(found, 0)) as reader:
        records = await read(reader, 5)

    assert missing == {TopicPartition(topic)}
    assert found == {TopicPartition(topic, each) for each in range(3)}
    assert sorted((each.partition, each.offset) for each in records) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]


@every_log
async def test_watermarks_are_zero_until_the_partition_exists(log: Log, topic: str):
    partition = TopicPartition(topic)
    before = await log.watermarks([partition])

    await log.append(numbered(topic, 7))

    assert before == {partition: Watermarks(0, 0, 0)}
    assert await log.watermarks([partition]) == {partition: Watermarks(0, 7, 7)}


@every_log
async def test_records_before_an_offset_are_deleted_or_the_broker_says_that_it_does_not(log: Log, topic: str):
    partition = TopicPartition(topic)
    await log.ensure([TopicSpec(topic, retention_ms=KEPT)])
    await log.append(numbered(topic, 5))
    low = 3
    try:
        assert await log.trim({partition: 3}) == {partition: 3}
        assert await log.trim({partition: 2}) == {partition: 3}
    except LogRefused:
        low = 0
    assert await log.watermarks([partition]) == {partition: Watermarks(low, 5, 5)}
    async with log.reader({partition: low}) as reader:
        assert (await reader.poll(max_records=1, timeout_s=10))[0].offset == low


@every_log
async def test_ensure_creates_missing_topics_and_leaves_the_others(log: Log, topic: str):
    assert await log.partitions([topic]) == {}

    await log.ensure([TopicSpec(topic, partitions=3)])
    await log.append(numbered(topic, 1))
    await log.ensure([TopicSpec(topic, partitions=1, retention_ms=60_000), TopicSpec(f"{topic}.b")])

    assert await log.partitions([topic, f"{topic}.b", f"{topic}.c"]) == {topic: 3, f"{topic}.b": 1}
    assert [record.value for record in await read_all(log, topic)] == [b"0"]


@any_log("embedded_broker", "apache_kafka")
async def test_topics_that_two_create_at_once_are_there_for_both(
    bed: Bed, health: RecordingHealth, log: Log, topic: str
):
    """As a node and its companion do, which start together."""

    async def found(log: Log, topics: list[str]) -> int:
        await log.ensure([TopicSpec(each) for each in topics])
        return len(await log.partitions(topics))

    async with bed.log(health) as other:
        await asyncio.gather(log.partitions([topic]), other.partitions([topic]))  # both are connected
        for turn in range(4):
            topics = [f"{topic}.{turn}.{n}" for n in range(30)]
            first, second = await asyncio.gather(found(log, topics), found(other, topics))
            assert (first, second) == (30, 30)


@every_log
async def test_a_compacted_topic_has_the_newest_record_of_each_key(log: Log, topic: str):
    """Older ones may go or stay."""
    await log.ensure([TopicSpec(topic, max_message_bytes=1 << 20, compacted=True)])
    written = [(b"slot-%d" % (n % 2), b"%d" % n) for n in range(5)]

    await log.append([Message(topic, value, key=key) for key, value in written])

    assert {record.key: record.value for record in await read_all(log, topic)} == {b"slot-0": b"4", b"slot-1": b"3"}


@every_log
async def test_a_record_of_a_million_bytes_is_accepted_and_a_larger_one_refused(log: Log, topic: str):
    large = bytes(range(250)) * 4_000

    await log.append([Message(topic, large), *numbered(topic, 2)])
    with pytest.raises(RecordTooLarge):
        await log.append([Message(topic, bytes(1_100_000))])
    await log.append(numbered(topic, 1, first=2))

    assert [record.value for record in await read_all(log, topic)] == [large, b"0", b"1", b"2"]


@every_log
async def test_of_several_it_is_told_which_one_is_too_large_for_any_topic(log: Log, topic: str):
    messages = [Message(topic, bytes(990_000)), Message(topic, bytes(990_000), headers=(("name", bytes(100_000)),))]
    with pytest.raises(RecordTooLarge) as refused:
        await log.append([*messages, messages[0]])
    assert (refused.value.index, refused.value.written) == (1, ())


@any_log("memory", "apache_kafka")
async def test_of_several_it_is_told_which_one_its_topic_does_not_take(bed: Bed, log: Log, topic: str):
    """All of a record counts, not its value alone; what is neither written nor refused can be written."""
    await log.ensure([TopicSpec(topic)])
    bed.set_max_message_bytes(topic, 2000)
    pending = [
        Message(topic, os.urandom(1500), headers=(("name", os.urandom(1000)),) if i == 1 else ()) for i in range(3)
    ]
    small = [pending[0].value, pending[2].value]
    with pytest.raises(RecordTooLarge) as refused:
        await log.append(pending, refuse_too_large=True)
    assert refused.value.index == 1
    del pending[1], pending[: len(refused.value.written)]
    await log.append(pending, refuse_too_large=True)
    assert [record.value for record in await read_all(log, topic)] == small


@any_log("memory", "apache_kafka")
async def test_who_can_do_with_smaller_records_is_told_and_others_wait_until_the_topic_takes_them(
    bed: Bed, health: RecordingHealth, log: Log, topic: str
):
    large = [Message(topic, os.urandom(2000))]
    await log.ensure([TopicSpec(topic)])
    bed.set_max_message_bytes(topic, 1000)

    with pytest.raises(RecordTooLarge):
        await log.append(large, refuse_too_large=True)
    waiting = asyncio.create_task(log.append(large))
    await health.until_degraded()
    assert topic in health.reasons["kafka"]
    bed.set_max_message_bytes(topic, 10_000)

    assert await waiting == [0]
    assert not health.reasons


@every_log
async def test_a_cancelled_poll_loses_nothing(log: Log, topic: str):
    await log.append(numbered(topic, 200))
    offsets: list[int] = []

    async with log.reader({TopicPartition(topic): 0}) as reader:
        async with asyncio.timeout(120):
            for turn in range(10_000):
                poll = asyncio.create_task(reader.poll(max_records=3, timeout_s=0.2))
                for _ in range(turn % 7):
                    await asyncio.sleep(0)
                poll.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    offsets += [record.offset for record in await poll]
                if turn % 50 == 0:  # else no fetch would ever be answered in between
                    offsets += [record.offset for record in await reader.poll(max_records=3, timeout_s=1.0)]
                if len(offsets) >= 200:
                    break

    assert offsets == list(range(200))


@any_log("memory", "apache_kafka")  # the embedded broker never deletes records
async def test_records_before_the_low_watermark_are_a_gap(
    bed: Bed, log: Log, topic: str, log_lines: Callable[..., list[dict[str, Any]]]
):
    await log.append(numbered(topic, 10))
    await asyncio.to_thread(bed.truncate, TopicPartition(topic), 6)

    async with log.reader({TopicPartition(topic): 2}) as reader:
        records = await read(reader, 4)

    assert [record.offset for record in records] == [6, 7, 8, 9]
    gap = log_lines("kafka.gap")
    assert {record.incarnation for record in records} != {""}
    assert [(line["wanted_offset"], line["next_offset"]) for line in gap] == [(2, 6)]


@every_log
async def test_a_position_beyond_the_end_is_of_another_log(
    log: Log, topic: str, log_lines: Callable[..., list[dict[str, Any]]]
):
    await log.append(numbered(topic, 3))

    async with log.reader({TopicPartition(topic): 1000}) as reader:
        records = await read(reader, 3)

    assert [record.offset for record in records] == [0, 1, 2]
    assert [(line["wanted_offset"], line["next_offset"]) for line in log_lines("kafka.another_log")] == [(1000, 0)]


@every_log
async def test_a_place_is_found_again_in_the_same_log(log: Log, topic: str):
    partition = TopicPartition(topic)
    await log.append(numbered(topic, 10))
    async with log.reader({partition: 0}) as reader:
        records = await read(reader, 4, max_records=4)
        place = reader.place(partition)
    async with log.reader({partition: place}) as reader:
        rest = await read(reader, 6)

    assert [record.offset for record in rest] == [4, 5, 6, 7, 8, 9]
    assert {record.incarnation for record in records + rest} == {place.incarnation} != {""}
    assert place == records[-1].place_after()


@any_log("memory", "apache_kafka")  # the embedded broker cannot delete a topic
@pytest.mark.parametrize("written", [3, 40], ids=["shorter", "longer"])
async def test_a_recreated_topic_is_read_from_its_beginning(
    bed: Bed, log: Log, topic: str, written: int, log_lines: Callable[..., list[dict[str, Any]]]
):
    partition = TopicPartition(topic)
    await log.append(numbered(topic, 20))
    async with log.reader({partition: 0}) as reader:
        before = await read(reader, 10, max_records=10)
        place = reader.place(partition)
    await asyncio.to_thread(bed.recreate, topic)
    await log.append(numbered(topic, written, first=100))

    async with log.reader({partition: place}) as reader:
        after = await read(reader, written)

    assert [record.value for record in after] == [b"%d" % number for number in range(100, 100 + written)]
    assert after[0].incarnation != before[0].incarnation
    [line] = log_lines("kafka.another_log")
    assert (line["topic"], line["wanted_offset"], line["next_offset"]) == (topic, 10, 0)


@any_log("memory", "apache_kafka")
@pytest.mark.parametrize("written", [3, 10, 40], ids=["shorter", "as long", "longer"])
async def test_a_topic_recreated_under_its_reader_is_read_from_its_beginning(
    bed: Bed, log: Log, topic: str, written: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edged.adapters.kafka.reading.reader._CHECK_S", 0.0)  # the topic is recreated at once
    monkeypatch.setattr("edged.adapters.kafka.reading.reader._IDLE_CHECK_S", 0.0)
    partition = TopicPartition(topic)
    await log.append(numbered(topic, 10))
    async with log.reader({partition: 0}) as reader:
        before = await read(reader, 10)
        await asyncio.to_thread(bed.recreate, topic)
        await log.append(numbered(topic, written, first=100))
        after = await read(reader, written)

    assert [record.value for record in after] == [b"%d" % number for number in range(100, 100 + written)]
    assert after[0].incarnation != before[0].incarnation


@any_log("memory", "apache_kafka")
async def test_a_place_names_the_log_that_it_is_of(bed: Bed, log: Log, topic: str):
    partition = TopicPartition(topic)
    await log.append(numbered(topic, 10))
    async with log.reader({partition: 0}) as reader:
        await read(reader, 5, max_records=5)
        place = reader.place(partition)

    other_record = place._replace(before="4:0000000000000000")
    mirror = place._replace(topic_id="of-another-cluster")
    unknown = place._replace(topic_id="of-another-cluster", before="")
    missing = TopicPartition(f"{topic}.missing")

    assert (await log.resume({partition: place}))[partition]._replace(next="") == place
    assert (await log.resume({partition: mirror}))[partition]._replace(next="") == place
    for other in (other_record, unknown, Place(11)):
        resumed = (await log.resume({partition: other}))[partition]
        assert resumed.offset == 0
        assert resumed.incarnation not in {"", other.incarnation} or other is unknown
    assert await log.resume({missing: place}) == {missing: place}


@every_pausable_log
async def test_an_idle_reader_detects_an_outage_of_the_broker_and_resumes_after_it(
    bed: Bed, log: Log, topic: str, health: RecordingHealth
):
    await log.append(numbered(topic, 1))
    async with log.reader({TopicPartition(topic): 0}) as reader:
        await read(reader, 1)

        bed.pause()
        async with asyncio.timeout(120):
            while "kafka" not in health.reasons:
                assert await reader.poll(max_records=10, timeout_s=0.5) == []

        bed.resume()
        await log.append(numbered(topic, 1, first=1))
        records = await read(reader, 1)

    assert [record.value for record in records] == [b"1"]
    # On a busy machine a broker that was paused may take longer than the deadline once more.
    assert health.history == [("degraded", "kafka"), ("recovered", "kafka")] * max(1, len(health.history) // 2)


@every_pausable_log
async def test_an_append_waits_for_the_broker_and_writes_each_message_once(
    bed: Bed, log: Log, topic: str, health: RecordingHealth
):
    await log.append(numbered(topic, 1))

    bed.pause()
    append = asyncio.create_task(log.append(numbered(topic, 300, first=1)))
    async with asyncio.timeout(120):
        await health.until_degraded()
    bed.resume()
    offsets = await append

    records = await read_all(log, topic)
    assert [record.value for record in records] == [b"%d" % number for number in range(301)]
    assert offsets == [record.offset for record in records[1:]]
    assert health.history == [("degraded", "kafka"), ("recovered", "kafka")]


@every_log
async def test_concurrent_appends_each_keep_their_order(log: Log, topic: str):
    await asyncio.gather(*(log.append(numbered(topic, 40, first=1000 * writer)) for writer in range(5)))

    values = [int(record.value) for record in await read_all(log, topic)]
    for writer in range(5):
        assert [value for value in values if value // 1000 == writer] == [1000 * writer + n for n in range(40)]


@every_pausable_log
async def test_admin_requests_wait_while_the_broker_is_away(bed: Bed, log: Log, topic: str, health: RecordingHealth):
    await log.append(numbered(topic, 2))
    partition = TopicPartition(topic)

    bed.pause()
    question = asyncio.create_task(log.watermarks([partition]))
    async with asyncio.timeout(120):
        await health.until_degraded()
    bed.resume()

    assert await question == {partition: Watermarks(0, 2, 2)}
    assert health.reasons == {}


@pytest.mark.parametrize("kind", ["down_embedded_broker", pytest.param("down_apache_kafka", marks=pytest.mark.slow)])
async def test_a_broker_that_is_down_at_first_is_waited_for(
    kind: str, request: pytest.FixtureRequest, topic: str, health: RecordingHealth
):
    broker: Broker = request.getfixturevalue(kind)

    async with (
        KafkaLog(Kafka((broker.bootstrap,)), health, deadline_s=1.0) as log,
        log.reader({TopicPartition(topic): 0}) as reader,
    ):
        append = asyncio.create_task(log.append(numbered(topic, 3)))
        assert await reader.poll(max_records=10, timeout_s=0.2) == []
        async with asyncio.timeout(120):
            await health.until_degraded()
        await asyncio.to_thread(broker.start)

        assert await append == [0, 1, 2]
        assert [record.offset for record in await read(reader, 3)] == [0, 1, 2]
        assert health.reasons == {}
