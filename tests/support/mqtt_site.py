"""A site whose cameras speak MQTT, and devices of the test's own process that publish to its broker."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.domain.mqtt import topics
from edged.domain.topology import Mqtt
from edged.errors import MqttUnavailable
from edged.ports import MqttSession, PacketProperties, Record, TopicPartition
from edged.reading import read_to_end
from tests.support.site import Site

PAYLOAD = bytes(784)
"""Always the same: what tells samples apart is not in it."""


class MqttSite(Site):
    """`port`: of the MQTT broker as the edge sees it. cam-01 declares no ids, cam-02 a counter."""

    def __init__(self, *arguments: Any, port: int, window: int = 8, **settings: Any) -> None:
        self._mqtt = f'mqtt: {{broker: "127.0.0.1:{port}", window: {window}, packet_bytes: 64KiB}}\n'
        super().__init__(*arguments, **settings)

    def configure(self, **settings: Any) -> None:
        super().configure(**settings)
        text = self.topology.read_text()
        text = re.sub(r"(name: cam-01.*), codec: raw}", r"\1, transport: mqtt}", text)
        text = re.sub(r"(name: cam-02.*), codec: png}", r"\1, transport: mqtt, id: counter}", text)
        self.topology.write_text(text.replace("streams:", self._mqtt + "streams:", 1))

    async def records(self, device: str) -> list[Record]:
        """All of the device's topic."""
        topology = self.loaded()
        partition = TopicPartition(topology.device_topic(device))
        async with KafkaLog(topology.kafka, RecordingHealth()) as log, log.reader({partition: 0}) as reader:
            return [
                record async for records in read_to_end(log, reader, partition, max_records=1000) for record in records
            ]


class Publisher:
    """Publishes the same payload again and again, numbered by the property `id`, as any client would.

    `acknowledged`: the numbers that the broker has taken for somebody; `attempts`: how often it was tried.
    """

    def __init__(self, session: MqttSession, topic: str, pause_s: float) -> None:
        self.acknowledged: list[int] = []
        self.attempts = 0
        self._session = session
        self._topic = topic
        self._pause_s = pause_s
        self._is_wanted = True

    def stop(self) -> None:
        self._is_wanted = False

    async def run(self) -> None:
        number = 0
        while self._is_wanted:
            await self._session.connected()
            self.attempts += 1
            try:
                verdict = await self._session.publish(self._topic, PAYLOAD, PacketProperties((("id", str(number)),)))
            except MqttUnavailable:
                continue
            if verdict == "delivered":
                self.acknowledged.append(number)
            number += 1
            await asyncio.sleep(self._pause_s)


@asynccontextmanager
async def publishing(mqtt: Mqtt, site: str, devices: Sequence[str], pause_s: float) -> AsyncIterator[list[Publisher]]:
    """Inside, these devices publish."""
    async with (
        PahoBroker(mqtt, RecordingHealth()) as broker,
        _sessions(broker, site, devices) as sessions,
        asyncio.TaskGroup() as group,
    ):
        publishers = [
            Publisher(session, topics.samples_topic(site, device), pause_s)
            for device, session in zip(devices, sessions, strict=True)
        ]
        for each in publishers:
            group.create_task(each.run())
        yield publishers
        for each in publishers:
            each.stop()


@asynccontextmanager
async def _sessions(broker: PahoBroker, site: str, devices: Sequence[str]) -> AsyncIterator[list[MqttSession]]:
    if not devices:
        yield []
        return
    client_id = topics.device_client_id(site, devices[0])
    async with broker.session(client_id, part=devices[0]) as first, _sessions(broker, site, devices[1:]) as rest:
        yield [first, *rest]
