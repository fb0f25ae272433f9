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

    async def answer(self, asked: Awaitable[T]) -> T:
        """The result of `asked`, a call of the log. Raises LogUnavailable when it takes longer than `timeout_s`."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await asked
        except TimeoutError as error:
            raise LogUnavailable(f"Kafka at {', '.join(self.bootstrap)} does not answer") from error


@asynccontextmanager
async def prompt_log(kafka: Kafka, timeout_s: float | None = None) -> AsyncIterator[PromptLog]:
    """Connects to `kafka`; each answer may take `timeout_s` (TIMEOUT_S if None)."""
    from edged.adapters.kafka import KafkaLog  # noqa: PLC0415 - a Kafka client is slow to import

    async with KafkaLog(kafka, _NoHealth()) as log:
        yield PromptLog(log, kafka.bootstrap, TIMEOUT_S if timeout_s is None else timeout_s)


class _NoHealth:
    """A `ports.Health` for a command that fails when Kafka does not answer."""

    def degraded(self, part: str, reason: str) -> None:
        """Nothing to report to."""

    def recovered(self, part: str) -> None:
        """Nothing to report to."""
