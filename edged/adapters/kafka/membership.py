"""The port `Membership` by Kafka's consumer groups: an aiokafka consumer with all its partitions paused.

It reads and commits nothing: Kafka refuses commits in the name of a group that has members to whoever is none, and what
is read is assigned by ourselves (see `reading.reader`). aiokafka has no assignor that leaves partitions where they are
and keeps no state of its class; ours is `domain.archive.sharing`, by the member that leads the group.
"""

import asyncio
import contextlib
import json
from collections.abc import Collection, Iterable, Mapping

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError

from edged.adapters.kafka.connection import Setup, abandon_consumer, start_consumer
from edged.adapters.kafka.refusals import NotAllowed
from edged.aio import Backoff
from edged.domain.archive.sharing import Partition, share
from edged.ports import TopicPartition

SESSION_S = 15.0
"""A member of whom the broker hears nothing for this long has ended; no pause of a machine that works is as long."""

_HEARTBEAT_S = 2.0
"""How long a member may not know that another has joined or left."""

_TOPICS_S = 30.0
"""How long it may not know that a topic has come, or has more partitions."""

_CHECK_S = 1.0
"""How often aiokafka is asked for its errors, which wake nobody."""

_SILENCE_S = 2 * SESSION_S
"""In which the others notice that a member joins, and the broker gives up one that was killed."""

_PROTOCOL = "edged"
"""Members with another one are refused by the broker: it changes when what members tell each other does."""


class KafkaMembership:
    """A `ports.Membership`, from `KafkaLog.join`."""

    def __init__(self, setup: Setup, group: str, topics: Collection[str]) -> None:
        self._setup = setup
        self._group = group
        self._topics = sorted(topics)
        self._assignor = _Assignor()
        self._assignment = asyncio.Event()
        self._consumer: AIOKafkaConsumer | None = None
        self._backoff = Backoff()
        self._unassigned_since_s: float | None = asyncio.get_running_loop().time()

    @property
    def held(self) -> frozenset[TopicPartition]:
        return self._assignor.held

    async def other_than(self, known: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        while self.held == known:
            try:
                await self._check(self._consumer or await self._start())
            except (KafkaError, OSError) as error:
                await self._fail(error)
            self._judge_silence()
        return self.held

    async def close(self) -> None:
        """Leave the group, if the broker answers within seconds."""
        self._setup.outages.withdraw(self)
        await self._drop_consumer()

    def revoked(self) -> None:
        """The group shares again; what is held stays so until it is known."""
        if self._unassigned_since_s is None:
            self._unassigned_since_s = asyncio.get_running_loop().time()

    def assigned(self, partitions: Iterable[KafkaPartition]) -> None:
        """The group has said what is held."""
        if self._consumer is None:
            return  # it has failed meanwhile
        for each in partitions:
            self._consumer.seek(each, 0)  # else aiokafka asks for what nobody has committed
            self._consumer.pause(each)
        self._assignor.held = frozenset(TopicPartition(*each) for each in partitions)
        self._unassigned_since_s = None
        self._backoff.reset()
        self._setup.outages.end(self)
        self._assignment.set()

    async def _check(self, consumer: AIOKafkaConsumer) -> None:
        """Wait for an assignment, a little while. Raises what has gone wrong with the membership."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CHECK_S):
                await self._assignment.wait()
                self._assignment.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CHECK_S):
                await consumer.getmany(timeout_ms=0)

    async def _start(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **self._setup.options,
            group_id=self._group,
            partition_assignment_strategy=[self._assignor],
            session_timeout_ms=int(1000 * SESSION_S),
            rebalance_timeout_ms=int(1000 * SESSION_S),
            heartbeat_interval_ms=int(1000 * _HEARTBEAT_S),
            metadata_max_age_ms=int(1000 * _TOPICS_S),
            enable_auto_commit=False,
        )
        await start_consumer(consumer)
        self._setup.outages.clients.add(consumer._client)  # noqa: SLF001 - it has one like all others
        self._consumer = consumer
        consumer.subscribe(self._topics, listener=_Listener(self))  # not before: the start would wait for the others
        return consumer

    def _judge_silence(self) -> None:
        """Hold nothing, and tell so, once the group has said nothing for as long as others wait for a member."""
        now_s, since_s = asyncio.get_running_loop().time(), self._unassigned_since_s
        if since_s is not None and now_s - since_s > _SILENCE_S:
            self._assignor.held = frozenset()
            self._setup.outages.begin(self, f"the group {self._group} gives this node no part")

    async def _fail(self, error: KafkaError | OSError) -> None:
        """Let the next look begin again, after a while."""
        if isinstance(error, GroupAuthorizationFailedError):
            error = NotAllowed("group", self._group, "Read")
        self.revoked()
        self._setup.outages.begin(self, self._setup.explained(error))
        await self._drop_consumer()
        await self._backoff.wait()

    async def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await abandon_consumer(consumer)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes on what aiokafka says in a task of its own."""

    def __init__(self, membership: KafkaMembership) -> None:
        self._membership = membership

    def on_partitions_revoked(self, revoked: Collection[KafkaPartition]) -> None:  # noqa: ARG002 - it is all of them
        self._membership.revoked()

    def on_partitions_assigned(self, assigned: Collection[KafkaPartition]) -> None:
        self._membership.assigned(assigned)


class _Assignor(AbstractPartitionAssignor):  # type: ignore[misc]
    """Shares by `domain.archive.sharing`, for all if this member leads the group. Each member says what it holds."""

    name = _PROTOCOL

    def __init__(self) -> None:
        self.held: frozenset[TopicPartition] = frozenset()

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        return ConsumerProtocolMemberMetadata(0, sorted(topics), json.dumps(sorted(self.held)).encode())

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        topics = {member: frozenset(said.subscription) for member, said in members.items()}
        num_partitions = {
            topic: len(cluster.partitions_for_topic(topic) or ()) for topic in frozenset().union(*topics.values())
        }
        held = {member: _held(said.user_data) for member, said in members.items()}
        return {
            member: ConsumerProtocolMemberAssignment(0, [(topic, [number]) for topic, number in sorted(own)], b"")
            for member, own in share(topics, num_partitions, held).items()
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Nothing: see `KafkaMembership.assigned`."""


def _held(said: bytes | None) -> Collection[Partition]:
    """What a member says that it holds; nothing when that cannot be read."""
    try:
        return [(topic, number) for topic, number in json.loads(said or b"[]") if isinstance(topic, str)]
    except (ValueError, TypeError, RecursionError):
        return ()
