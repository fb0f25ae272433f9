"""An MQTT broker, as far as edged needs it: persistent sessions, QoS 1 both ways, each packet acknowledged by hand.

Which topics there are, and what a packet means: `domain.mqtt`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from edged.domain.mqtt.limits import BrokerLimits

Verdict = Literal["delivered", "nobody"]
"""What became of an acknowledged packet. `nobody`: no session subscribes to its topic, which MQTT 5 alone reports."""


@dataclass(frozen=True, slots=True)
class PacketProperties:
    """What a packet carries besides its payload. MQTT 3.1.1 has none of it: empty when received, left out when sent."""

    user: tuple[tuple[str, str], ...] = ()
    response_topic: str = ""
    correlation: bytes = b""
    expiry_s: int | None = None


@dataclass(frozen=True, slots=True)
class Packet:
    """A PUBLISH as received.

    `connection` numbers the connections of this process, `session` the broker's sessions: a packet that was not
    acknowledged comes again in the same session, with the same `packet_id` and `is_resent`. `packet_id` 0: of QoS 0,
    which is never resent. `num_bytes`: of the payload as sent. `problem`: why the packet is incomplete here (it is
    larger than the session takes, or has too many properties); empty if it is complete.
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
        """Wait until there is a connection and the broker has accepted the subscriptions."""

    async def receive(self, *, max_packets: int, timeout_s: float) -> list[Packet]:
        """The next packets in the broker's order; empty when none came within `timeout_s`, also without a connection.

        Packets without an acknowledgement are bounded by the session's window, also where the broker sends more, but
        for one: without acknowledgements it has to wait. Of QoS 0 a bounded number of bytes is kept; what comes beyond
        is dropped and logged.
        Cancelled: none is lost.
        """

    def acknowledge(self, packets: Sequence[Packet]) -> bool:
        """Acknowledge the packets, in the order received, as MQTT requires. Returns whether that was sent for all.

        It is not for a packet whose connection is gone: the broker sends that one again.
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

    def send(
        self,
        topic: str,
        payload: bytes,
        properties: PacketProperties = PacketProperties(),
    ) -> "asyncio.Future[Verdict]":
        """Publish with QoS 1; the future is the broker's verdict. Several may be on their way, in order of the calls.

        Raises as `publish`: at once what is known at once, else from the future.
        """

    async def publish_all(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Publish these in order, not each behind the other's acknowledgement; return once all are acknowledged.

        Raises as `publish`; then any of them may have arrived.
        """

    def pause(self) -> None:
        """Close the connection until `resume`; the broker queues packets meanwhile.

        Packets that wait for `receive` are dropped unless they are of QoS 0: they come again.
        """

    def resume(self) -> None:
        """Connect again after `pause`; otherwise do nothing."""


class MqttBroker(Protocol):
    """One broker, as this process reaches it."""

    def session(
        self, client_id: str, subscriptions: Sequence[str] = (), *, part: str
    ) -> AbstractAsyncContextManager[MqttSession]:
        """The persistent session of this client id; another client that connects with the same id takes it over.

        `part`: the part of health for problems of this client alone; an unreachable broker is the part `mqtt`.
        """
