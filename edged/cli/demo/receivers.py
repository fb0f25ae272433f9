"""The demo's MQTT devices as receivers: the predictions that come back to each.

Covers counting what comes. The devices' own processes only publish.
"""

import asyncio
import time
from collections.abc import Iterable

from edged.domain.mqtt import topics
from edged.domain.samples import prediction
from edged.domain.samples.prediction import Identity
from edged.domain.topology import Topology
from edged.ports import MqttBroker, Packet

_MAX_PACKETS = 32
_POLL_S = 60.0


class Receivers:
    """All devices of a run. `identities`: the samples of the predictions that came, as often as they did."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._news = asyncio.Event()
        self.identities: list[Identity] = []
        self.latencies_ms: list[float] = []
        """From a sample's arrival at Kafka until its device had the prediction."""

    async def receive(self, broker: MqttBroker, device: str) -> None:
        """Receive the device's predictions, until cancelled."""
        topic = topics.predictions_topic(self._topology.site, device)
        client_id = f"{topics.device_client_id(self._topology.site, device)}:predictions"
        async with broker.session(client_id, [topic], part=device) as session:
            while True:
                packets = await session.receive(max_packets=_MAX_PACKETS, timeout_s=_POLL_S)
                self._take(packets)
                session.acknowledge(packets)

    async def until_all_of(self, identities: Iterable[Identity]) -> None:
        """Return once the prediction of each of these samples has come."""
        wanted = set(identities)
        while not wanted <= set(self.identities):
            self._news.clear()
            await self._news.wait()

    def _take(self, packets: Iterable[Packet]) -> None:
        now_ms = time.time_ns() / 1e6
        for packet in packets:
            found = prediction.decode(packet.payload)
            self.identities.append(found.identity)
            self.latencies_ms.append(now_ms - found.arrived_ms)
        self._news.set()
