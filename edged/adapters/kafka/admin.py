"""The questions that take one answer: watermarks, offsets, topics, producer ids.

Each is asked until it is answered, over one connection of its own, so that a small question never waits behind a
megabyte on a slow uplink.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaClient
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    LeaderNotAvailableError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import CreateTopicsRequest, DeleteTopicsRequest
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from edged.adapters.kafka.connection import Connection, Setup
from edged.log import logger
from edged.ports import TopicPartition, TopicSpec, Watermarks

_EARLIEST, _LATEST = -2, -1
_BROKERS_DEFAULT = -1
_NO_GENERATION = -1  # a commit from outside the group's membership, as all are that go with assign()
_READ_UNCOMMITTED = 0
_FETCH_WAIT_MS = 100
_CREATE_TIMEOUT_MS = 4_000
_NOT_CREATED = (TopicAlreadyExistsError, TopicAuthorizationFailedError, ClusterAuthorizationFailedError)
_NO_IDEMPOTENCE = (UnknownError, ClusterAuthorizationFailedError)


@dataclass(slots=True)
class Producer:
    """Who writes, as the broker knows it; `id` -1 where the broker has no idempotent producers.

    The broker drops what a producer repeats: a batch whose first sequence number it has seen in that partition.
    """

    id: int = -1
    epoch: int = -1
    sequences: dict[TopicPartition, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def idempotent(self) -> bool:
        return self.id >= 0


class Control:
    """Asks and waits: every method returns the broker's answer, however long the broker is away. Cancel to give up."""

    def __init__(self, setup: Setup) -> None:
        self._connection = Connection(setup, request_timeout_s=setup.outages.deadline_s, greet=self._greet)
        self._bootstrap = ",".join(setup.options["bootstrap_servers"])
        self._idempotent = True

    @property
    def idempotent(self) -> bool:
        """Whether the broker last connected to has idempotent producers; all have but the embedded one."""
        return self._idempotent

    async def close(self) -> None:
        await self._connection.close()

    async def connect(self) -> None:
        """One try. Raises KafkaError or OSError."""
        await self._connection.client()

    async def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        wanted = list(partitions)

        async def question(client: AIOKafkaClient) -> dict[TopicPartition, Watermarks]:
            leaders = await _leaders(client, {partition.topic for partition in wanted})
            known = {partition: leaders[partition] for partition in wanted if partition in leaders}
            low = await _offsets(client, known, _EARLIEST)
            high = await _offsets(client, known, _LATEST)
            if not self._idempotent:
                high = await _ends(client, known, {each: max(low[each], high[each] - 1) for each in known})
            return {
                partition: Watermarks(low[partition], high[partition]) if partition in known else Watermarks(0, 0)
                for partition in wanted
            }

        return await self._connection.ask("a question for watermarks", question)

    async def fetch(self, partition: TopicPartition, offset: int, max_bytes: int) -> bytes:
        """The record batches from `offset` on as the broker keeps them, about `max_bytes`; empty without any."""

        async def question(client: AIOKafkaClient) -> bytes:
            leaders = await _leaders(client, {partition.topic})
            if partition not in leaders:
                return b""
            topics = [(partition.topic, [(partition.partition, offset, max_bytes)])]
            request = FetchRequest(_FETCH_WAIT_MS, 1, max_bytes, _READ_UNCOMMITTED, topics)
            answer = await client.send(leaders[partition], request)
            [(_topic, [(_partition, code, _high, *_more, batches)])] = answer.topics
            _check(code, partition.topic)
            return batches or b""

        return await self._connection.ask("a fetch", question)

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        request = OffsetFetchRequest(group, _by_topic((each, each.partition) for each in partitions))

        async def question(client: AIOKafkaClient) -> dict[TopicPartition, int]:
            answer = await _ask_coordinator(client, group, request)
            committed = {}
            for topic, found in answer.topics:
                for partition, offset, _metadata, code in found:
                    _check(code, topic)
                    if offset >= 0:
                        committed[TopicPartition(topic, partition)] = offset
            return committed

        return await self._connection.ask("a question for committed offsets", question)

    async def commit(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """Store the group's next offsets, from outside its membership."""
        topics = _by_topic((each, (each.partition, offset, "")) for each, offset in positions.items())
        request = OffsetCommitRequest(group, _NO_GENERATION, "", OffsetCommitRequest.DEFAULT_RETENTION_TIME, topics)

        async def question(client: AIOKafkaClient) -> None:
            answer = await _ask_coordinator(client, group, request)
            for topic, stored in answer.topics:
                for _partition, code in stored:
                    _check(code, topic)

        await self._connection.ask("a commit", question)

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        wanted = set(topics)

        async def question(client: AIOKafkaClient) -> dict[str, int]:
            found: dict[str, int] = defaultdict(int)
            for partition in await _leaders(client, wanted):
                found[partition.topic] += 1
            return dict(found)

        return await self._connection.ask("a question for topics", question)

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        existing = await self.partitions(topic.name for topic in topics)
        missing = [topic for topic in topics if topic.name not in existing]
        if not missing:
            return
        request = CreateTopicsRequest([_creation(topic) for topic in missing], _CREATE_TIMEOUT_MS, validate_only=False)

        async def question(client: AIOKafkaClient) -> None:
            answer = await client.send(await _controller(client), request)
            for topic, code, *_message in answer.topic_errors:
                _check(code, topic, allowed=_NOT_CREATED)

        await self._connection.ask("the creation of topics", question)

    async def delete(self, topics: Sequence[str]) -> None:
        request = DeleteTopicsRequest(list(topics), _CREATE_TIMEOUT_MS)

        async def question(client: AIOKafkaClient) -> None:
            answer = await client.send(await _controller(client), request)
            for topic, code in answer.topic_error_codes:
                _check(code, topic, allowed=(UnknownTopicOrPartitionError,))

        await self._connection.ask("the deletion of topics", question)

    async def greeted(self) -> None:
        """Wait until a broker answers a small question. Asked by readers that get no answer otherwise."""

        async def question(client: AIOKafkaClient) -> None:
            await client.send(client.get_random_node(), MetadataRequest([]))

        await self._connection.ask("a greeting", question)

    async def producer(self) -> Producer:
        """A fresh producer id, or the one without idempotence where the broker cannot give any."""
        return await self._connection.ask("a question for a producer id", _producer)

    async def _greet(self, client: AIOKafkaClient) -> None:
        self._idempotent = (await _producer(client)).idempotent
        logger().info("kafka.connected", bootstrap=self._bootstrap, idempotent=self._idempotent)


async def _producer(client: AIOKafkaClient) -> Producer:
    try:
        answer = await client.send(client.get_random_node(), InitProducerIdRequest(None, 60_000))
    except IncompatibleBrokerVersion:
        return Producer()
    if for_code(answer.error_code) in _NO_IDEMPOTENCE:
        return Producer()
    _check(answer.error_code, "InitProducerId")
    return Producer(answer.producer_id, answer.producer_epoch)


async def _leaders(client: AIOKafkaClient, topics: set[str]) -> dict[TopicPartition, int]:
    """The node that leads each existing partition of the topics. Asking does not create any."""
    if not topics:
        return {}
    request = MetadataRequest(sorted(topics), allow_auto_topic_creation=False)
    answer = await client.send(client.get_random_node(), request)
    leaders = {}
    for code, topic, _is_internal, partitions in answer.topics:
        if for_code(code) is UnknownTopicOrPartitionError:
            continue
        _check(code, topic)
        for _code, partition, leader, *_replicas in partitions:
            leaders[TopicPartition(topic, partition)] = leader
    return leaders


async def _offsets(
    client: AIOKafkaClient, leaders: Mapping[TopicPartition, int], which: int
) -> dict[TopicPartition, int]:
    offsets = {}
    for node in set(leaders.values()):
        if node < 0:
            raise LeaderNotAvailableError
        mine = (partition for partition, leader in leaders.items() if leader == node)
        topics = _by_topic((each, (each.partition, which)) for each in mine)
        answer = await client.send(node, OffsetRequest(-1, _READ_UNCOMMITTED, topics))
        for topic, partitions in answer.topics:
            for partition, code, _timestamp, offset in partitions:
                _check(code, topic)
                offsets[TopicPartition(topic, partition)] = offset
    return offsets


async def _ends(
    client: AIOKafkaClient, leaders: Mapping[TopicPartition, int], about: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The high watermarks as fetches from offsets `about` there tell them.

    The embedded broker, which is also the one without idempotent producers, counts the last batch as one record when
    it is asked for the end.
    """
    ends = {}
    for partition, node in leaders.items():
        topics = [(partition.topic, [(partition.partition, about[partition], 1)])]
        answer = await client.send(node, FetchRequest(_FETCH_WAIT_MS, 1, 1, _READ_UNCOMMITTED, topics))
        for topic, [(_partition, code, high, *_more)] in answer.topics:
            _check(code, topic)
            ends[partition] = high
        if partition not in ends:
            raise LeaderNotAvailableError(f"{partition.topic}: no high watermark")
    return ends


async def _ask_coordinator(client: AIOKafkaClient, group: str, request: Any) -> Any:
    node = await client.coordinator_lookup(CoordinationType.GROUP, group)
    return await client.send(node, request, group=ConnectionGroup.COORDINATION)


async def _controller(client: AIOKafkaClient) -> int:
    answer = await client.send(client.get_random_node(), MetadataRequest([]))
    controller: int = answer.controller_id
    return controller


def _creation(topic: TopicSpec) -> tuple[Any, ...]:
    return (topic.name, topic.partitions, _BROKERS_DEFAULT, [], list(topic.settings.items()))


def _by_topic(pairs: Iterable[tuple[TopicPartition, Any]]) -> list[tuple[str, list[Any]]]:
    topics: dict[str, list[Any]] = defaultdict(list)
    for partition, what in pairs:
        topics[partition.topic].append(what)
    return list(topics.items())


def _check(code: int, subject: str, *, allowed: tuple[type, ...] = ()) -> None:
    """Raise the error that `code` stands for."""
    error = for_code(code)
    if error is not NoError and error not in allowed:
        raise error(f"{subject}: {error.description or error.__name__}")
