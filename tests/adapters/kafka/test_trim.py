"""Deleting records is a right of its own: whoever lacks it is told which, and deletes nothing."""

import asyncio
import uuid

import pytest

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.domain.topology import kafka_commands
from edged.errors import LogForbidden
from edged.ports import KEPT, Message, TopicPartition, TopicSpec, Watermarks
from tests.support.secured import SecuredKafka


async def test_without_the_right_to_delete_all_stays_and_the_refusal_names_it(secured_kafka: SecuredKafka) -> None:
    packs, vault = TopicPartition(f"garden.archive.{uuid.uuid4()}"), f"vault-{uuid.uuid4()}"
    bootstrap = secured_kafka.admin_kafka.bootstrap
    create = kafka_commands.create(bootstrap, packs.topic, 1, TopicSpec(packs.topic, retention_ms=KEPT).settings)
    await asyncio.to_thread(secured_kafka.run, create)
    async with KafkaLog(secured_kafka.admin_kafka, RecordingHealth()) as admin:
        await admin.append([Message(packs.topic, b"pack")] * 5)
    await asyncio.to_thread(secured_kafka.add_users, [vault])
    await asyncio.to_thread(secured_kafka.run, kafka_commands.allow(bootstrap, vault, ["Read"], "topic", packs.topic))

    async with KafkaLog(secured_kafka.kafka(vault), RecordingHealth()) as log:
        with pytest.raises(LogForbidden, match=f"User:{vault} may not Delete topic {packs.topic}; it may after: "):
            await log.trim({packs: 3})
        assert await log.watermarks([packs]) == {packs: Watermarks(0, 5, 5)}

        allow = kafka_commands.allow(bootstrap, vault, ["Delete"], "topic", packs.topic)
        await asyncio.to_thread(secured_kafka.run, allow)
        assert await log.trim({packs: 3}) == {packs: 3}
        assert await log.watermarks([packs]) == {packs: Watermarks(3, 5, 5)}
