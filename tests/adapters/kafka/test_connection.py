"""Closing what belongs to aiokafka: it may hang, it may swallow a cancellation, and it may forget a connection."""

import asyncio
import contextlib
import gc
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import NodeNotReadyError

from edged.adapters.kafka import KafkaLog, connection
from edged.adapters.kafka.admin import Admin
from edged.adapters.kafka.client_log import ClientLog, ClientProblem
from edged.adapters.kafka.connection import Outages, Setup, abandon
from edged.adapters.kafka.reading import reader as kafka_reader
from edged.adapters.kafka.refusals import Identity
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import Kafka, Security
from edged.ports import Message, TopicPartition
from tests.support.brokers import Apache
from tests.support.secured import Authority


async def close_that_swallows_cancellation() -> None:
    """As aiokafka's, which awaits a task of its own that it has cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def close_that_lets_a_cancellation_through() -> None:
    """As aiokafka's, of a task that it has cancelled."""
    task = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    task.cancel()
    await task


async def test_a_cancellation_of_the_clients_own_task_is_not_the_callers():
    await abandon(close_that_lets_a_cancellation_through)


async def test_a_cancellation_during_closing_is_not_lost():
    task = asyncio.create_task(abandon(close_that_swallows_cancellation))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.looptime
@pytest.mark.parametrize("close", [close_that_swallows_cancellation, asyncio.Event().wait])
async def test_a_client_that_hangs_in_closing_is_abandoned(close):
    """Without raising anything: nobody was cancelled."""
    await asyncio.wait_for(abandon(close), 5)


@pytest.mark.looptime
async def test_a_client_is_closed_during_a_cancellation_too():
    """A reader is closed while its user is being cancelled; that alone is no further cancellation."""

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await abandon(asyncio.Event().wait)
            return "closed"
        return ""

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "closed"


async def test_a_reader_whose_fetches_fail_for_long_gets_a_new_consumer_and_reads_on(
    fresh_apache_kafka: Apache, monkeypatch: pytest.MonkeyPatch
):
    """The broker is gone for so long that the consumer is replaced while its fetch waits for the next try."""
    monkeypatch.setattr(kafka_reader, "_REPLACE_CONSUMER_S", 2.0)
    partition, dropped = TopicPartition("garden"), asyncio.Event()
    drop = kafka_reader.KafkaReader._drop_consumer

    async def drop_and_tell(reader: kafka_reader.KafkaReader) -> None:
        await drop(reader)
        dropped.set()

    monkeypatch.setattr(kafka_reader.KafkaReader, "_drop_consumer", drop_and_tell)
    async with KafkaLog(Kafka((fresh_apache_kafka.bootstrap,)), RecordingHealth()) as log:
        await log.append([Message("garden", b"before")])
        async with log.reader({partition: 0}) as reader:
            assert [each.value for each in await reader.poll(max_records=9, timeout_s=30)] == [b"before"]
            await asyncio.to_thread(fresh_apache_kafka.stop)
            while not dropped.is_set():
                assert await reader.poll(max_records=9, timeout_s=0.5) == []
            await asyncio.to_thread(fresh_apache_kafka.start)
            await log.append([Message("garden", b"after")])
            while not (records := await reader.poll(max_records=9, timeout_s=1)):
                pass
            assert [each.value for each in records] == [b"after"]


Work = Callable[[KafkaLog], Coroutine[Any, Any, object]]


class MuteBroker:
    """Accepts connections and answers the first few requests of each, `greetings`, then nothing any more.

    `unanswered` is released at each request that it does not answer, `idle` set while there is no connection.
    """

    def __init__(self, greetings: int) -> None:
        self._greetings = greetings
        self.unanswered = asyncio.Semaphore(0)
        self.idle = asyncio.Event()
        self._num_connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._num_connections += 1
        self.idle.clear()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for number in range(self._greetings + 1):
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                request = await reader.readexactly(size)
                if number == self._greetings:
                    self.unanswered.release()
                else:
                    writer.write(_versions(correlation=request[4:8]))
            await reader.read()
        writer.close()
        self._num_connections -= 1
        if not self._num_connections:
            self.idle.set()


