"""A connection to the cluster that is opened on demand, dropped when it fails, and reports outages to health.

Knows nothing of the requests sent over it. aiokafka's clients run tasks of their own; none is created here.
"""

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiokafka import AIOKafkaClient
from aiokafka.errors import (
    CorrelationIdError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    StaleMetadata,
)

from edged.adapters.kafka.client_log import ClientLog
from edged.aio import Backoff
from edged.ports import Health

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
"""TCP, TLS, SASL and the first metadata take about five round trips, of 2 s each at worst."""

_CLOSE_TIMEOUT_S = 2.0
CONNECTION_ERRORS = (
    KafkaConnectionError,
    NodeNotReadyError,
    RequestTimedOutError,
    CorrelationIdError,
    StaleMetadata,
    OSError,
)
"""Errors after which a client is dropped (TimeoutError is an OSError)."""


class Outages:
    """The overdue requests of all users of Kafka. Degrades health with the first, recovers it after the last."""

    def __init__(self, health: Health, deadline_s: float) -> None:
        self.deadline_s = deadline_s
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
    """A request that is not answered yet."""

    def __init__(self, outages: Outages, operation: str) -> None:
        self._outages = outages
        self._reason = f"no answer to {operation}"
        self._is_overdue = False
        self._timer = asyncio.get_running_loop().call_later(outages.deadline_s, self._report)

    def failed(self, reason: str) -> None:
        """A try failed; `reason` is reported to health."""
        self._reason = reason
        if self._is_overdue:
            self._report()

    def cancel(self) -> None:
        """Report nothing any more."""
        self._timer.cancel()

    def _report(self) -> None:
        self._is_overdue = True
        self._outages.begin(self, self._reason)


@dataclass(frozen=True, slots=True)
class Setup:
    """Shared by all clients of one cluster. `options` are aiokafka's and hold the password."""

    options: dict[str, Any] = field(repr=False)
    outages: Outages
    client_log: ClientLog

    def reason(self, error: KafkaError | OSError) -> str:
        """The error for people. aiokafka names the host and the cause only in its own log."""
        if isinstance(error, (KafkaConnectionError, NodeNotReadyError)) and self.client_log.last_problem:
            return self.client_log.last_problem
        return str(error) or type(error).__name__


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
        self._connect_lock = asyncio.Lock()

    async def retry(self, operation: str, call: Callable[[AIOKafkaClient], Awaitable[T]]) -> T:
        """The result of `call`, retried until it succeeds, over new connections if necessary.

        `operation` names it for health. `call` must be idempotent.
        """
        backoff = Backoff()
        with self._setup.outages.waiting(operation) as wait:
            while True:
                try:
                    return await call(await self.client())
                except (KafkaError, OSError) as error:
                    wait.failed(self._setup.reason(error))
                    await self.recover_from(error)
                await backoff.wait()

    async def client(self) -> AIOKafkaClient:
        """The connected client. Raises KafkaError or OSError when it cannot connect within CONNECT_TIMEOUT_S."""
        async with self._connect_lock:
            if self._client is None:
                self._client = await self._connect()
            return self._client

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
            await abandon(client.close)

    async def _connect(self) -> AIOKafkaClient:
        client = AIOKafkaClient(**self._setup.options, request_timeout_ms=int(self.request_timeout_s * 1000))
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                with bootstrapping():
                    await client.bootstrap()
                if self._on_connect is not None:
                    await self._on_connect(client)
        except BaseException:
            await abandon(client.close)
            raise
        return client


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

    Cancelled: raises CancelledError. aiokafka takes a cancellation during its closing for that of its own task, and
    swallows it.
    """
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    with contextlib.suppress(KafkaError, OSError):
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await close()
    if task.cancelling() > cancellations:
        raise asyncio.CancelledError
