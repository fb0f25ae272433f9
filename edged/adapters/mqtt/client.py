"""paho's client for one connection over an open socket: what is sent, and the broker's acknowledgements.

What the broker publishes does not pass through it, see `inbound`. It is never reconnected: paho would resend packets
that its caller has been told are lost.
"""

from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edged.domain.mqtt.limits import SESSION_EXPIRY_S
from edged.ports import PacketProperties

KEEPALIVE_S = 15
"""A link that was cut without a FIN is noticed within a little more than twice this time."""

_MAX_IN_FLIGHT = 20
"""Packets published and not acknowledged, where the broker states no limit."""

_MAX_UNSENT_BYTES = 256 << 10
_NEVER_SEND_RETAINED = 2


class Wire:
    """The socket as paho sees it: reads what `give` was called with; what is written waits in `unsent`."""

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno
        self._given = bytearray()
        self.unsent = bytearray()

    @property
    def has_given(self) -> bool:
        """Whether there is something for paho to read."""
        return bool(self._given)

    def give(self, first: int, body: bytes | bytearray) -> None:
        """Have paho read this packet next."""
        self._given.append(first)
        size = len(body)
        while True:
            self._given.append(size & 0x7F | (0x80 if size > 0x7F else 0))
            size >>= 7
            if not size:
                break
        self._given += body

    def recv(self, size: int) -> bytes:
        """As a socket's."""
        if not self._given:
            raise BlockingIOError
        data = bytes(self._given[:size])
        del self._given[:size]
        return data

    def send(self, data: bytes) -> int:
        """As a socket's."""
        if len(self.unsent) > _MAX_UNSENT_BYTES:
            raise BlockingIOError
        self.unsent += data
        return len(data)

    def fileno(self) -> int:
        """As a socket's."""
        return self._fileno

    def setblocking(self, _flag: bool) -> None:  # noqa: FBT001 - as a socket's
        """As a socket's."""

    def close(self) -> None:
        """The connection closes the socket itself."""


class Client(paho.Client):
    """A paho client that gets its socket, instead of making one."""

    def __init__(self, wire: Wire, client_id: str, *, is_v5: bool) -> None:
        version = MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if is_v5 else False,
            protocol=version,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._wire = wire
        self._is_v5 = is_v5
        self.max_inflight_messages_set(_MAX_IN_FLIGHT)

    def _create_socket(self) -> Any:
        return self._wire

    def open(self, window: int) -> None:
        """Queue CONNECT. `window`: packets that the broker may send before the first is acknowledged."""
        if not self._is_v5:
            self.connect("broker", keepalive=KEEPALIVE_S)
            return
        wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wanted.SessionExpiryInterval = SESSION_EXPIRY_S
        wanted.ReceiveMaximum = window
        # No MaximumPacketSize: the broker would acknowledge larger packets to their devices, and drop them.
        self.connect("broker", keepalive=KEEPALIVE_S, clean_start=False, properties=wanted)

    def ask_for(self, filters: list[str]) -> None:
        """Queue SUBSCRIBE for these, with QoS 1."""
        if self._is_v5:
            options = SubscribeOptions(qos=1, retainHandling=_NEVER_SEND_RETAINED)
            self.subscribe([(each, options) for each in filters])
        else:
            self.subscribe([(each, 1) for each in filters])

    def send(self, topic: str, payload: bytes, properties: PacketProperties) -> int:
        """Queue a PUBLISH; its packet id. Raises ValueError for what is no topic to publish to."""
        packed = _packed(properties) if self._is_v5 else None
        return self.publish(topic, payload, qos=1, properties=packed).mid

    def limit_in_flight(self, receive_maximum: int | None) -> None:
        """The broker's own limit, which paho neither reads nor lets be set once there is a connection."""
        if receive_maximum is not None:
            self._max_inflight_messages = min(receive_maximum, _MAX_IN_FLIGHT)


def _packed(properties: PacketProperties) -> Properties:
    packed = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if properties.user:
        packed.UserProperty = list(properties.user)
    if properties.response_topic:
        packed.ResponseTopic = properties.response_topic
    if properties.correlation:
        packed.CorrelationData = properties.correlation
    if properties.expiry_s is not None:
        packed.MessageExpiryInterval = properties.expiry_s
    return packed
