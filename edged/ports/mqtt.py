"""An MQTT broker, as far as edged needs it: one persistent session, QoS 1 both ways, each packet acknowledged by hand.

Covers one session of one client. Which topics there are, and what a packet means: `domain.mqtt`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Verdict = Literal["delivered", "nobody"]
"""Of a packet that the broker took. `nobody`: no session subscribes to its topic; only MQTT 5 brokers tell."""


@dataclass(frozen=True, slots=True)
class PacketProperties:
    """What a packet carries beside its payload. MQTT 3.1.1 has none of it: empty when received, left out when sent."""

    user: tuple[tuple[str, str], ...] = ()
    response_topic: str = ""
    correlation: bytes = b""
    expiry_s: int | None = None


@dataclass(frozen=True, slots=True)
class Packet:
    """A PUBLISH as received.

    `connection`: numbers the connections of this process, `session` the broker's sessions: a packet whose
    acknowledgement did not arrive comes again in the same session with the same `packet_id`, and `is_resent`.
    `packet_id` 0: of QoS 0, which nobody resends.
    """

    topic: str
    payload: bytes
    packet_id: int
    session: int
    connection: int
    is_resent: bool = False
    is_retained: bool = False
    properties: PacketProperties = PacketProperties()


class BrokerLimits(NamedTuple):
    """What the broker said when it accepted the connection. None: it did not say, or has no limit."""

    version: Literal["5", "3.1.1"]
    packet_bytes: int | None = None
    receive_maximum: int | None = None
    session_expiry_s: int | None = None
    maximum_qos: int = 2


class MqttSession(Protocol):
    """One persistent session with its subscriptions, connected for as long as it is entered and not paused.

    The adapter reconnects by itself, with back-off, subscribes again where the broker has lost the session, and reports
    health with the broker's reason. No method waits for ever: each says what it does while there is no connection.
    """

    @property
    def limits(self) -> BrokerLimits | None:
        """Of the present connection; None while there is none."""

    async def receive(self, *, max_packets: int, timeout_s: float) -> list[Packet]:
        """The next packets in the broker's order; empty when none came within `timeout_s`, also without a connection.

        At most the session's window of packets is unacknowledged, so this is what it can hold. Cancelled: none is lost.
        """

    def acknowledge(self, packets: Sequence[Packet]) -> None:
        """Acknowledge in the order received. Of an earlier connection: nothing happens, the broker sends it again."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        properties: PacketProperties = PacketProperties(),
    ) -> Verdict:
        """Publish with QoS 1; return once the broker has acknowledged it.

        Raises MqttUnavailable when there is no connection or it breaks first: it may have arrived. Raises MqttRefused
        when the broker refuses this packet: its right, size or topic. Cancelled: it may or may not have arrived.
        """

    async def pause(self) -> None:
        """Close the connection, so that the broker keeps what comes, until `resume`."""

    def resume(self) -> None:
        """Connect again after `pause`."""
