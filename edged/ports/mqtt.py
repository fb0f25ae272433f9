"""An MQTT broker, as far as edged needs it: persistent sessions, QoS 1 both ways, each packet acknowledged by hand.

Which topics there are, and what a packet means: `domain.mqtt`.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from edged.domain.mqtt.limits import BrokerLimits

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
    `packet_id` 0: of QoS 0, which nobody resends. `num_bytes`: of the payload as sent. `problem`: why this is not all
    of the packet (it was larger than the session takes, or has too many properties); empty when it is.
    """

    topic: str
    payload: bytes
    packet_id: int
    session: int
    connection: int
    is_resent: bool = False
    is_retained: bool = False
    properties: PacketProperties = PacketProperties()
    num_bytes: int = 0
    problem: str = ""


class MqttSession(Protocol):
    """One persistent session with its subscriptions, connected for as long as it is entered and not paused.

    The adapter reconnects by itself, with back-off, subscribes again each time, and reports health with the broker's
    reason. `mqtt.session_lost` is logged where the broker has lost the session.
    """

    @property
    def limits(self) -> BrokerLimits | None:
        """Of the present connection; None while there is none."""

    @property
    def connection(self) -> int:
        """The number of the present connection, or of the last one, as in `Packet`; 0 before the first."""

    @property
    def was_resumed(self) -> bool | None:
        """Whether the broker still had the session at the first connection; None before that."""

    async def connected(self) -> None:
        """Return once there is a connection and the broker has taken the subscriptions. Waits; cancel to stop."""

    async def receive(self, *, max_packets: int, timeout_s: float) -> list[Packet]:
        """The next packets in the broker's order; empty when none came within `timeout_s`, also without a connection.

        What is not received yet is bounded by the session's window, so a caller that does not ask slows its broker
        down, not itself; of QoS 0 a bounded number of bytes is kept, and what comes beyond is dropped and logged.
        Cancelled: none is lost.
        """

    def acknowledge(self, packets: Sequence[Packet]) -> bool:
        """Acknowledge in the order received, which MQTT asks for; whether it was sent.

        Not where the connection that brought one of them is gone: the broker sends it again.
        """

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

    def pause(self) -> None:
        """Close the connection, so that the broker keeps what comes, until `resume`.

        Packets with an id that were not received yet are dropped here: they come again.
        """

    def resume(self) -> None:
        """Connect again after `pause`; nothing otherwise."""


class MqttBroker(Protocol):
    """One broker, as this process reaches it."""

    def session(
        self, client_id: str, subscriptions: Sequence[str] = (), *, part: str
    ) -> AbstractAsyncContextManager[MqttSession]:
        """The session of this client id, of which the broker keeps one: whoever connects with the same id takes it.

        `part`: of health, for what concerns this session alone; that nothing can be reached is the part `mqtt`.
        """
