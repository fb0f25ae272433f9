"""The port `Log` on Apache Kafka: combines admin requests, readers and the producer."""

import contextlib
import copy
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Self

from edged.adapters.kafka.admin import Admin
from edged.adapters.kafka.broker_clock import BrokerClock
from edged.adapters.kafka.client_log import ClientLog
from edged.adapters.kafka.connection import Outages, Setup, adapt_clients
from edged.adapters.kafka.membership import KafkaMembership
from edged.adapters.kafka.producer import Producer
from edged.adapters.kafka.reading.batches import patch_decoding
from edged.adapters.kafka.reading.incarnations import look
from edged.adapters.kafka.reading.own_reader import OwnReader
from edged.adapters.kafka.reading.reader import KafkaReader
from edged.adapters.kafka.reading.unpacking import pass_unreadable_batches
from edged.adapters.kafka.refusals import Identity
from edged.adapters.kafka.security import client_options
from edged.domain import place as places
from edged.domain.place import Place
from edged.domain.topology import Kafka
from edged.domain.topology.rights import Rights
from edged.ports import Committed, Health, Message, TopicPartition, TopicSpec, Watermarks


class KafkaLog:
    """A `ports.Log` on a Kafka cluster; an async context manager.

    Entering it does no I/O: connections are opened on demand, and again after a failure. A request without an answer
    for `deadline_s` degrades health part "kafka" until the next answer. Leaving it abandons what is open, within
    seconds even while the brokers hang.
    """

    def __init__(
        self,
        kafka: Kafka,
        health: Health,
        *,
        deadline_s: float = 5.0,
        client_id: str = "edged",
        rights: Rights = Rights(),  # noqa: B008 - a frozen value
        gives_up: bool = False,
    ) -> None:
        """`rights`: what the node needs, to say which of it is missing. `gives_up`: as a command at a prompt does.

        Then what the brokers refuse for good raises LogRefused or LogForbidden, where a node would ask again. Raises
        ConfigError when a certificate file cannot be used.
        """
        patch_decoding()
        pass_unreadable_batches()
        adapt_clients()
        self._client_log = ClientLog()
        self._clock = BrokerClock(health)
        setup = Setup(
            client_options(kafka, client_id),
            Outages(health, deadline_s),
            self._client_log,
            Identity.of(kafka, rights),
            gives_up,
            at_once=gives_up,
        )
        self._connect(setup, Admin(setup))

    def _connect(self, setup: Setup, admin: Admin) -> None:
        self._setup = setup
        self._admin = admin
        self._producer = Producer(setup, admin, self._clock)

    async def __aenter__(self) -> Self:
        self._client_log.__enter__()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()
        self._client_log.__exit__()

    async def close(self) -> None:
        """Abandon what is open."""
        await self._producer.close()
        await self._admin.close()

    @contextlib.asynccontextmanager
    async def dispensable(self) -> AsyncIterator["KafkaLog"]:
        """This log for what its node can do without: what the brokers refuse for good raises LogRefused.

        Has connections of its own, on which no small record waits for a large one.
        """
        setup = replace(self._setup, gives_up=True)
        log = copy.copy(self)
        log._connect(setup, Admin(setup, is_second=True))  # noqa: SLF001 - it is this one's
        try:
            yield log
        finally:
            await log.close()

    @contextlib.asynccontextmanager
    async def reader(
        self, positions: Mapping[TopicPartition, Place | int], *, group: str | None = None, own: bool = False
    ) -> AsyncIterator[KafkaReader | OwnReader]:
        reader: KafkaReader | OwnReader
        if own:
            assert group is None, "what is looked up is not committed"
            reader = OwnReader(self._admin, positions)
        else:
            reader = KafkaReader(self._setup, self._admin, positions, group)
        try:
            yield reader
        finally:
            await reader.close()

    @contextlib.asynccontextmanager
    async def join(self, group: str, topics: Collection[str]) -> AsyncIterator[KafkaMembership]:
        membership = KafkaMembership(self._setup, group, topics)
        try:
            yield membership
        finally:
            await membership.close()

    async def append(self, messages: Sequence[Message], *, refuse_too_large: bool = False) -> list[int]:
        """As in the port; waits for a topic that does not exist.

        Raises RecordTooLarge: before anything is written for a message above 1 MiB, and in between, if asked to, when
        the topic takes only smaller ones.
        """
        return await self._producer.append(messages, refuse_too_large=refuse_too_large)

    async def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        return await self._admin.watermarks(partitions)

    async def resume(self, kept: Mapping[TopicPartition, Place]) -> dict[TopicPartition, Place]:
        seen = await look(self._admin, kept)
        return {each: places.resume(place, seen[each]) if each in seen else place for each, place in kept.items()}

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        return await self._admin.committed(group, partitions)

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        return await self._admin.partitions(topics)

    async def trim(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        return await self._admin.trim(before)

    async def ensure(self, topics: Sequence[TopicSpec]) -> list[str]:
        return await self._admin.ensure(topics)

    async def settings(self, topics: Iterable[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
        return await self._admin.settings(topics, names)

    async def delete(self, topics: Sequence[str]) -> None:
        """Delete those topics that exist, to clean up. Not in the port: a node deletes nothing."""
        await self._admin.delete(topics)
