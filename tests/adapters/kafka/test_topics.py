"""Topics as Apache Kafka keeps them."""

import asyncio
import uuid

from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import Kafka
from edged.ports import KEPT, TopicSpec
from tests.support.shared_brokers import SharedBroker


def settings(broker: SharedBroker, topic: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    found = admin.describe_configs([resource])[resource].result()
    return {name: entry.value for name, entry in found.items()}


async def test_topics_have_the_retention_the_size_and_the_compaction_asked_for(apache_kafka: SharedBroker) -> None:
    passing, kept = (f"garden.{uuid.uuid4()}" for _ in range(2))
    async with KafkaLog(Kafka((apache_kafka.bootstrap,)), RecordingHealth()) as log:
        await log.ensure([TopicSpec(passing, 1, 60_000, 2 << 20), TopicSpec(kept, 1, None, 1 << 20, compacted=True)])

    found = await asyncio.to_thread(settings, apache_kafka, passing)
    assert (found["retention.ms"], found["max.message.bytes"], found["cleanup.policy"]) == (
        "60000",
        "2097152",
        "delete",
    )
    found = await asyncio.to_thread(settings, apache_kafka, kept)
    assert (found["cleanup.policy"], found["segment.bytes"]) == ("compact", str(16 << 20))


async def test_packs_are_kept_without_limit_and_every_record_has_the_brokers_time(apache_kafka: SharedBroker) -> None:
    kept = f"garden.{uuid.uuid4()}"
    async with KafkaLog(Kafka((apache_kafka.bootstrap,)), RecordingHealth()) as log:
        await log.ensure([TopicSpec(kept, retention_ms=KEPT)])

    found = await asyncio.to_thread(settings, apache_kafka, kept)
    assert (found["retention.ms"], found["retention.bytes"], found["cleanup.policy"]) == ("-1", "-1", "delete")
    assert found["message.timestamp.type"] == "LogAppendTime"
