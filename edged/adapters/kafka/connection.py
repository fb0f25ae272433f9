"""One connection to the cluster that is made when it is needed, dropped when it fails, and tells health.

Does not know what is asked over it. aiokafka's clients run tasks of their own inside; none is made here.
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

CONNECT_S = 10.0
"""Most time to connect: TCP, TLS, SASL and the first metadata take some five round trips, of 2 s each at worst."""

_CLOSE_S = 2.0
LOST = (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError, CorrelationIdError, StaleMetadata, OSError)
"""Errors after which a client is not used again (TimeoutError is an OSError)."""


class Outages:
    """What is wrong with Kafka now. Health hears of the first trouble, and of the end of the last."""

    def __init__(self, health: Health, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._health = health
        self._reasons: dict[object, str] = {}

    def began(self, who: object, reason: str) -> None:
        """`who` has waited too long, because of `reason`."""
        self._reasons[who] = reason
        self._health.degraded("kafka", reason)

    def answered(self, who: object) -> None:
        """`who` got its answer."""
        self._reasons.pop(who, None)
        if not self._reasons:
            self._health.recovered("kafka")

    def gave_up(self, who: object) -> None:
        """`who` waits no more. That says nothing about Kafka: recovery is told by the next answer."""
        self._reasons.pop(who, None)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator["Wait"]:
        """Around one question and all its tries: health is told when it has no answer after the deadline."""
        wait = Wait(self, what)
        try:
            yield wait
        except BaseException:
            wait.over()
            self.gave_up(wait)
            raise
        wait.over()
        self.answered(wait)


class Wait:
    """A question that is not answered yet."""

    def __init__(self, outages: Outages, what: str) -> None:
        self._outages = outages
        self._reason = f"no answer to {what}"
        self._late = False
        self._timer = asyncio.get_running_loop().call_later(outages.deadline_s, self._report)

    def failed(self, reason: str) -> None:
        """A try failed; `reason` is what health is told."""
        self._reason = reason
        if self._late:
            self._report()

    def over(self) -> None:
        """No report comes any more."""
        self._timer.cancel()

    def _report(self) -> None:
        self._late = True
        self._outages.began(self, self._reason)


@dataclass(frozen=True, slots=True)
class Setup:
    """What all clients of one cluster share. `options` are aiokafka's and hold the password."""

    options: dict[str, Any] = field(repr=False)
    outages: Outages
    client_log: ClientLog

    def reason(self, error: KafkaError | OSError) -> str:
        """What to tell a person. aiokafka names the host and the cause only in its own log."""
        if isinstance(error, (KafkaConnectionError, NodeNotReadyError)) and self.client_log.last_problem:
            return self.client_log.last_problem
        return str(error) or type(error).__name__


class Connection:
    """An aiokafka client, made anew after each failure. Several callers may use it at once.

    `greet` is called with each new client before anyone else may use it.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        request_timeout_s: float,
        greet: Callable[[AIOKafkaClient], Awaitable[None]] | None = None,
    ) -> None:
        self.request_timeout_s = request_timeout_s
        self._setup = setup
        self._greet = greet
        self._client: AIOKafkaClient | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, what: str, question: Callable[[AIOKafkaClient], Awaitable[T]]) -> T:
        """The answer to `question`, which is asked until there is one, over new connections where need be.

        `what` names it for health. Questions must bear being asked twice.
        """
        backoff = Backoff()
        with self._setup.outages.waiting(what) as wait:
            while True:
                try:
                    return await question(await self.client())
                except (KafkaError, OSError) as error:
                    wait.failed(self._setup.reason(error))
                    await self.after(error)
                await backoff.wait()

    async def client(self) -> AIOKafkaClient:
        """The connected client. Raises KafkaError or OSError when it cannot be made within CONNECT_S."""
        async with self._connecting:
            if self._client is None:
                self._client = await self._connect()
            return self._client

    async def after(self, error: KafkaError | OSError) -> None:
        """Make the next try likelier to succeed than the one that ended in `error`."""
        if isinstance(error, LOST):
            await self.close()
        elif error.invalid_metadata and self._client is not None:
            self._client.force_metadata_update()

    async def close(self) -> None:
        """Drop the client; its open requests fail. Takes 2 s at most."""
        client, self._client = self._client, None
        if client is not None:
            await abandon(client.close)

    async def _connect(self) -> AIOKafkaClient:
        client = AIOKafkaClient(**self._setup.options, request_timeout_ms=int(self.request_timeout_s * 1000))
        try:
            async with asyncio.timeout(CONNECT_S):
                with bootstrapping():
                    await client.bootstrap()
                if self._greet is not None:
                    await self._greet(client)
        except BaseException:
            await abandon(client.close)
            raise
        return client


@contextlib.contextmanager
def bootstrapping() -> Iterator[None]:
    """Around the start of something of aiokafka's: cancelled, it leaves no connection open.

    The one over which a client asks for its first metadata is known to nothing but a variable inside `bootstrap`,
    which closes it after Kafka's own errors alone; the garbage collector would complain of it.
    """
    try:
        yield
    except BaseException as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code is AIOKafkaClient.bootstrap.__code__ and "bootstrap_conn" in frame.f_locals:
                frame.f_locals["bootstrap_conn"].close()
        raise


async def abandon(close: Callable[[], Awaitable[object]]) -> None:
    """Close something of aiokafka's, which may hang while brokers are down: no longer than 2 s.

    Cancelled meanwhile, it raises CancelledError: aiokafka itself takes a cancellation that meets it in the middle of
    closing for that of its own task, and swallows it.
    """
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    with contextlib.suppress(KafkaError, OSError):
        async with asyncio.timeout(_CLOSE_S):
            await close()
    if task.cancelling() > cancellations:
        raise asyncio.CancelledError
