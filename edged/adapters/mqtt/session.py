"""One persistent session over successive connections: acknowledgements, publishing, and when to reconnect.

Has no task: called by sockets and timers. See also: `connection` (bytes) and `mqtt_received` (packets that wait).
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

from edged.adapters.mqtt import reasons
from edged.adapters.mqtt.connection import Connection, Options
from edged.adapters.mqtt.dialing import Dialer
from edged.adapters.mqtt.outage import Outage
from edged.adapters.mqtt.reasons import End
from edged.adapters.mqtt_received import Received
from edged.aio import Backoff
from edged.domain.mqtt.limits import unasked_bytes
from edged.errors import MqttRefused, MqttUnavailable
from edged.log import logger
from edged.ports import BrokerLimits, Health, Packet, PacketProperties, Verdict

_MAX_BACKOFF_S = 5.0
_MAX_REFUSED_S = 60.0
_FIRST_REFUSED_S = 5.0
_TAKEN_OVER_S = 60.0
"""Two clients with one id would throw each other out as fast as they connect."""

_STABLE_S = 120.0
"""A connection that lasts this long ends earlier trouble: retries begin with short waits again."""

_MAX_HUNG_UP = 3
"""Connections in a row that a broker closes without a reason, before it is taken for a takeover by another client."""

_NONE = PacketProperties()

_AT_ONCE = 100
"""Of many packets: enough to keep a broker busy that takes 20 before it acknowledges the first."""

_HEADER_BYTES = 5
"""Of a packet whose length is not one byte."""


class PahoSession:
    """A `ports.MqttSession`. `open` and `close` are called once each.

    `part`: of health, for what concerns this session alone. `outage`: the broker's, of all sessions.
    """

    def __init__(self, options: Options, dialer: Dialer, outage: Outage, health: Health, part: str) -> None:
        self._options = replace(options, is_v5=True)
        self._dialer = dialer
        self._outage = outage
        self._health = health
        self._part = part
        self._received = Received(options.client_id, unasked_bytes(options.window, options.packet_bytes))
        self._num_unacknowledged = 0
        """Packets of the present connection."""
        self._connection: Connection | None = None
        self._give_up: Callable[[], None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._lost = Backoff(max_s=_MAX_BACKOFF_S)
        self._refused = Backoff(_FIRST_REFUSED_S, _MAX_REFUSED_S)
        self._taken_over = Backoff(_TAKEN_OVER_S, _TAKEN_OVER_S)
        self._num_hung_up = 0
        self._is_wanted = False
        self._was_accepted = False
        self._stable: asyncio.TimerHandle | None = None
        self._reason = "there is no connection yet"
        self._limits: BrokerLimits | None = None
        self._set_up = asyncio.Event()

    @property
    def limits(self) -> BrokerLimits | None:
        """See `ports.MqttSession`."""
        return self._limits if self._set_up.is_set() else None

    @property
    def connection(self) -> int:
        """See `ports.MqttSession`."""
        return self._received.connection

    @property
    def was_resumed(self) -> bool | None:
        """See `ports.MqttSession`."""
        return self._received.was_resumed

    def open(self) -> None:
        """Begin to connect."""
        self._is_wanted = True
        self._dial()

    def close(self) -> None:
        """Disconnect, and do not connect again."""
        self._stop("the session was left")
        self._outage.withdraw(self)

    async def connected(self) -> None:
        """See `ports.MqttSession`."""
        await self._set_up.wait()

    async def receive(self, *, max_packets: int, timeout_s: float) -> list[Packet]:
        """See `ports.MqttSession`."""
        return await self._received.take(max_packets, timeout_s)

    def acknowledge(self, packets: Sequence[Packet]) -> bool:
        """See `ports.MqttSession`."""
        is_sent = True
        for packet in packets:
            if self._connection is None or packet.connection != self._received.connection:
                is_sent = False
            elif packet.packet_id:
                self._connection.acknowledge(packet.packet_id)
                self._num_unacknowledged -= 1
        if self._connection is not None and self._has_room:
            self._connection.read_on()
        return is_sent

    async def publish(self, topic: str, payload: bytes, properties: PacketProperties = _NONE) -> Verdict:
        """See `ports.MqttSession`."""
        return await self.send(topic, payload, properties)

    async def publish_all(self, topic: str, payloads: Sequence[bytes]) -> None:
        """See `ports.MqttSession`."""
        for begin in range(0, len(payloads), _AT_ONCE):
            some = [self.send(topic, payload) for payload in payloads[begin : begin + _AT_ONCE]]
            await asyncio.wait(some)
            if errors := [error for each in some if (error := each.exception())]:
                raise errors[0]

    def send(self, topic: str, payload: bytes, properties: PacketProperties = _NONE) -> "asyncio.Future[Verdict]":
        """See `ports.MqttSession`."""
        if self._connection is None or not self._set_up.is_set():
            raise MqttUnavailable(self._reason)
        assert self._limits is not None
        most, size = self._max_packet_bytes, _size(topic, payload, properties)
        if most is not None and size > most:
            raise MqttRefused(f"the packet to {topic} has {size} bytes; the broker takes {most}")
        return self._connection.publish(topic, payload, properties)

    @property
    def _max_packet_bytes(self) -> int | None:
        """Over 3.1.1 no broker says what it takes, and the edge takes no more than the topology says."""
        assert self._limits is not None
        return self._options.packet_bytes if self._limits.version == "3.1.1" else self._limits.packet_bytes

    def pause(self) -> None:
        """See `ports.MqttSession`."""
        self._stop("the session is paused")
        self._received.drop_resent()

    def resume(self) -> None:
        """See `ports.MqttSession`."""
        if not self._is_wanted:
            self.open()

    # Called by the dialer and the connection.

    def accepted(self, limits: BrokerLimits, *, is_resumed: bool) -> None:
        """See `connection.Owner`."""
        self._was_accepted = True
        self._limits = limits
        self._outage.end(self)
        self._num_unacknowledged = 0
        self._received.connected(is_resumed=is_resumed)

    def subscribed(self) -> None:
        """See `connection.Owner`."""
        self._set_up.set()
        if self._num_hung_up < _MAX_HUNG_UP:
            self._health.recovered(self._part)
        self._stable = asyncio.get_running_loop().call_later(_STABLE_S, self._is_stable)
        assert self._limits is not None
        logger().info("mqtt.connected", client=self._options.client_id, version=self._limits.version)

    def arrived(self, packet: Packet) -> bool:
        """See `connection.Owner`."""
        self._num_unacknowledged += packet.packet_id > 0
        self._received.put(packet)
        return self._has_room

    def ended(self, end: End) -> None:
        """See `connection.Owner`."""
        self._connection = None
        self._set_up.clear()
        self._reason = end.reason
        if self._stable is not None:
            self._stable.cancel()
        if not self._is_wanted:
            return
        end = self._understood(end)
        self._report(end)
        self._retry = asyncio.get_running_loop().call_later(self._pause_s(end), self._dial)
        self._was_accepted = False

    @property
    def _has_room(self) -> bool:
        """A broker that keeps to the window sends no more by itself; Mosquitto before 2.0.13 does (mosquitto#2306).

        While nothing is read, no acknowledgement is, either.
        """
        return self._num_unacknowledged <= self._options.window

    def _dial(self) -> None:
        self._retry = None
        self._give_up = self._dialer.dial(self._dialed)

    def _dialed(self, made: socket.socket | None, error: Exception | None) -> None:
        self._give_up = None
        if made is None:
            assert error is not None
            self.ended(reasons.by_error(error, is_tls=self._outage.is_tls, is_dialing=True))
        else:
            self._connection = Connection(made, self._options, self)

    def _stop(self, reason: str) -> None:
        self._is_wanted = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._give_up is not None:
            self._give_up()
            self._give_up = None
        if self._connection is not None:
            self._connection.close()
        self._reason = reason

    def _understood(self, end: End) -> End:
        """After several hang-ups in a row: probably another client has the same id."""
        if end.kind == "version":
            return end
        self._num_hung_up = self._num_hung_up + 1 if end.kind == "hung_up" else 0
        if self._num_hung_up < _MAX_HUNG_UP:
            return end
        client = self._options.client_id
        return End("taken_over", f"{end.reason} {self._num_hung_up} times: has another client the id {client}?")

    def _is_stable(self) -> None:
        self._num_hung_up = 0
        for each in (self._lost, self._refused):
            each.reset()
        self._health.recovered(self._part)

    def _report(self, end: End) -> None:
        """Degrade this client's part of health, or the broker's, which all clients share."""
        if end.kind == "taken_over" or (self._was_accepted and end.kind == "refused"):
            self._health.degraded(self._part, end.reason, awaited=False)
        elif not self._tries_other_version(end):
            self._outage.begin(self, end.reason, at_once=end.kind == "refused")

    def _tries_other_version(self, end: End) -> bool:
        """MQTT 5 comes first, each time."""
        return end.kind == "version" and self._options.is_v5

    def _pause_s(self, end: End) -> float:
        """How long to wait before the next try. Chooses its version of MQTT, too."""
        falls_back = self._tries_other_version(end)
        self._options = replace(self._options, is_v5=not falls_back)
        if falls_back:
            return 0.0
        if end.kind == "taken_over":
            return self._taken_over.next_s()
        return (self._refused if end.kind == "refused" else self._lost).next_s()


def _size(topic: str, payload: bytes, properties: PacketProperties) -> int:
    """Bytes of the whole packet, at most a few more than it has."""
    beside = len(topic.encode()) + len(properties.response_topic.encode()) + len(properties.correlation)
    beside += sum(5 + len(name.encode()) + len(value.encode()) for name, value in properties.user)
    return _HEADER_BYTES + 2 + 2 + 4 + 3 + 3 + 5 + beside + len(payload)
