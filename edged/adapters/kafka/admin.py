"""Requests with one small response: watermarks, offsets, topics, producer ids.

Each is retried until it is answered, over a separate connection, so that none waits for a megabyte on a slow uplink.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaClient
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    BrokerResponseError,
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import (
    CreateTopicsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeConfigsRequest,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from edged.adapters.kafka import fetch
from edged.adapters.kafka.connection import Connection, Setup
from edged.adapters.kafka.refusals import RIGHTS, NotAllowed, refusal
from edged.adapters.kafka.topic_ids import topic_ids
from edged.domain import place as places
from edged.domain.place import Place
from edged.errors import LogRefused
from edged.log import logger
from edged.ports import Committed, TopicPartition, TopicSpec, Watermarks

_EARLIEST, _LATEST = -2, -1
_BROKERS_DEFAULT = -1
_NO_GENERATION = -1  # commits without group membership, as with assign()
_READ_UNCOMMITTED, _READ_COMMITTED = 0, 1
_FETCH_TIMEOUT_S = 45.0
"""A batch of a megabyte takes as long on an uplink of 200 kbit/s."""

_CREATE_TIMEOUT_MS = 4_000
_TOPIC_RESOURCE = 2
_NO_IDEMPOTENCE = (UnknownError,)


@dataclass(slots=True)
class ProducerState:
    """The producer's identity at the broker; `id` is -1 where the broker has no idempotent producers.

    The broker drops a repeated batch: one whose first sequence number it has seen from this producer in the partition.
    """

    id: int = -1
    epoch: int = -1
    sequences: dict[TopicPartition, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def idempotent(self) -> bool:
        return self.id >= 0


class Admin:
    """Every method retries until the broker answers, however long it is away; cancel to stop."""

    def __init__(self, setup: Setup, *, is_second: bool = False) -> None:
        """`is_second`: of a log that says already when it is connected."""
        self._setup = setup
        self._is_second = is_second
        self._connection = Connection(setup, request_timeout_s=setup.outages.deadline_s, on_connect=self._log_connected)
        self._fetches = Connection(setup, request_timeout_s=_FETCH_TIMEOUT_S)
        self._bootstrap = ",".join(setup.options["bootstrap_servers"])
        self._idempotent = True

    @property
    def idempotent(self) -> bool:
        """Whether the broker last connected to has idempotent producers; all but the embedded one have."""
        return self._idempotent

    async def close(self) -> None:
        await self._connection.close()
        await self._fetches.close()

    async def connect(self) -> None:
        """Try once. Raises KafkaError or OSError."""
        await self._connection.client()

    async def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        wanted = list(partitions)

        async def call(client: AIOKafkaClient) -> dict[TopicPartition, Watermarks]:
            leaders = await _leaders(client, {partition.topic for partition in wanted})
            known = {partition: leaders[partition] for partition in wanted if partition in leaders}
            low = await _offsets(client, known, _EARLIEST)
            stable = await _offsets(client, known, _LATEST, _READ_COMMITTED)
            high = await _offsets(client, known, _LATEST)  # the last, as none of them goes back
            if not self._idempotent:
                stable = high = await _fetched_high_watermarks(
                    client, known, {each: max(low[each], high[each] - 1) for each in known}
                )
            return {
                each: Watermarks(low[each], stable[each], high[each]) if each in known else Watermarks(0, 0, 0)
                for each in wanted
            }

        return await self._connection.retry("a request for watermarks", call)

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """The ids of the topics that exist; none where the broker has no ids."""
        wanted = set(topics)

        async def call(client: AIOKafkaClient) -> dict[str, str]:
            return await topic_ids(client, wanted)

        return await self._connection.retry("a request for topics' ids", call) if wanted else {}

    async def topic_ids_now(self, topics: Iterable[str]) -> dict[str, str]:
        """As `topic_ids`, tried once and reported to nobody. Raises KafkaError or OSError."""
        try:
            return await topic_ids(await self._connection.client(), set(topics))
        except (KafkaError, OSError) as error:
            await self._connection.recover_from(error)
            raise

    async def fetch(
        self, partition: TopicPartition, offset: int, max_bytes: int, *, committed: bool = True
    ) -> fetch.Answer:
        """The stored record batches from `offset` on, about `max_bytes`, the first one whole; empty without any.

        Up to the last stable offset if `committed`.
        """

        async def call(client: AIOKafkaClient) -> fetch.Answer:
            leaders = await _leaders(client, {partition.topic})
            if partition not in leaders:
                return fetch.Answer()
            request = fetch.request(partition, offset, max_bytes, committed=committed)
            code, answer = fetch.answer_of(await client.send(leaders[partition], request))
            _check(code, partition.topic, operation="Read")
            return answer

        return await self._fetches.retry("a fetch", call)

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed]:
        request = OffsetFetchRequest(group, _by_topic((each, each.partition) for each in partitions))

        async def call(client: AIOKafkaClient) -> dict[TopicPartition, Committed]:
            answer = await _send_to_coordinator(client, group, request)
            committed = {}
            for topic, partitions_of_topic in answer.topics:
                for partition, offset, metadata, code in partitions_of_topic:
                    _check(code, topic, operation="Read")
                    if offset >= 0:
                        committed[TopicPartition(topic, partition)] = Committed(*places.from_text(offset, metadata))
            return committed

        return await self._connection.retry("a request for committed offsets", call)

    async def commit(self, group: str, kept: Mapping[TopicPartition, Place], note: str = "") -> None:
        """Commit the group's next places, without being a member; without those of absent partitions."""
        topics = _by_topic((each, (each.partition, at.offset, places.to_text(at, note))) for each, at in kept.items())
        request = OffsetCommitRequest(group, _NO_GENERATION, "", OffsetCommitRequest.DEFAULT_RETENTION_TIME, topics)

        async def call(client: AIOKafkaClient) -> None:
            answer = await _send_to_coordinator(client, group, request)
            for topic, stored in answer.topics:
                for _partition, code in stored:
                    if for_code(code) is GroupAuthorizationFailedError:
                        raise NotAllowed("group", group, "Read")
                    _check(code, topic, operation="Read", allowed=(UnknownTopicOrPartitionError,))

        await self._connection.retry("a commit", call)

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        wanted = set(topics)

        async def call(client: AIOKafkaClient) -> dict[str, int]:
            counts: dict[str, int] = defaultdict(int)
            for partition in await _leaders(client, wanted):
                counts[partition.topic] += 1
            return dict(counts)

        return await self._connection.retry("a request for topics", call)

    async def ensure(self, topics: Sequence[TopicSpec]) -> list[str]:
        """The topics that are missing, or hidden from us, and that we may not create.

        The others are there when it returns: a broker learns of a new topic some time after the controller has
        acknowledged it, or said to somebody else that it exists.
        """

        async def call(client: AIOKafkaClient) -> list[str]:
            existing, _hidden = await _metadata(client, {topic.name for topic in topics})
            missing = [topic for topic in topics if TopicPartition(topic.name) not in existing]
            if not missing:
                return []
            wanted = [_new_topic(topic) for topic in missing]
            request = CreateTopicsRequest(wanted, _CREATE_TIMEOUT_MS, validate_only=False)
            answer = await client.send(await _controller(client), request)
            results = [(topic, for_code(code), (*said, None)[0]) for topic, code, *said in answer.topic_errors]
            for topic, error, said in results:
                if error not in {NoError, TopicAlreadyExistsError, *RIGHTS}:
                    raise error(f"topic {topic} is not created: {said or error.description or error.__name__}")
            forbidden = {topic for topic, error, _said in results if error in RIGHTS}
            created = {topic.name for topic in missing} - forbidden
            there, _hidden = await _metadata(client, created)
            if unseen := [topic for topic in created if TopicPartition(topic) not in there]:
                raise LeaderNotAvailableError(f"the broker does not know the new topic {unseen[0]} yet")
            return [topic.name for topic in missing if topic.name in forbidden]

        return await self._connection.retry("the creation of topics", call)

    async def trim(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Raises LogRefused: asking again each minute is the caller's business."""

        async def call(client: AIOKafkaClient) -> dict[TopicPartition, int]:
            if not self._idempotent:  # it would close the connection instead of answering
                raise LogRefused("the embedded broker deletes no records")
            try:
                return await _trim(client, before)
            except (KafkaError, OSError) as error:
                said = self._setup.reason(error, client.cluster)
                refused = LogRefused(said) if isinstance(error, OffsetOutOfRangeError) else refusal(error, said)
                if refused is not None:
                    raise refused from error
                raise

        return await self._connection.retry("the deletion of records", call)

    async def settings(self, topics: Iterable[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
        """No setting of any topic where the broker does not tell them."""
        wanted = list(topics)
        request = DescribeConfigsRequest([(_TOPIC_RESOURCE, topic, list(names)) for topic in wanted])

        async def call(client: AIOKafkaClient) -> dict[str, dict[str, str]]:
            if not self._idempotent:  # the embedded broker closes the connection
                return {topic: {} for topic in wanted}
            answer = await client.send(client.get_random_node(), request)
            return {
                topic: {name: value for name, value, *_more in entries if name in names and value is not None}
                for code, _said, _kind, topic, entries in answer.resources
                if for_code(code) is NoError
            }

        return await self._connection.retry("a request for topics' settings", call)

    async def delete(self, topics: Sequence[str]) -> None:
        request = DeleteTopicsRequest(list(topics), _CREATE_TIMEOUT_MS)

        async def call(client: AIOKafkaClient) -> None:
            answer = await client.send(await _controller(client), request)
            for topic, code in answer.topic_error_codes:
                _check(code, topic, allowed=(UnknownTopicOrPartitionError,))

        await self._connection.retry("the deletion of topics", call)

    async def ping(self) -> None:
        """Wait until a broker answers a small request."""

        async def call(client: AIOKafkaClient) -> None:
            await client.send(client.get_random_node(), MetadataRequest([]))

        await self._connection.retry("a metadata request", call)

    async def producer(self) -> ProducerState:
        """A new producer id; one without idempotence where the broker has no idempotent producers."""
        return await self._connection.retry("a request for a producer id", _producer)

    async def _log_connected(self, client: AIOKafkaClient) -> None:
        self._idempotent = (await _init_producer(client))[0] not in _NO_IDEMPOTENCE
        if not self._is_second:
            logger().info("kafka.connected", bootstrap=self._bootstrap, idempotent=self._idempotent)


async def _producer(client: AIOKafkaClient) -> ProducerState:
    error, state = await _init_producer(client)
    if error not in {NoError, *_NO_IDEMPOTENCE, *RIGHTS}:  # a write says which right it is that lacks
        raise error(f"InitProducerId: {error.description or error.__name__}")
    return state


async def _init_producer(client: AIOKafkaClient) -> tuple[type[BrokerResponseError], ProducerState]:
    """The broker's answer, and the producer, without an id unless that is NoError."""
    try:
        answer = await client.send(client.get_random_node(), InitProducerIdRequest(None, 60_000))
    except IncompatibleBrokerVersion:
        return UnknownError, ProducerState()
    error = for_code(answer.error_code)
    return error, ProducerState(answer.producer_id, answer.producer_epoch) if error is NoError else ProducerState()


async def _leaders(client: AIOKafkaClient, topics: set[str]) -> dict[TopicPartition, int]:
    """The leader (node id) of each existing partition of the topics. Creates no topic."""
    leaders, hidden = await _metadata(client, topics)
    if hidden:
        raise NotAllowed("topic", hidden[0], None)
    return leaders


async def _metadata(client: AIOKafkaClient, topics: set[str]) -> tuple[dict[TopicPartition, int], list[str]]:
    """As `_leaders`, and the topics that we may not even see."""
    leaders: dict[TopicPartition, int] = {}
    hidden: list[str] = []
    if not topics:
        return leaders, hidden
    request = MetadataRequest(sorted(topics), allow_auto_topic_creation=False)
    answer = await client.send(client.get_random_node(), request)
    for code, topic, _is_internal, partitions in answer.topics:
        if for_code(code) is UnknownTopicOrPartitionError:
            continue
        if for_code(code) is TopicAuthorizationFailedError:
            hidden.append(topic)
            continue
        _check(code, topic)
        for _code, partition, leader, *_replicas in partitions:
            leaders[TopicPartition(topic, partition)] = leader
    return leaders, hidden


async def _offsets(
    client: AIOKafkaClient, leaders: Mapping[TopicPartition, int], which: int, isolation: int = _READ_UNCOMMITTED
) -> dict[TopicPartition, int]:
    offsets = {}
    for node in set(leaders.values()):
        if node < 0:
            raise LeaderNotAvailableError
        of_node = (partition for partition, leader in leaders.items() if leader == node)
        topics = _by_topic((each, (each.partition, which)) for each in of_node)
        answer = await client.send(node, OffsetRequest(-1, isolation, topics))
        for topic, partitions in answer.topics:
            for partition, code, _timestamp, offset in partitions:
                _check(code, topic)
                offsets[TopicPartition(topic, partition)] = offset
    return offsets


async def _trim(client: AIOKafkaClient, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    leaders = await _leaders(client, {each.topic for each in before})
    low: dict[TopicPartition, int] = {}
    for node in {leaders[each] for each in before if each in leaders}:
        of_node = (each for each in before if leaders.get(each) == node)
        topics = _by_topic((each, (each.partition, before[each])) for each in of_node)
        answer = await client.send(node, DeleteRecordsRequest(topics, _CREATE_TIMEOUT_MS))
        for topic, partitions, *_ in answer.topics:
            for partition, offset, code, *_more in partitions:
                _check(code, topic, operation="Delete")
                low[TopicPartition(topic, partition)] = offset
    return low


async def _fetched_high_watermarks(
    client: AIOKafkaClient, leaders: Mapping[TopicPartition, int], fetch_from: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The high watermarks, from fetches at offsets `fetch_from`.

    The embedded broker, the one without idempotent producers, counts the last batch as one record when it answers an
    offset request for the end.
    """
    ends = {}
    for partition, node in leaders.items():
        topics = [(partition.topic, [(partition.partition, fetch_from[partition], 1)])]
        answer = await client.send(node, FetchRequest(fetch.WAIT_MS, 1, 1, _READ_UNCOMMITTED, topics))
        for topic, [(_partition, code, high, *_more)] in answer.topics:
            _check(code, topic, operation="Read")
            ends[partition] = high
        if partition not in ends:
            raise LeaderNotAvailableError(f"{partition.topic}: no high watermark")
    return ends


async def _send_to_coordinator(client: AIOKafkaClient, group: str, request: Any) -> Any:
    try:
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
    except GroupAuthorizationFailedError as error:
        raise NotAllowed("group", group, "Read") from error
    return await client.send(node, request, group=ConnectionGroup.COORDINATION)


async def _controller(client: AIOKafkaClient) -> int:
    answer = await client.send(client.get_random_node(), MetadataRequest([]))
    controller: int = answer.controller_id
    return controller


def _new_topic(topic: TopicSpec) -> tuple[Any, ...]:
    return (topic.name, topic.partitions, _BROKERS_DEFAULT, [], list(topic.settings.items()))


def _by_topic(pairs: Iterable[tuple[TopicPartition, Any]]) -> list[tuple[str, list[Any]]]:
    topics: dict[str, list[Any]] = defaultdict(list)
    for partition, entry in pairs:
        topics[partition.topic].append(entry)
    return list(topics.items())


def _check(code: int, name: str, *, operation: str | None = None, allowed: tuple[type, ...] = ()) -> None:
    """Raise the error that `code` stands for. `operation`: the right to the topic `name` that the request needs."""
    error = for_code(code)
    if error is TopicAuthorizationFailedError:
        raise NotAllowed("topic", name, operation)
    if error is not NoError and error not in allowed:
        raise error(f"{name}: {error.description or error.__name__}")
