"""Compares an MQTT broker's limits with what a topology needs: which difference would lose samples, with both numbers.

Covers the limits that a broker states at a connection, and those that a probe finds. See also: `services.mqtt.limits`,
which probes.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from edged.domain.topology import Mqtt

LARGEST_ENVELOPE = 2048
"""Bytes of a packet besides its payload: the longest topic, and the properties that edged reads."""

SESSION_EXPIRY_S = 7 * 86_400
"""How long the broker is asked to keep the session of a client that is away: a node may be off over a holiday."""

_MIN_UNASKED_BYTES, _MAX_UNASKED_BYTES = 64 << 10, 1 << 20

NUM_PROBES = 1_100
"""Small packets of a probe: more than the 1,000 that brokers keep by default of what waits for a client."""


class BrokerLimits(NamedTuple):
    """Limits that the broker stated when it accepted the connection. None: not stated, or no limit."""

    version: Literal["5", "3.1.1"]
    packet_bytes: int | None = None
    receive_maximum: int | None = None
    session_expiry_s: int | None = None
    maximum_qos: int = 2


class Shortfall(NamedTuple):
    """A limit of the broker that differs from what the topology needs. `has`: None: it has no limit.

    `loses`: whether samples are lost that the broker has acknowledged; otherwise it refuses them, and the device knows.
    """

    limit: str
    has: int | None
    needs: int
    effect: str
    loses: bool = True

    def __str__(self) -> str:
        has = "no limit" if self.has is None else str(self.has)
        return f"{self.limit}: the broker has {has}, the topology needs {self.needs}: {self.effect}"


class Probed(NamedTuple):
    """What arrived of a probe for a session that was away: small packets, and one as large as allowed."""

    num_small: int
    has_large: bool


def unasked_bytes(window: int, packet_bytes: int) -> int:
    """Of packets of QoS 0 that may wait in a session: a broker sends them however many do."""
    return min(max(window * packet_bytes, _MIN_UNASKED_BYTES), _MAX_UNASKED_BYTES)


def from_connack(limits: BrokerLimits, mqtt: Mqtt) -> Iterator[Shortfall]:
    """Shortfalls in what the broker stated when it accepted the connection; with MQTT 3.1.1 it states nothing."""
    if limits.version != "5":
        return
    if limits.packet_bytes is None or limits.packet_bytes > mqtt.packet_bytes:
        effect = "a larger packet would be acknowledged, and only a dead letter be made of its first part"
        yield Shortfall("packet_bytes", limits.packet_bytes, mqtt.packet_bytes, effect)
    elif limits.packet_bytes < mqtt.packet_bytes:
        effect = "it refuses packets in between, and disconnects their devices"
        yield Shortfall("packet_bytes", limits.packet_bytes, mqtt.packet_bytes, effect, loses=False)
    if limits.session_expiry_s is not None and limits.session_expiry_s < SESSION_EXPIRY_S:
        effect = "what is published while the edge is away for longer, in seconds, is lost"
        yield Shortfall("session_expiry", limits.session_expiry_s, SESSION_EXPIRY_S, effect)
    if limits.maximum_qos < 1:
        yield Shortfall("maximum_qos", limits.maximum_qos, 1, "nothing is acknowledged, and lost where a link breaks")


def from_probe(probed: Probed, mqtt: Mqtt) -> Iterator[Shortfall]:
    """Shortfalls that a probe found, all of whose packets the broker had acknowledged."""
    if probed.num_small < NUM_PROBES:
        effect = "it drops the rest of what waits for an edge that is away, though it has acknowledged it"
        yield Shortfall("queued packets", probed.num_small, NUM_PROBES, effect)
    if not probed.has_large:
        effect = "it drops packets of this size, though it has acknowledged them"
        yield Shortfall("packet_bytes", 0, mqtt.packet_bytes, effect)
