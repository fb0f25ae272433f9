"""One right that is missing: what needs it waits, says which it is, and works once it is granted."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.domain.place import Place
from edged.domain.topology import kafka_commands
from edged.domain.topology.rights import Rights
from edged.errors import LogForbidden
from edged.ports import Log, Message, Record, TopicPartition, TopicSpec
from tests.support.secured import SecuredKafka

Call = Callable[[Log, str, str], Awaitable[object]]


async def read(log: Log, topic: str, _group: str) -> None:
    async with log.reader({TopicPartition(topic): 0}) as reader:
        while not await reader.poll(max_records=1, timeout_s=1.0):
            pass


async def commit(log: Log, topic: str, group: str) -> None:
    async with log.reader({TopicPartition(topic): 0}, group=group) as reader:
        await reader.commit({TopicPartition(topic): Place(1)})


async def write(log: Log, topic: str, _group: str) -> None:
    await log.append([Message(topic, b"2")])


async def describe(log: Log, topic: str, _group: str) -> None:
    await log.watermarks([TopicPartition(topic)])


async def committed(log: Log, topic: str, group: str) -> None:
    await log.committed(group, [TopicPartition(topic)])


async def join(log: Log, topic: str, group: str) -> None:
    async with log.join(group, [topic]) as membership:
        assert await membership.other_than(frozenset()) == {TopicPartition(topic)}


CALLS: dict[str, tuple[list[str], bool, Call, str]] = {
    "read": (["Write"], False, read, "Read topic {topic}"),
    "write": (["Read"], False, write, "Write topic {topic}"),
    "describe": ([], False, describe, "Write or Read topic {topic}"),
    "committed": (["Read"], False, committed, "Read group {group}"),
    "commit": (["Read"], False, commit, "Read group {group}"),
    "join": (["Read"], False, join, "Read group {group}"),
    "commit a topic": (["Write"], True, commit, "Read topic {topic}"),
}


@pytest.fixture
def user(secured_kafka: SecuredKafka) -> str:
    name = f"user-{uuid.uuid4()}"
    secured_kafka.add_users([name])
    return name


def allow(kafka: SecuredKafka, user: str, operations: list[str], kind: str, name: str) -> None:
    kafka.run(kafka_commands.allow(["b"], user, operations, kind, name))


async def filled(kafka: SecuredKafka) -> str:
    """A topic with one record."""
    topic = f"garden.{uuid.uuid4()}"
    await asyncio.to_thread(kafka.run, kafka_commands.create(["b"], topic, 1, {}))
    async with KafkaLog(kafka.admin_kafka, RecordingHealth()) as log:
        await log.append([Message(topic, b"1")])
    return topic


@pytest.mark.parametrize("name", CALLS)
async def test_a_missing_right_is_named_with_its_command_which_mends_it(
    name: str, secured_kafka: SecuredKafka, user: str
):
    has, has_group, call, missing = CALLS[name]
    topic, group = await filled(secured_kafka), f"group.{uuid.uuid4()}"
    if has:
        allow(secured_kafka, user, has, "topic", topic)
    if has_group:
        allow(secured_kafka, user, ["Read"], "group", group)
    needed = missing.format(topic=topic, group=group)
    health = RecordingHealth()

    async with (
        KafkaLog(secured_kafka.kafka(user), health, rights=Rights("pi-a", {topic: ["Write", "Read"]})) as log,
        asyncio.timeout(120),
    ):
        called = asyncio.ensure_future(call(log, topic, group))
        await health.until_degraded()
        reason = health.reasons["kafka"]
        assert reason.startswith(f"User:{user} may not {needed}; it may after: kafka-acls.sh --bootstrap-server ")

        secured_kafka.run(reason.partition("it may after: ")[2])
        await called
    assert health.reasons == {}


async def test_a_topic_that_may_no_longer_be_read_holds_up_no_other(secured_kafka: SecuredKafka, user: str):
    ours, others = [await filled(secured_kafka) for _ in range(2)]
    for topic in (ours, others):
        allow(secured_kafka, user, ["Read", "Write"], "topic", topic)
    health = RecordingHealth()
    found: list[Record] = []
    async with (
        KafkaLog(secured_kafka.kafka(user), health) as log,
        log.reader({TopicPartition(ours): 0, TopicPartition(others): 0}) as reader,
        asyncio.timeout(120),
    ):
        while len(found) < 2:
            found += await reader.poll(max_records=10, timeout_s=1.0)
        secured_kafka.revoke(user, "Read", ours)
        for value in (b"2", b"3", b"4"):
            await log.append([Message(ours, value), Message(others, value)])
            while sum(each.topic == others for each in found) < int(value):
                found += await reader.poll(max_records=10, timeout_s=1.0)
        while not health.reasons:
            found += await reader.poll(max_records=10, timeout_s=0.2)
        assert f"may not Read topic {ours}" in health.reasons["kafka"]

        allow(secured_kafka, user, ["Read"], "topic", ours)
        while len(found) < 8 or health.reasons:
            found += await reader.poll(max_records=10, timeout_s=1.0)
    assert [each.value for each in found if each.topic == ours] == [b"1", b"2", b"3", b"4"]
    assert [each.value for each in found if each.topic == others] == [b"1", b"2", b"3", b"4"]


async def test_topics_that_may_not_be_made_are_told_and_settings_that_may_not_be_seen_left_out(
    secured_kafka: SecuredKafka, user: str
):
    there, missing = await filled(secured_kafka), f"garden.{uuid.uuid4()}"
    for topic in (there, missing):
        allow(secured_kafka, user, ["Read"], "topic", topic)
    async with KafkaLog(secured_kafka.kafka(user), RecordingHealth()) as log:
        assert await log.ensure([TopicSpec(there), TopicSpec(missing)]) == [missing]
        assert await log.settings([there, missing], ["cleanup.policy"]) == {}
        allow(secured_kafka, user, ["DescribeConfigs"], "topic", there)
        assert await log.settings([there, missing], ["cleanup.policy"]) == {there: {"cleanup.policy": "delete"}}


async def test_who_gives_up_is_refused_at_once(secured_kafka: SecuredKafka, user: str):
    topic = await filled(secured_kafka)
    async with KafkaLog(secured_kafka.kafka(user), RecordingHealth(), gives_up=True) as log:
        with pytest.raises(LogForbidden, match=topic):
            await log.append([Message(topic, b"2")])
        with pytest.raises(LogForbidden, match=topic):
            await read(log, topic, "")