def _versions(correlation: bytes) -> bytes:
    """The answer of a broker that knows metadata requests alone (key 3), in versions 0 and 1."""
    body = correlation + struct.pack(">hihhhi", 0, 1, 3, 0, 1, 0)
    return struct.pack(">i", len(body)) + body


async def watermarks(log: KafkaLog) -> object:
    return await log.watermarks([TopicPartition("garden")])


async def read(log: KafkaLog) -> object:
    async with log.reader({TopicPartition("garden"): 0}) as reader:
        return await reader.poll(max_records=1, timeout_s=60)


@pytest.mark.parametrize("work", [watermarks, read])
@pytest.mark.parametrize("greetings", [0, 1])
@pytest.mark.parametrize(("connect_s", "tries"), [(60.0, 1), (0.05, 2)])
async def test_a_client_abandoned_while_connecting_leaves_no_connection(
    work: Work, greetings: int, connect_s: float, tries: int, monkeypatch: pytest.MonkeyPatch
):
    """Cancelled, or after its time to connect: nothing is left to the garbage collector, which would complain."""

    async def connected(_: Admin) -> None: ...

    for module in (connection, kafka_reader):
        monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", connect_s)
    monkeypatch.setattr(Admin, "connect", connected)  # a reader's first is then the consumer's
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    broker = MuteBroker(greetings)
    async with await asyncio.start_server(broker.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with KafkaLog(Kafka((f"127.0.0.1:{port}",)), RecordingHealth()) as log:
            task = asyncio.create_task(work(log))
            for _ in range(tries):
                await broker.unanswered.acquire()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        del task
        gc.collect()
        assert complaints == []
        async with asyncio.timeout(10):
            await broker.idle.wait()


@pytest.mark.parametrize(
    ("where", "is_brokers_own"), [("broker.lan:9092", False), ("broker.site.lan:9092", True), (1, True)]
)
def test_a_name_that_is_not_the_topologys_is_told_to_be_the_brokers_own(where: str | int, is_brokers_own):
    log = ClientLog()
    setup = Setup({}, Outages(RecordingHealth(), 1.0), log, Identity(bootstrap=("broker.lan:9092",)))
    log.last_problem = ClientProblem("away", socket.gaierror(-2, "Name or service not known"), where)

    reason = setup.reason(NodeNotReadyError())

    assert "no address is known for this host" in reason
    assert ("its advertised.listeners" in reason) is is_brokers_own


async def test_a_connection_that_is_given_up_is_closed_though_the_broker_says_no_goodbye(process: None, tmp_path: Path):
    """With TLS, asyncio would wait 30 s for it, and leave the connection open where the loop ends before."""
    authority = Authority(tmp_path)
    authority.create()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("broker", tmp_path, host="127.0.0.1"))

    def answer_the_handshake(server: socket.socket) -> socket.socket:
        accepted, _ = server.accept()
        secured = context.wrap_socket(accepted, server_side=True)
        assert secured.recv(1)  # its first request
        return socket.socket(fileno=secured.detach())

    with socket.create_server(("127.0.0.1", 0)) as server:
        security = Security("SSL", ca=str(authority.file))
        kafka = Kafka((f"127.0.0.1:{server.getsockname()[1]}",), security)
        async with KafkaLog(kafka, RecordingHealth()) as log:
            question = asyncio.create_task(log.watermarks([TopicPartition("t")]))
            broker = await asyncio.to_thread(answer_the_handshake, server)
            question.cancel()
            await asyncio.gather(question, return_exceptions=True)
        await asyncio.sleep(0)
        with broker:
            broker.setblocking(False)
            with contextlib.suppress(ConnectionResetError):
                while broker.recv(1 << 16):  # BlockingIOError of one that is open
                    pass
