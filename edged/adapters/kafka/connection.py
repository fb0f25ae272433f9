"""A connection to the cluster that is opened on demand, dropped when it fails, and reports outages to health.

Knows nothing of the requests sent over it. aiokafka's clients run tasks of their own; none is created here.
"""

import asyncio
import contextlib
import socket
import traceback
import weakref
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiokafka.client
from aiokafka import AIOKafkaClient, AIOKafkaConsumer
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    CorrelationIdError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    StaleMetadata,
)
from aiokafka.protocol.metadata import MetadataRequest

from edged.adapters.kafka.client_log import ClientLog, ClientProblem
from edged.adapters.kafka.open_transactions import OpenTransactions
from edged.adapters.kafka.refusals import Identity, is_closed_in_handshake, refusal, sentence
from edged.aio import Backoff
from edged.errors import LogRefused
from edged.ports import Health

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
"""TCP, TLS, SASL and the first metadata take about five round trips, of 2 s each at worst."""

_CLOSE_TIMEOUT_S = 2.0

_MAX_HANDSHAKES = 3
"""Of TLS that the other side has closed, before a command ends: a proxy whose broker restarts closes one, too."""
_BOOTSTRAP = "bootstrap"
"""aiokafka's name for a broker whose number it does not know yet."""

CONNECTION_ERRORS = (
    KafkaConnectionError,
    NodeNotReadyError,
    RequestTimedOutError,
    CorrelationIdError,
    StaleMetadata,
    OSError,
)
"""Errors after which a client is dropped (TimeoutError is an OSError)."""


class Clients:
    """The aiokafka clients of one log. What the cluster tells one of them about its brokers holds for all.

    A broker that froze answers nothing, and no request to it ends before its timeout, which is longer than it takes the
    cluster to do without that broker.
    """

    def __init__(self) -> None:
        self._clients: weakref.WeakSet[AIOKafkaClient] = weakref.WeakSet()

    def add(self, client: AIOKafkaClient) -> None:
        self._clients.add(client)
        client.cluster.add_listener(self._drop_connections_to_lost)

    def ask_who_leads(self) -> None:
        """Have each client's metadata updated, by its own task."""
        for client in self._clients:
            client.force_metadata_update()

    def _drop_connections_to_lost(self, cluster: ClusterMetadata) -> None:
        """Fail the requests that wait for a broker which the cluster does without; they are sent again elsewhere."""
        living = {broker.nodeId for broker in cluster.brokers()}
        for client in self._clients:
            for (node, _group), connection in list(client._conns.items()):  # noqa: SLF001 - no other way to them
                if node != _BOOTSTRAP and node not in living:
                    connection.close()


