"""One connection to the broker, from the open socket to its end: reading, writing and timeouts on the event loop.

Knows nothing of sessions: calls its owner. See also: `session`.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes

from edged.adapters.mqtt import reasons
from edged.adapters.mqtt.client import KEEPALIVE_S, Client, Wire
from edged.adapters.mqtt.inbound import (
    Frame,
    Framer,
    Kind,
    ProtocolViolation,
    disconnect_reason,
    publish,
)
from edged.adapters.mqtt.reasons import End, EndKind
from edged.errors import MqttRefused, MqttUnavailable
from edged.ports import BrokerLimits, Packet, PacketProperties, Verdict

ANSWER_TIMEOUT_S = 10.0
"""Of silence, before CONNACK and before SUBACK: a broker sends what waited for the session in between."""

MAX_UNANSWERED = 256
"""Published packets without an answer, including cancelled ones: paho keeps them all in memory."""

_TICK_S = KEEPALIVE_S / 3
_MOVING_BYTES = 1024
"""Between two ticks, on their way out: more than a question whether the broker is there."""

_PINGRESP = 0xD0
_ACKED_AT, _TCP_INFO_BYTES = 120, 128
"""Where Linux says how much of what was sent the other side's system has."""

_READ_BYTES = 64 << 10
_READS_PER_TURN = 8
"""Of one connection, before others have their turn."""

_SHOWN_BYTES = 24
_FAILED = 0x80


class Owner(Protocol):
    """Called in the event loop's thread; during a call to the connection only by `close`."""

    def accepted(self, limits: BrokerLimits, *, is_resumed: bool) -> None:
        """The broker has accepted the client, and sends what it has queued."""

    def subscribed(self) -> None:
        """The broker has accepted the subscriptions."""

    def arrived(self, packet: Packet) -> bool:
        """A packet has arrived. Returns whether to read on; if not, nothing is read until `read_on`."""

    def ended(self, end: End) -> None:
        """The connection has ended; nothing is called after this."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a connection asks for; repr hides the password. `is_v5`: MQTT 5, or else 3.1.1."""

    client_id: str
    subscriptions: tuple[str, ...]
    is_v5: bool
    window: int
    packet_bytes: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)


