"""The Kafka adapter while the network or the broker fails."""

import asyncio
import contextlib
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.kafka import producer as kafka_producer
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import Kafka
from edged.ports import Log, Message, Record, TopicPartition
from tests.support.brokers import Apache, Broker, Embedded, free_port
from tests.support.proxy import Proxy
from tests.support.shared_brokers import SharedBroker

Lines = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module", params=[Embedded, Apache])
def behind_proxy(
    request: pytest.FixtureRequest, need_broker: Callable[[type[Broker]], None]
) -> Iterator[tuple[Broker, Proxy]]:
    need_broker(request.param)
    port, proxy_port = free_port(), free_port()
    with Proxy(port, proxy_port) as proxy, request.param(port=port, advertised=proxy_port) as broker:
        yield broker, proxy


@pytest.fixture
def proxy(behind_proxy: tuple[Broker, Proxy]) -> Iterator[Proxy]:
    _broker, proxy = behind_proxy
    yield proxy
    proxy.drop_answers = proxy.blackhole = proxy.refuse = False


@pytest.fixture
def broker(behind_proxy: tuple[Broker, Proxy]) -> Iterator[Broker]:
    broker, _proxy = behind_proxy
    yield broker
    broker.resume()


@pytest.fixture
def health() -> RecordingHealth:
    return RecordingHealth()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_producer, "_SETTLE_S", 0.3)
    monkeypatch.setattr(kafka_producer, "_TIMEOUT_S", 0.5)


@pytest.fixture
async def log(broker: Broker, health: RecordingHealth, impatient: None) -> AsyncIterator[KafkaLog]:
    async with KafkaLog(Kafka((broker.bootstrap,)), health, deadline_s=1.0) as log:
        yield log


@pytest.fixture
def topic() -> str:
    return f"garden.{uuid.uuid4()}"


def numbered(topic: str, first: int, count: int) -> list[Message]:
    return [Message(topic, b"%d" % number) for number in range(first, first + count)]


async def until_degraded(health: RecordingHealth) -> None:
    async with asyncio.timeout(120):
        await health.until_degraded()


async def read_all(log: Log, topic: str) -> list[Record]:
    """The whole partition, up to a last record that is written for the purpose."""
    [end] = await log.append([Message(topic, b"end")])
    records: list[Record] = []
    async with log.reader({TopicPartition(topic): 0}) as reader, asyncio.timeout(120):
        while not records or records[-1].offset < end:
            records += await reader.poll(max_records=500, timeout_s=1.0)
    return records[:-1]


def numbers(records: list[Record]) -> list[int]:
    return [int(record.value) for record in records]


async def test_a_write_whose_answer_is_lost_is_in_the_log_once(
    log: KafkaLog, proxy: Proxy, health: RecordingHealth, topic: str
):
    await log.append(numbered(topic, 0, 10))

    proxy.drop_answers = True
    append = asyncio.create_task(log.append(numbered(topic, 10, 300)))
    await until_degraded(health)
    proxy.drop_answers = False
    proxy.cut()
    offsets = await append

    records = await read_all(log, topic)
    assert numbers(records) == list(range(310))
    assert offsets == [record.offset for record in records[10:]]
    assert health.reasons == {}


async def test_a_write_that_never_arrives_is_written_again(
    log: KafkaLog, proxy: Proxy, health: RecordingHealth, topic: str
):
    await log.append(numbered(topic, 0, 10))

    proxy.blackhole = True
    append = asyncio.create_task(log.append(numbered(topic, 10, 300)))
    await until_degraded(health)
    proxy.blackhole = False
    proxy.cut()
    await append

    assert numbers(await read_all(log, topic)) == list(range(310))


async def test_connections_cut_at_any_moment_lose_and_repeat_nothing(log: KafkaLog, proxy: Proxy, topic: str):
    for turn in range(12):
        append = asyncio.create_task(log.append(numbered(topic, turn * 500, 500)))
        for _ in range(turn * 2):
            await asyncio.sleep(0)
        proxy.cut()
        await append

    assert numbers(await read_all(log, topic)) == list(range(12 * 500))


async def test_a_broker_stopped_for_longer_than_a_write_may_take_has_each_message_once(
    log: KafkaLog, broker: Broker, health: RecordingHealth, topic: str
):
    """Its sockets hold the first try, which it processes after it resumes."""
    await log.append(numbered(topic, 0, 10))

    broker.pause()
    append = asyncio.create_task(log.append(numbered(topic, 10, 300)))
    await until_degraded(health)
    broker.resume()
    await append

    assert numbers(await read_all(log, topic)) == list(range(310))


