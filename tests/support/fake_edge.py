"""An edge in a few lines, for tests of devices: it takes what they publish, from Kafka or MQTT, and answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edged.adapters.memory.mqtt import MemoryMqttBroker
from edged.domain.mqtt import receipts, topics
from edged.domain.samples import prediction
from edged.domain.samples.prediction import Prediction
from edged.ports import Packet

SITE = "greenhouse"


def predicted(device: str, sample_id: str, label: str = "high") -> bytes:
    """A prediction as the companion publishes it."""
    return prediction.encode(
        Prediction(device, 0, 0, 1_700_000_000_000, None, label, 1.0, {label: 1.0}, 1, 1.0, 1.0, id=sample_id)
    )


class FakeEdge:
    """The bridge of one device: `arrived` has (label, payload, id) of each packet, doubles included.

    `answers`: whether receipts are sent; `refuses`: the reason in each, if any.
    """

    def __init__(self, broker: MemoryMqttBroker, device: str) -> None:
        self.arrived: list[tuple[str, bytes, str]] = []
        self.packets: list[Packet] = []
        self.answers = True
        self.refuses = ""
        self._broker = broker
        self._device = device

    @property
    def ids(self) -> list[str]:
        return [each for _label, _payload, each in self.arrived]

    def receipt(self, *ids: str) -> None:
        """Tell the device that Kafka holds these."""
        lines = [receipts.line(each, self.refuses) for each in ids]
        self._broker.publish(topics.receipts_topic(SITE, self._device), "\n".join(lines).encode())

    def predict(self, sample_id: str, label: str = "high") -> None:
        """Send a prediction for this sample."""
        self._broker.publish(topics.predictions_topic(SITE, self._device), predicted(self._device, sample_id, label))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeEdge"]:
        """Inside, packets are taken and acknowledged."""
        filters = topics.of_device(SITE, self._device)
        client_id = topics.bridge_client_id(SITE, self._device)
        async with (
            self._broker.session(client_id, filters, part="device") as session,
            asyncio.TaskGroup() as group,
        ):

            async def take() -> None:
                while True:
                    for packet in await session.receive(max_packets=32, timeout_s=60):
                        said = dict(packet.properties.user)
                        topic = topics.parse(SITE, packet.topic)
                        assert isinstance(topic, topics.SampleTopic)
                        sample_id = said.get("id") or topic.sample_id or ""
                        self.packets.append(packet)
                        self.arrived.append((said.get("label") or topic.label or "", packet.payload, sample_id))
                        session.acknowledge([packet])
                        if self.answers:
                            self.receipt(sample_id)

            task = group.create_task(take())
            try:
                yield self
            finally:
                task.cancel()