class Outages:
    """The overdue requests of all users of Kafka. Degrades health with the first, recovers it after the last."""

    def __init__(self, health: Health, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.clients = Clients()
        self._health = health
        self._reasons: dict[object, str] = {}

    def begin(self, user: object, reason: str) -> None:
        """`user` has waited too long, because of `reason`."""
        self._reasons[user] = reason
        self._health.degraded("kafka", reason)

    def end(self, user: object) -> None:
        """`user` got its answer."""
        self._reasons.pop(user, None)
        if not self._reasons:
            self._health.recovered("kafka")

    def withdraw(self, user: object) -> None:
        """`user` stopped waiting. Does not recover health: only an answer does."""
        self._reasons.pop(user, None)

    @contextlib.contextmanager
    def waiting(self, operation: str) -> Iterator["Wait"]:
        """Around one request and its retries: degrades health when there is no answer within the deadline."""
        wait = Wait(self, operation)
        try:
            yield wait
        except BaseException:
            wait.cancel()
            self.withdraw(wait)
            raise
        wait.cancel()
        self.end(wait)


class Wait:
    """A request that is not answered yet. `num_handshakes`: tries in which no TLS connection came about."""

    def __init__(self, outages: Outages, operation: str) -> None:
        self._outages = outages
        self._reason = f"no answer to {operation}"
        self._is_overdue = False
        self.num_handshakes = 0
        self._timer = self._later()

    def failed(self, reason: str, *, at_once: bool = False) -> None:
        """A try failed; `reason` is reported to health, when overdue or `at_once`."""
        self._reason = reason
        if self._is_overdue or at_once:
            self._report()

    def cancel(self) -> None:
        """Report nothing any more."""
        self._timer.cancel()

    def _later(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._outages.deadline_s, self._is_due)

    def _is_due(self) -> None:
        """Again and again until it is answered: the cluster takes its time to find another leader."""
        self._timer = self._later()
        self._report()
        self._outages.clients.ask_who_leads()

    def _report(self) -> None:
        self._is_overdue = True
        self._outages.begin(self, self._reason)


@dataclass(frozen=True, slots=True)
class Setup:
    """Shared by all clients of one cluster. `options` are aiokafka's and hold the password.

    `gives_up`: whether what is refused for good is raised, as LogRefused, instead of being asked again. `at_once`:
    whether each failure is told to health, also one that the next try may mend.
    """

    options: dict[str, Any] = field(repr=False)
    outages: Outages
    client_log: ClientLog
    identity: Identity
    gives_up: bool = False
    at_once: bool = False
    open_transactions: OpenTransactions = field(default_factory=OpenTransactions)

    def reason(self, error: KafkaError | OSError, cluster: ClusterMetadata | None = None) -> str:
        """The error for people. `cluster`: has the addresses of brokers that are known by their ids."""
        problem = self._problem_behind(error)
        if problem is None:
            at = f"{','.join(self.identity.bootstrap)}: " if isinstance(error, TimeoutError) and not str(error) else ""
            return at + sentence(error, self.identity)
        where = problem.where
        if isinstance(where, int):
            broker = cluster.broker_metadata(where) if cluster is not None else None
            where = f"{broker.host}:{broker.port}" if broker else f"node {where}"
        said = sentence(problem.error, self.identity) if problem.error else problem.message
        if isinstance(problem.error, socket.gaierror) and where not in self.identity.bootstrap:
            said += "; a broker calls itself so: its advertised.listeners should have a name that this machine knows"
        return f"{where}: {said}" if where and not said.startswith(str(where)) else said

    def explained(self, error: KafkaError | OSError, cluster: ClusterMetadata | None = None) -> str:
        """As `reason`. Raises LogRefused for what is for good, where nobody waits for that to change."""
        said = self.reason(error, cluster)
        if self.gives_up:
            refused = refusal(self._cause(error), said)
            if refused is not None:
                raise refused from error
        return said

    def is_refusal(self, error: KafkaError | OSError) -> bool:
        """Whether the broker has answered, and its answer is no for good."""
        return refusal(self._cause(error), "") is not None

    def is_closed_in_handshake(self, error: KafkaError | OSError) -> bool:
        """Whether the other side hung up on a client that begins TLS."""
        return is_closed_in_handshake(self._cause(error), self.identity)

    def _cause(self, error: KafkaError | OSError) -> BaseException:
        problem = self._problem_behind(error)
        return problem.error if problem is not None and problem.error is not None else error

    def _problem_behind(self, error: KafkaError | OSError) -> ClientProblem | None:
        """What aiokafka has logged before it raised an error that names neither broker nor cause."""
        if isinstance(error, (KafkaConnectionError, NodeNotReadyError)) and error.__cause__ is None:
            return self.client_log.last_problem
        return None


class Connection:
    """An aiokafka client, recreated after each failure. Several callers may use it at once.

    `on_connect` is called with each new client before any caller gets it.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        request_timeout_s: float,
        on_connect: Callable[[AIOKafkaClient], Awaitable[None]] | None = None,
    ) -> None:
        self.request_timeout_s = request_timeout_s
        self._setup = setup
        self._on_connect = on_connect
        self._client: AIOKafkaClient | None = None
        self._cluster: ClusterMetadata | None = None
        self._connect_lock = asyncio.Lock()

    async def retry(self, operation: str, call: Callable[[AIOKafkaClient], Awaitable[T]]) -> T:
        """The result of `call`, retried until it succeeds, over new connections if necessary.

        `operation` names it for health. `call` must be idempotent. Raises LogRefused as `Setup.explained` does.
        """
        backoff = Backoff()
        with self._setup.outages.waiting(operation) as wait:
            while True:
                try:
                    return await call(await self.client())
                except (KafkaError, OSError) as error:
                    self.failed(wait, error)
                    await self.recover_from(error)
                await backoff.wait()

    async def client(self) -> AIOKafkaClient:
        """The connected client. Raises KafkaError or OSError when it cannot connect within CONNECT_TIMEOUT_S."""
        async with self._connect_lock:
            if self._client is None:
                self._client = await self._connect()
            return self._client

    def failed(self, wait: Wait, error: KafkaError | OSError) -> None:
        """A try of this wait failed. Raises LogRefused as `Setup.explained` does, and when TLS never begins."""
        said = self._setup.explained(error, self._cluster)
        if self._setup.gives_up and self._client is None and self._setup.is_closed_in_handshake(error):
            wait.num_handshakes += 1
            if wait.num_handshakes == _MAX_HANDSHAKES:
                raise LogRefused(said) from error
        wait.failed(said, at_once=self._setup.at_once or self._setup.is_refusal(error))

    async def recover_from(self, error: KafkaError | OSError) -> None:
        """Prepare for the next try: drop the client, or update its metadata, as `error` requires."""
        if isinstance(error, CONNECTION_ERRORS):
            await self.close()
        elif error.invalid_metadata and self._client is not None:
            self._client.force_metadata_update()

    async def close(self) -> None:
        """Drop the client; its open requests fail. Takes at most 2 s."""
        client, self._client = self._client, None
        if client is not None:
            await _abandon_client(client)

    async def _connect(self) -> AIOKafkaClient:
        client = AIOKafkaClient(**self._setup.options, request_timeout_ms=int(self.request_timeout_s * 1000))
        self._cluster = client.cluster
        self._setup.outages.clients.add(client)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                with bootstrapping():
                    await client.bootstrap()
                if self._on_connect is not None:
                    await self._on_connect(client)
        except BaseException:
            await _abandon_client(client)
            raise
        return client


class _OwnTopics(MetadataRequest):  # type: ignore[misc]
    """Asks about the client's topics, none at first, where aiokafka asks about all of the cluster's.

    Nor does a broker that makes unknown topics make one because of a reader: it would have the broker's settings.
    """

    def __init__(self, topics: list[str] | None = None) -> None:
        super().__init__(topics or [], allow_auto_topic_creation=False)


async def _connected(host: str, port: int, **options: Any) -> AIOKafkaConnection:
    """As aiokafka's `create_conn`, which has one that is refused closed in the background: a loop may end before."""
    connection = AIOKafkaConnection(host, port, **options)
    try:
        await connection.connect()
    except BaseException:
        _cut(connection)
        raise
    return connection


def adapt_clients() -> None:
    """Make aiokafka's clients in this process ask about their own topics alone, and leave no refused connection."""
    aiokafka.client.MetadataRequest = _OwnTopics
    aiokafka.client.create_conn = _connected


@contextlib.contextmanager
def bootstrapping() -> Iterator[None]:
    """Around the start of an aiokafka object: leaves no connection open when it fails or is cancelled.

    The connection for a client's first metadata is held only by a local variable of `bootstrap`, which closes it after
    Kafka's own errors alone; otherwise the garbage collector would warn about it.
    """
    try:
        yield
    except BaseException as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code is AIOKafkaClient.bootstrap.__code__ and "bootstrap_conn" in frame.f_locals:
                frame.f_locals["bootstrap_conn"].close()
        raise


async def abandon(close: Callable[[], Awaitable[object]]) -> None:
    """Close an aiokafka object, which may hang while brokers are down: abandon it after 2 s.

    Cancelled: raises CancelledError, and only then. aiokafka takes a cancellation during its closing for that of its
    own task, and swallows it; that of its own task it may let through instead, as of a fetch that waits for its next
    try.
    """
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    with contextlib.suppress(KafkaError, OSError, asyncio.CancelledError):
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await close()
    if task.cancelling() > cancellations:
        raise asyncio.CancelledError


async def start_consumer(consumer: AIOKafkaConsumer) -> None:
    """Connect it, or leave nothing of it behind. Raises KafkaError and OSError, TimeoutError among them."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            with bootstrapping():
                await consumer.start()
    except BaseException:
        await abandon_consumer(consumer)
        raise


async def abandon_consumer(consumer: AIOKafkaConsumer) -> None:
    """As `abandon`; also the client of one whose closing ends before it comes to that, and cannot be begun again."""
    try:
        await abandon(consumer.stop)
    finally:
        await _abandon_client(consumer._client)  # noqa: SLF001 - no other way to it


async def _abandon_client(client: AIOKafkaClient) -> None:
    """As `abandon`; no connection of it stays open."""
    try:
        await abandon(client.close)
    finally:
        for connection in client._conns.values():  # noqa: SLF001 - no other way to them
            _cut(connection)


def _cut(connection: AIOKafkaConnection) -> None:
    """Close it now, without the goodbye of TLS, for which asyncio gives the other side 30 s."""
    protocol = connection._protocol  # noqa: SLF001 - aiokafka forgets the transport when it begins to close it
    transport: asyncio.Transport | None = getattr(protocol, "_transport", None)
    if transport is not None:
        transport.abort()