async def test_an_idle_reader_resumes_after_a_half_open_connection(
    log: KafkaLog, proxy: Proxy, health: RecordingHealth, topic: str
):
    await log.append(numbered(topic, 0, 1))
    async with log.reader({TopicPartition(topic): 0}) as reader:
        records: list[Record] = []
        while not records:
            records = await reader.poll(max_records=10, timeout_s=1.0)

        proxy.blackhole = True
        async with asyncio.timeout(120):
            while not health.reasons:
                assert await reader.poll(max_records=10, timeout_s=0.5) == []
        proxy.blackhole = False
        proxy.cut()
        await log.append(numbered(topic, 1, 2))
        async with asyncio.timeout(120):
            while len(records) < 3:
                records += await reader.poll(max_records=10, timeout_s=1.0)

    assert numbers(records) == [0, 1, 2]
    assert health.reasons == {}


async def test_a_cancelled_append_leaves_the_log_usable(
    log: KafkaLog, proxy: Proxy, health: RecordingHealth, topic: str
):
    await log.append(numbered(topic, 0, 5))
    proxy.drop_answers = True
    append = asyncio.create_task(log.append(numbered(topic, 900, 5)))
    await until_degraded(health)

    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append
    proxy.drop_answers = False
    proxy.cut()
    await log.append(numbered(topic, 5, 5))

    kept = numbers(await read_all(log, topic))
    assert [number for number in kept if number < 900] == list(range(10))
    assert [number for number in kept if number >= 900] in ([], [900, 901, 902, 903, 904])


async def test_the_log_closes_while_the_broker_hangs(broker: Broker, health: RecordingHealth, topic: str):
    async with contextlib.AsyncExitStack() as stack:
        log = await stack.enter_async_context(KafkaLog(Kafka((broker.bootstrap,)), health, deadline_s=1.0))
        reader = await stack.enter_async_context(log.reader({TopicPartition(topic): 0}))
        await log.append(numbered(topic, 0, 5))
        await reader.poll(max_records=1, timeout_s=1.0)
        broker.pause()

        async def append_on() -> None:
            while True:  # the first may still be answered
                await log.append(numbered(topic, 5, 5))

        append = asyncio.create_task(append_on())
        await until_degraded(health)
        append.cancel()
        async with asyncio.timeout(60):
            await stack.aclose()


async def test_health_has_the_reason_for_an_outage(proxy: Proxy, broker: Broker, health: RecordingHealth, topic: str):
    proxy.refuse = True
    async with (
        KafkaLog(Kafka((broker.bootstrap,)), health, deadline_s=0.2) as log,
        log.reader({TopicPartition(topic): 0}) as reader,
        asyncio.timeout(120),
    ):
        while not health.reasons:
            assert await reader.poll(max_records=1, timeout_s=0.1) == []

    assert f"127.0.0.1:{proxy.port}" in health.reasons["kafka"]


async def test_a_reader_not_polled_for_long_does_not_take_that_for_silence(
    log: KafkaLog, health: RecordingHealth, topic: str, monkeypatch: pytest.MonkeyPatch
):
    """The trainer asks for no epoch data while it works on what it has."""
    await log.append([Message(topic, b"x")])
    async with log.reader({TopicPartition(topic): 0}) as reader:
        while not await reader.poll(max_records=1, timeout_s=1):
            pass
        loop = asyncio.get_running_loop()
        time = loop.time
        monkeypatch.setattr(loop, "time", lambda: time() + 30)

        assert await reader.poll(max_records=1, timeout_s=0) == []

        monkeypatch.undo()
    assert health.history == []


async def test_the_log_line_has_whether_writes_are_idempotent(log: KafkaLog, broker: Broker, log_lines: Lines):
    await log.partitions(["any"])

    [line] = log_lines("kafka.connected")
    assert line["idempotent"] is isinstance(broker, Apache)
    assert line["bootstrap"] == broker.bootstrap


async def test_a_producer_out_of_sequence_starts_again_with_a_new_id(
    apache_kafka: SharedBroker, health: RecordingHealth, impatient: None, topic: str
):
    async with KafkaLog(Kafka((apache_kafka.bootstrap,)), health) as log:
        await log.append(numbered(topic, 0, 5))
        producer = log._producer._state
        assert producer is not None
        producer.sequences[TopicPartition(topic)] += 7

        await log.append(numbered(topic, 5, 5))

        assert numbers(await read_all(log, topic)) == list(range(10))


async def test_a_power_cut_of_the_broker_loses_and_repeats_nothing(
    fresh_apache_kafka: Apache, health: RecordingHealth, topic: str
):
    async with KafkaLog(Kafka((fresh_apache_kafka.bootstrap,)), health, deadline_s=1.0) as log:
        await log.append(numbered(topic, 0, 100))
        append = asyncio.create_task(log.append(numbered(topic, 100, 5000)))
        await asyncio.to_thread(fresh_apache_kafka.stop, signal.SIGKILL)
        await asyncio.to_thread(fresh_apache_kafka.start)
        await append

        assert numbers(await read_all(log, topic)) == list(range(5100))
        assert health.reasons == {}
