"""Whether the MQTT broker would lose samples: by what it says at a connection, and by a probe of what it does.

The probe publishes to a topic of the edge's own while nobody is connected to take it, as samples wait for an edge that
restarts. See also: `domain.mqtt.limits`, which judges.
"""

import asyncio
import secrets
from collections.abc import Sequence

from edged.domain.mqtt import limits
from edged.domain.mqtt.limits import NUM_PROBES, Probed, Shortfall
from edged.domain.mqtt.topics import probe_topic, prober_client_ids
from edged.domain.topology import Mqtt
from edged.errors import MqttRefused, MqttUnavailable
from edged.log import logger
from edged.ports import Health, MqttBroker, MqttSession

PART = "mqtt/limits"
_SESSIONS = "mqtt/probe"

_AGAIN_S = 600.0
"""Between two comparisons: whoever changes a broker's settings restarts it, and looks here then."""

_QUIET_S = 10.0
"""Without a packet for so long, no more come of a probe."""

_OVERHEAD_BYTES = 32
"""Of a packet without properties, beside its topic and payload, and a bit."""


class LimitsCheck:
    """Of one edge's broker. Degrades a part of health of its own while acknowledged samples would be lost."""

    def __init__(self, broker: MqttBroker, mqtt: Mqtt, site: str, edge: str, health: Health) -> None:
        self._broker = broker
        self._mqtt = mqtt
        self._clients = prober_client_ids(site, edge)
        self._topic = probe_topic(site, edge)
        self._health = health
        self._has_passed = False
        self._told: Sequence[Shortfall] = ()

    async def run(self) -> None:
        """Check at the first connection and every so often, until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(_AGAIN_S)

    async def check(self) -> None:
        """Compare, and probe unless a probe has been passed; waits for a connection."""
        writes, reads = self._clients
        async with (
            self._broker.session(writes, part=_SESSIONS) as writer,
            self._broker.session(reads, [self._topic], part=_SESSIONS) as reader,
        ):
            await writer.connected()
            await reader.connected()
            shortfalls = [] if writer.limits is None else list(limits.said(writer.limits, self._mqtt))
            if not self._has_passed:
                of_probe = await self._of_probe(writer, reader)
                self._has_passed = of_probe == []
                shortfalls += of_probe or []
        self._tell(shortfalls)

    async def _of_probe(self, writer: MqttSession, reader: MqttSession) -> list[Shortfall] | None:
        """None: it could not be made."""
        mark, connection = secrets.token_bytes(8), reader.connection
        reader.pause()
        try:
            with_large = await self._publish(writer, mark)
        except (MqttUnavailable, MqttRefused) as error:
            self._log_failed(str(error))
            return None
        reader.resume()
        await reader.connected()
        probed = await _received(reader, mark, NUM_PROBES + with_large)
        found = list(limits.found(probed if with_large else probed._replace(has_large=True), self._mqtt))
        if found and (reader.limits is None or reader.connection != connection + 1):
            self._log_failed("the connection broke")  # what is missing may be on its way, or lost with the session
            return None
        return found

    def _log_failed(self, reason: str) -> None:
        logger().warning("mqtt.probe_failed", topic=self._topic, reason=reason)

    async def _publish(self, writer: MqttSession, mark: bytes) -> bool:
        """Whether the large one was among them; a broker that says that it refuses it is not asked."""
        said = writer.limits
        with_large = said is None or said.packet_bytes is None or said.packet_bytes >= self._mqtt.packet_bytes
        if with_large:
            room = self._mqtt.packet_bytes - len(self._topic) - _OVERHEAD_BYTES
            await writer.publish(self._topic, mark + bytes(room - len(mark)))
        for _ in range(NUM_PROBES):
            await writer.publish(self._topic, mark)
        return with_large

    def _tell(self, shortfalls: Sequence[Shortfall]) -> None:
        """In the log when they have changed, and as health."""
        if list(shortfalls) != list(self._told):
            self._told = shortfalls
            for each in shortfalls:
                has = {} if each.has is None else {"has": each.has}
                logger().warning(
                    "mqtt.limits", limit=each.limit, **has, needs=each.needs, effect=each.effect, loses=each.loses
                )
        if losing := [str(each) for each in shortfalls if each.loses]:
            self._health.degraded(PART, "; ".join(losing), awaited=False)
        else:
            self._health.recovered(PART)


async def _received(reader: MqttSession, mark: bytes, count: int) -> Probed:
    """What comes of the probe with this mark, of `count` packets; what is left of an earlier one is taken away."""
    num_small, has_large = 0, False
    while num_small + has_large < count:
        packets = await reader.receive(max_packets=NUM_PROBES, timeout_s=_QUIET_S)
        if not packets:
            break
        reader.acknowledge(packets)
        own = [packet for packet in packets if packet.payload.startswith(mark)]
        num_small += sum(len(packet.payload) == len(mark) for packet in own)
        has_large |= any(len(packet.payload) > len(mark) for packet in own)
    return Probed(num_small, has_large)
