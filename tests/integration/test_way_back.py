"""A device's sample to the companion and its prediction back, over a real broker."""

import asyncio
import dataclasses

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.device import Device
from edged.domain.topology import Kafka
from tests.services.inference.test_companion import HIGH, LOW, companion, running
from tests.support.greenhouse import topology


async def test_a_device_publishes_and_receives_its_predictions_over_a_broker(embedded_broker):
    kafka = Kafka((embedded_broker.bootstrap,))
    site = dataclasses.replace(topology(), kafka=kafka)
    async with (
        asyncio.timeout(120),
        KafkaLog(kafka, RecordingHealth()) as log,
        Device(site, "cam") as device,
        running(companion(log)),
    ):
        await device.publish_many([(HIGH, "high"), (LOW, None)] * 20)
        received = [await anext(device.predictions()) for _ in range(40)]
    assert [each.offset for each in received] == list(range(40))
    assert [each.label for each in received] == ["high", "low"] * 20
