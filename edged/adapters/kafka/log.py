"""The port `Log` on Apache Kafka: puts the questions, the readers and the appends together."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Self

from edged.adapters.kafka.admin import Control
from edged.adapters.kafka.batches import bound_unpacking
from edged.adapters.kafka.client_log import ClientLog
from edged.adapters.kafka.connection import Outages, Setup
from edged.adapters.kafka.producer import Appender
from edged.adapters.kafka.reader import KafkaReader
from edged.adapters.kafka.security import client_options
from edged.domain.topology import Kafka
from edged.ports import Health, Message, TopicPartition, TopicSpec, Watermarks


class KafkaLog:
    """A `ports.Log` on a Kafka cluster; an async context manager.

    Entering it does no I/O: connections are made when something is asked, and made again when they break. What has
    no answer for `deadline_s` is told to health as part "kafka", and so is the first answer after it. Leaving it
    abandons what is open, within seconds also while the brokers hang.
    """

    def __init__(self, kafka: Kafka, health: Health, *, deadline_s: float = 5.0, client_id: str = "edged") -> None:
        """Raises OSError or ssl.SSLError when a certificate file cannot be used."""
        bound_unpacking()
        self._client_log = ClientLog()
        self._setup = Setup(client_options(kafka, client_id), Outages(health, deadline_s), self._client_log)
        self._control = Control(self._setup)
        self._appender = Appender(self._setup, self._control)

    async def __aenter__(self) -> Self:
        self._client_log.__enter__()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._appender.close()
        await self._control.close()
        self._client_log.__exit__()

    @contextlib.asynccontextmanager
    async def reader(
        self, positions: Mapping[TopicPartition, int], *, group: str | None = None
    ) -> AsyncIterator[KafkaReader]:
        reader = KafkaReader(self._setup, self._control, positions, group)
        try:
            yield reader
        finally:
            await reader.close()

    async def append(self, messages: Sequence[Message]) -> list[int]:
        """As the port says; a topic that does not exist is waited for.

        Raises RecordTooLarge: before anything is written for a message above 1 MiB, and in between when the topic
        takes only smaller ones.
        """
        return await self._appender.append(messages)

    async def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        return await self._control.watermarks(partitions)

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._control.committed(group, partitions)

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        return await self._control.partitions(topics)

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        await self._control.ensure(topics)

    async def delete(self, topics: Sequence[str]) -> None:
        """Delete the topics that exist; for what cleans up behind itself. Not of the port: a node deletes nothing."""
        await self._control.delete(topics)
