"""Kafka for a command at a prompt: it gives up where a node waits for ever, and has no health to report to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from edged.domain.topology import Kafka
from edged.errors import LogUnavailable

if TYPE_CHECKING:
    from edged.adapters.kafka import KafkaLog

TIMEOUT_S = 30.0
"""How long a command waits for one answer of Kafka."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PromptLog:
    """An open `log`, and how to ask it."""

    log: "KafkaLog"
    bootstrap: tuple[str, ...]
    timeout_s: float
    health: "_LastReason"

    async def answer(self, asked: Awaitable[T]) -> T:
        """The result of `asked`, a call of the log.

        Raises LogUnavailable when it takes longer than `timeout_s`, and LogRefused at once when the answer is no.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                return await asked
        except TimeoutError as error:
            why = f" ({self.health.reason})" if self.health.reason else ""
            raise LogUnavailable(f"Kafka at {', '.join(self.bootstrap)} does not answer{why}") from error


@asynccontextmanager
async def prompt_log(kafka: Kafka, timeout_s: float | None = None) -> AsyncIterator[PromptLog]:
    """Connects to `kafka`; each answer may take `timeout_s` (TIMEOUT_S if None)."""
    from edged.adapters.kafka import KafkaLog  # noqa: PLC0415 - a Kafka client is slow to import

    health = _LastReason()
    async with KafkaLog(kafka, health, gives_up=True) as log:
        yield PromptLog(log, kafka.bootstrap, TIMEOUT_S if timeout_s is None else timeout_s, health)


class _LastReason:
    """A `ports.Health` for a command that fails when Kafka does not answer: keeps why it did not."""

    def __init__(self) -> None:
        self.reason = ""

    def degraded(self, part: str, reason: str, *, awaited: bool = True) -> None:  # noqa: ARG002 - Kafka is the only one
        if awaited:
            self.reason = reason

    def recovered(self, part: str) -> None:  # noqa: ARG002 - as above
        self.reason = ""
