"""Checks whether the MQTT broker would lose samples: by the limits that it states, and by a probe.

The probe publishes to a topic of the edge's own while its subscriber is away, as samples wait for an edge that
restarts, and counts what is delivered then. See also: `domain.mqtt.limits`, which compares.
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
"""Between two checks: the settings may have been corrected."""

_PROBE_AGAIN_S = 86_400.0
"""After one that was passed: settings may be changed behind sessions that stay."""

_QUIET_S = 10.0
"""A probe is over when no packet of it has come for this long."""

_OVERHEAD_BYTES = 32
"""At most, of a packet without properties besides its topic and payload."""


class LimitsCheck:
    """Of one edge's broker. Degrades the part PART of health while acknowledged samples would be lost."""

    def __init__(self, broker: MqttBroker, mqtt: Mqtt, site: str, edge: str, health: Health) -> None:
        self._broker = broker
        self._mqtt = mqtt
        self._clients = prober_client_ids(site, edge)
        self._topic = probe_topic(site, edge)
        self._health = health
        self._passed_s: float | None = None
        self._reported: Sequence[Shortfall] = ()

    async def run(self) -> None:
        """Check at the first connection and every ten minutes, until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(_AGAIN_S)

    async def check(self) -> None:
        """Compare the stated limits, and probe unless this broker has passed a probe today. Waits for a connection."""
        writes, reads = self._clients
        async with (
            self._broker.session(writes, part=_SESSIONS) as writer,
            self._broker.session(reads, [self._topic], part=_SESSIONS) as reader,
        ):
            await writer.connected()
            await reader.connected()
            shortfalls = [] if writer.limits is None else list(limits.from_connack(writer.limits, self._mqtt))
            if not self._is_known(reader):
                of_probe = await self._of_probe(writer, reader)
                self._passed_s = asyncio.get_running_loop().time() if of_probe == [] else None
                shortfalls += of_probe or []
        self._report(shortfalls)

    def _is_known(self, reader: MqttSession) -> bool:
        """Whether this broker has passed a probe today: one that is another, or has lost its store, has no session."""
        is_recent = self._passed_s is not None and asyncio.get_running_loop().time() - self._passed_s < _PROBE_AGAIN_S
        return is_recent and reader.was_resumed is True

    async def _of_probe(self, writer: MqttSession, reader: MqttSession) -> list[Shortfall] | None:
        """Shortfalls that a probe finds; None if it could not be made."""
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
        found = list(limits.from_probe(probed if with_large else probed._replace(has_large=True), self._mqtt))
        if found and (reader.limits is None or reader.connection != connection + 1):
            self._log_failed("the connection broke")  # what is missing may be on its way, or lost with the session
            return None
        return found

    def _log_failed(self, reason: str) -> None:
        logger().warning("mqtt.probe_failed", topic=self._topic, reason=reason)

    async def _publish(self, writer: MqttSession, mark: bytes) -> bool:
        """Publish a probe. Returns whether it has the large packet: not if the broker states that it refuses it."""
        stated = None if writer.limits is None else writer.limits.packet_bytes
        with_large = stated is None or stated >= self._mqtt.packet_bytes
        if with_large:
            room = self._mqtt.packet_bytes - len(self._topic) - _OVERHEAD_BYTES
            await writer.publish(self._topic, mark + bytes(room - len(mark)))
        await writer.publish_all(self._topic, [mark] * NUM_PROBES)
        return with_large

    def _report(self, shortfalls: Sequence[Shortfall]) -> None:
        """To the log when they have changed, and to health."""
        if list(shortfalls) != list(self._reported):
            self._reported = shortfalls
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
    """Receive the `count` packets of the probe with this mark; what is left of earlier ones is acknowledged, too."""
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