class Connection:
    """Takes `made`, a connected socket that does not block, and closes it at the end."""

    def __init__(self, made: socket.socket, options: Options, owner: Owner) -> None:
        self._socket = made
        self._options = options
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._framer = Framer(options.packet_bytes)
        self._frames: Iterator[Frame] = iter(())
        self._wire = Wire(made.fileno())
        self._client = client = Client(self._wire, options.client_id, is_v5=options.is_v5)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.on_socket_register_write = self._on_wants_write
        if options.username is not None:
            client.username_pw_set(options.username, options.password)
        self._waiting: dict[int, asyncio.Future[Verdict]] = {}
        self._has_begun = False
        self._is_accepted = False
        self._is_held = False
        self._has_heard = False
        self._num_acked = 0
        self._tick_s = _TICK_S
        self._is_closing = False
        self._will_write = False
        self._end: End | None = None
        self._loop.add_reader(made, self._read)
        self._timer = self._loop.call_later(ANSWER_TIMEOUT_S, self._is_late)
        client.open(options.window)

    def acknowledge(self, packet_id: int) -> None:
        """Queue the acknowledgement of a packet with QoS 1."""
        self._client.ack(packet_id, 1)

    def publish(self, topic: str, payload: bytes, properties: PacketProperties) -> "asyncio.Future[Verdict]":
        """Queue the packet; the future gets the broker's verdict, MqttRefused or MqttUnavailable."""
        if self._end is not None:
            raise MqttUnavailable(self._end.reason)
        if len(self._waiting) >= MAX_UNANSWERED:
            raise MqttUnavailable(f"the broker has not acknowledged {len(self._waiting)} packets")
        try:
            packet_id = self._client.send(topic, payload, properties)
        except ValueError as error:
            raise MqttRefused(f"{topic}: {error}") from error
        future: asyncio.Future[Verdict] = self._loop.create_future()
        self._waiting[packet_id] = future
        return future

    def read_on(self) -> None:
        """Read again after `arrived` has returned False."""
        if not self._is_held or self._end is not None:
            return
        self._is_held = False
        self._handle_all()
        if not self._is_held and self._end is None:
            self._loop.add_reader(self._socket, self._read)
            self._loop.call_soon(self._read)  # what TLS has unpacked already shows at no socket

    def close(self) -> None:
        """Send DISCONNECT if the socket takes it at once, and close. The broker keeps the session."""
        if self._end is None:
            self._is_closing = True
            self._client.disconnect()
            self._write()
            self._finish(End("closed", "the connection was closed"))

    def _read(self) -> None:
        for _ in range(_READS_PER_TURN):
            if self._end is not None or self._is_held:
                return
            try:
                data = self._socket.recv(_READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._finish(reasons.by_error(error, is_tls=self._is_tls, is_dialing=not self._is_accepted))
                return
            if not data:
                self._finish(self._hung_up())
                return
            self._has_heard = True
            self._take(data)
            if len(data) < _READ_BYTES and not self._is_tls:
                return
        self._loop.call_soon(self._read)

    def _take(self, data: bytes) -> None:
        try:
            if not self._has_begun:
                _expect_connack(data)
                self._has_begun = True
        except ProtocolViolation as violation:
            self._finish(End("refused", str(violation)))
        else:
            self._frames = self._framer.feed(data)
            self._handle_all()

    def _handle_all(self) -> None:
        """Handle the frames of what was read last, or those up to where it is held."""
        try:
            for frame in self._frames:
                self._handle(frame)
                if self._end is not None or self._is_held:
                    return
        except ProtocolViolation as violation:
            self._finish(End("refused", str(violation)))

    def _handle(self, frame: Frame) -> None:
        if frame.kind == Kind.PUBLISH:
            if not self._owner.arrived(publish(frame, has_properties=self._options.is_v5)):
                self._is_held = True
                self._loop.remove_reader(self._socket)
        elif frame.kind == Kind.DISCONNECT:
            self._finish(reasons.by_disconnect(disconnect_reason(frame)))
        else:
            self._wire.give(frame.first, frame.body)
            self._let_client_read()

    def _let_client_read(self) -> None:
        try:
            while self._wire.has_given and self._end is None:
                self._judge(self._client.loop_read())
        except ProtocolViolation:
            raise
        except Exception as error:  # paho meets bytes that it did not expect with errors of many kinds
            raise ProtocolViolation(f"an answer that cannot be read ({type(error).__name__}: {error})") from error

    def _judge(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS and self._end is None:
            self._finish(End("lost", f"the client ends: {code.name}"))

    def _on_wants_write(self, *_: Any) -> None:
        """All that is queued in one turn of the loop leaves together."""
        if not self._will_write:
            self._will_write = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._will_write = False
        if self._end is not None:
            return
        unsent = self._wire.unsent
        self._client.loop_write()
        try:
            while unsent:
                del unsent[: self._socket.send(unsent)]
                self._client.loop_write()
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._loop.add_writer(self._socket, self._write)
        except OSError as error:
            self._finish(reasons.by_error(error, is_tls=self._is_tls, is_dialing=not self._is_accepted))
        else:
            self._loop.remove_writer(self._socket)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        self._keep_alive()

    def _keep_alive(self) -> None:
        """Ask a silent broker whether it is there. Not while nothing is read: its answer would wait, too.

        Bytes in either direction count as an answer: on a slow link the answer itself waits after them.
        """
        if self._is_held:
            return
        num_acked = _num_acked(self._socket)
        if self._has_heard or num_acked - self._num_acked > _MOVING_BYTES:
            self._wire.give(_PINGRESP, b"")
            self._let_client_read()
        self._has_heard, self._num_acked = False, num_acked
        self._client.loop_misc()

    def _is_late(self) -> None:
        if not self._is_held and not (self._is_accepted and self._has_heard):
            awaited = "SUBSCRIBE" if self._is_accepted else "CONNECT"
            self._finish(End("lost", f"no answer to the client's {awaited} in time"))
            return
        self._timer = self._loop.call_later(ANSWER_TIMEOUT_S, self._is_late)
        self._keep_alive()

    def _on_connect(self, _client: Any, _data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.value:
            self._finish(reasons.by_connack(reason.value, self._options.username))
            return
        self._is_accepted = True
        limits = BrokerLimits(
            "5" if self._options.is_v5 else "3.1.1",
            getattr(properties, "MaximumPacketSize", None),
            getattr(properties, "ReceiveMaximum", None),
            getattr(properties, "SessionExpiryInterval", None),
            getattr(properties, "MaximumQoS", 2),
        )
        self._client.limit_in_flight(limits.receive_maximum)
        if keepalive_s := getattr(properties, "ServerKeepAlive", None):
            self._tick_s = min(_TICK_S, keepalive_s / 3)  # after half as long again it hangs up
        self._owner.accepted(limits, is_resumed=flags.session_present)
        if self._options.subscriptions:
            self._client.ask_for(list(self._options.subscriptions))
        else:
            self._is_set_up()

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, codes: list[Any], _properties: Any) -> None:
        for topic, code in zip(self._options.subscriptions, codes, strict=False):
            if code.value >= _FAILED:
                said = reasons.named(PacketTypes.SUBACK, code.value)
                self._finish(End("refused", f"the broker refuses the subscription to {topic}: {said}"))
                return
        self._is_set_up()

    def _is_set_up(self) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        self._owner.subscribed()

    def _on_publish(self, _client: Any, _data: Any, packet_id: int, reason: Any, _properties: Any) -> None:
        future = self._waiting.pop(packet_id, None)
        if future is None or future.done():
            return
        code = int(reason.value)
        if code < _FAILED:
            future.set_result("nobody" if code == reasons.NOBODY else "delivered")
            return
        said = f"the broker refuses the packet: {reasons.named(PacketTypes.PUBACK, code)}"
        future.set_exception(MqttUnavailable(said) if code == reasons.QUOTA_EXCEEDED else MqttRefused(said))

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        """The client gives up: no answer to its pings, or an answer that must not be."""
        if self._is_closing:
            return
        if reason.value == reasons.KEEPALIVE_TIMEOUT:
            self._finish(End("lost", "the broker does not answer any more"))
        else:
            self._finish(End("refused", f"an answer that cannot be read ({str(reason).lower()})"))

    def _hung_up(self) -> End:
        if self._is_accepted:
            return End("hung_up", "the broker has closed the connection")
        kind: EndKind = "version" if self._options.is_v5 else "lost"
        return End(kind, "the connection was closed before any answer: does an MQTT broker listen there?")

    def _finish(self, end: End) -> None:
        if self._end is not None:
            return
        self._end = end
        self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(MqttUnavailable(end.reason))
                future.exception()  # whoever was to wait for it may be gone
        self._waiting.clear()
        self._owner.ended(end)

    @property
    def _is_tls(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket)


def _num_acked(connected: socket.socket) -> int:
    """Bytes sent that the other side's system has; 0 where this one does not tell."""
    try:
        told = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except (AttributeError, OSError):  # another system, or no TCP
        return 0
    return int(struct.unpack_from("=Q", told, _ACKED_AT)[0]) if len(told) == _TCP_INFO_BYTES else 0


def _expect_connack(data: bytes) -> None:
    """Of the first bytes, or as many as came at once."""
    if data[:2] == b"\x15\x03":
        raise ProtocolViolation("the answer is TLS's: this port wants `mqtt.tls`")
    if data[0] >> 4 != Kind.CONNACK:
        raise ProtocolViolation(f"the answer is no MQTT broker's; it begins with {data[:_SHOWN_BYTES]!r}")
