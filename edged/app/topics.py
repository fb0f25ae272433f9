"""A node's own topics: made at its start and after a reload, judged by their settings, and missed where they are not.

See also: `domain.topology.topics` (which they are), `domain.topology.existing` (what a setting would do).
"""

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from edged.domain.topology import Topology, existing, kafka_commands
from edged.domain.topology.topics import Topic, topics_of
from edged.log import logger
from edged.ports import Health, Log, TopicSpec
from edged.settings import TopologyInUse


async def ensure(topics: Sequence[Topic], log: Log) -> None:
    """Make those that are missing, or log that they may not be made."""
    if missing := await log.ensure([TopicSpec(*topic) for topic in topics]):
        logger().warning("kafka.topics_missing", topics=missing)


async def look_after(in_use: TopologyInUse, node: str, log: Log, topology: Topology, own: Sequence[Topic]) -> NoReturn:
    """Judge the settings of the node's topics, which exist, and make and judge those that come with a reload."""
    await _judge_settings(topology, own, log)
    while True:
        topology, former = await in_use.other_than(topology), own
        own = topics_of(topology, node)
        if new := [topic for topic in own if topic not in former]:
            await ensure(new, log)
            await _judge_settings(topology, new, log)


async def report_missing(in_use: TopologyInUse, node: str, log: Log, health: Health, every_s: float) -> NoReturn:
    """Degrade the node by each of its topics that is missing at two looks in a row, until it is there.

    By no presence topic: a node works without. Kafka tells nobody of a topic that comes or goes, so it is asked.
    """
    missed: set[str] = set()
    while True:
        await asyncio.sleep(every_s)
        topology = in_use.topology
        own = {topic.name: topic for topic in topics_of(topology, node) if topic.name != topology.presence_topic(node)}
        missing = own.keys() - (await log.partitions(own)).keys()
        for name in sorted(missing & missed):
            health.degraded(_part(topology, name), _absence(topology, own[name]), awaited=False)
        for name in sorted(missed - missing):
            health.recovered(_part(topology, name))
        missed = missing


def _part(topology: Topology, topic: str) -> str:
    device = _device(topology, topic)
    return f"device/{device}" if device else f"topic/{topic}"


def _absence(topology: Topology, topic: Topic) -> str:
    device = _device(topology, topic.name)
    spec = TopicSpec(*topic)
    command = kafka_commands.create(topology.kafka.bootstrap, spec.name, spec.partitions, spec.settings)
    whose = f"topic {topic.name} of the device {device} does" if device else f"topic {topic.name} does"
    return f"{whose} not exist: `edged topics --apply` makes it, or {command}"


def _device(topology: Topology, topic: str) -> str:
    """The device that writes to the topic; "" when none does."""
    return next((each.name for each in topology.iot if topology.device_topic(each.name) == topic), "")


async def _judge_settings(topology: Topology, own: Sequence[Topic], log: Log) -> None:
    """Log, once, what the settings of these topics would do to samples."""
    settings = await log.settings([topic.name for topic in own], existing.SETTINGS)
    there = await log.partitions(topic.name for topic in own)
    if unseen := [topic.name for topic in own if topic.name in there and topic.name not in settings]:
        logger().info("kafka.settings_unseen", topics=unseen)
    for topic in own:
        few = existing.too_few_partitions(topology, topic, there.get(topic.name, 0))
        for harm in [*existing.harms(topology, topic, settings.get(topic.name, {})), *filter(None, [few])]:
            logger().warning("kafka.topic_setting", **harm._asdict(), command=existing.command(topology, harm))
