"""Parses what the broker sends: bytes into packets, and PUBLISH packets; of any length, in bounded memory.

Knows no socket and no client. Of a packet that is too large the first part is kept and the rest is skipped: it must be
received, so that it can be acknowledged, or it would come again after each reconnection.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from edged.ports import Packet, PacketProperties


class Kind(IntEnum):
    """The kinds of packets that matter here: the upper half of the first byte."""

    CONNACK = 2
    PUBLISH = 3
    DISCONNECT = 14


MAX_OTHER_BYTES = 64 << 10
"""Of a packet other than PUBLISH: an acknowledgement, perhaps with a reason string."""

MAX_USER_PROPERTIES = 32
"""Of one packet. Each takes some microseconds of the event loop, and a packet of 2 MB has room for 400,000."""

_MIN_PUBLISH_BYTES = 66 << 10
"""Kept of any PUBLISH, so that its topic and packet id, which stand in front, are."""

_BYTE, _TWO, _FOUR, _VARINT, _BINARY, _TEXT, _PAIR = range(7)
_PROPERTIES = {1: _BYTE, 2: _FOUR, 3: _TEXT, 8: _TEXT, 9: _BINARY, 11: _VARINT, 35: _TWO, 38: _PAIR}
"""Of a PUBLISH: number and form."""

_EXPIRY, _RESPONSE_TOPIC, _CORRELATION, _USER = 2, 8, 9, 38


class ProtocolViolation(Exception):  # noqa: N818 - a verdict on the other side
    """The bytes are not MQTT, or not allowed at this point. The message says what is wrong."""


@dataclass(slots=True)
class Frame:
    """One packet. `body`: after the fixed header, cut at what is kept; `num_bytes`: its whole length."""

    first: int
    num_bytes: int
    body: bytearray = field(default_factory=bytearray)

    @property
    def kind(self) -> int:
        """See `Kind`; others are possible."""
        return self.first >> 4

    @property
    def is_cut(self) -> bool:
        """Whether the body was longer."""
        return len(self.body) < self.num_bytes


class Framer:
    """Splits what is received into packets; keeps at most `packet_bytes` of one."""

    def __init__(self, packet_bytes: int) -> None:
        self._max_publish_bytes = max(packet_bytes, _MIN_PUBLISH_BYTES)
        self._header = bytearray()
        self._frame: Frame | None = None
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The packets that these bytes complete. Raises ProtocolViolation, after which it must not be fed again."""
        view, at = memoryview(data), 0
        while at < len(data):
            if self._frame is None:
                at = self._take_header(data, at)
            if self._frame is not None:
                at += self._take_body(view[at:])
                if not self._missing:
                    frame, self._frame = self._frame, None
                    yield frame

    def _take_header(self, data: bytes, at: int) -> int:
        while at < len(data):
            byte = data[at]
            self._header.append(byte)
            at += 1
            if len(self._header) > 1 and not byte & 0x80:
                self._begin()
                break
            if len(self._header) == 5:
                raise ProtocolViolation("a packet's length has more than four bytes")
        return at

    def _begin(self) -> None:
        first, *digits = self._header
        self._header.clear()
        num_bytes = sum((digit & 0x7F) << (7 * i) for i, digit in enumerate(digits))
        if first >> 4 != Kind.PUBLISH and num_bytes > MAX_OTHER_BYTES:
            raise ProtocolViolation(f"a packet of the kind {first >> 4} has {num_bytes} bytes")
        self._frame, self._missing = Frame(first, num_bytes), num_bytes

    def _take_body(self, view: memoryview) -> int:
        assert self._frame is not None
        taken = min(len(view), self._missing)
        room = self._max_publish_bytes - len(self._frame.body)
        if room > 0:
            self._frame.body += view[: min(taken, room)]
        self._missing -= taken
        return taken


def publish(frame: Frame, *, has_properties: bool) -> Packet:
    """Read a PUBLISH, of no session and connection yet; `has_properties`: MQTT 5.

    Raises ProtocolViolation for what no broker may send. What a device may have got wrong is a `problem` of its packet,
    which can be acknowledged.
    """
    qos = frame.first >> 1 & 3
    if qos > 1:
        raise ProtocolViolation(f"a PUBLISH has QoS {qos}, above what was subscribed to")
    body = frame.body
    try:
        (topic_bytes,) = struct.unpack_from("!H", body)
        at = 2 + topic_bytes
        topic = bytes(memoryview(body)[2:at]).decode(errors="replace")
        packet_id = 0
        if qos:
            (packet_id,) = struct.unpack_from("!H", body, at)
            at += 2
        if at > len(body) or not topic or (qos and not packet_id):
            raise ProtocolViolation("a PUBLISH without topic or packet id")
        properties, problem = PacketProperties(), ""
        if has_properties:
            size, at = _varint(body, at)
            if at + size > len(body) and not frame.is_cut:
                raise ProtocolViolation("a PUBLISH whose properties are longer than itself")
            if at + size <= len(body):
                properties, problem = _properties(body, at, at + size)
            at += size
    except (struct.error, IndexError) as error:
        raise ProtocolViolation(f"a PUBLISH that cannot be read: {error}") from error
    if frame.is_cut:
        problem = f"the packet has {frame.num_bytes} bytes; {len(body)} are taken"
    return Packet(
        topic,
        bytes(memoryview(body)[at:]),
        packet_id,
        session=0,
        connection=0,
        is_resent=bool(frame.first & 8),
        is_retained=bool(frame.first & 1),
        properties=properties,
        num_bytes=max(frame.num_bytes - at, 0),
        problem=problem,
    )


def disconnect_reason(frame: Frame) -> int:
    """The reason code of a DISCONNECT; 0, a normal one, if it has none."""
    return frame.body[0] if frame.body else 0


def _properties(body: bytearray, at: int, end: int) -> tuple[PacketProperties, str]:
    """Those that edged knows, and what is wrong with them."""
    user: list[tuple[str, str]] = []
    known: dict[int, bytes | int] = {}
    try:
        while at < end:
            number, at = _varint(body, at)
            if number != _USER:
                known[number], at = _value(body, at, number)
                continue
            if len(user) == MAX_USER_PROPERTIES:
                return PacketProperties(), f"the packet has more than {MAX_USER_PROPERTIES} user properties"
            name, at = _binary(body, at)
            value, at = _binary(body, at)
            user.append((name.decode(), value.decode()))
        response_topic, correlation = known.get(_RESPONSE_TOPIC, b""), known.get(_CORRELATION, b"")
        expiry_s = known.get(_EXPIRY)
        assert isinstance(response_topic, bytes)
        assert isinstance(correlation, bytes)
        assert not isinstance(expiry_s, bytes)
        found = PacketProperties(tuple(user), response_topic.decode(), correlation, expiry_s)
    except (struct.error, IndexError, UnicodeDecodeError, ProtocolViolation) as error:
        return PacketProperties(), f"the packet's properties cannot be read: {error}"
    return (found, "") if at == end else (PacketProperties(), "the packet's properties are longer than they say")


def _value(body: bytearray, at: int, number: int) -> tuple[bytes | int, int]:
    form = _PROPERTIES.get(number)
    if form is None:
        raise ProtocolViolation(f"there is none with the number {number}")
    if form == _BYTE:
        return body[at], at + 1
    if form == _TWO:
        return int(struct.unpack_from("!H", body, at)[0]), at + 2
    if form == _FOUR:
        return int(struct.unpack_from("!I", body, at)[0]), at + 4
    if form == _VARINT:
        return _varint(body, at)
    return _binary(body, at)


def _binary(body: bytearray, at: int) -> tuple[bytes, int]:
    (size,) = struct.unpack_from("!H", body, at)
    at += 2
    if at + size > len(body):
        raise ProtocolViolation("one is longer than the packet")
    return bytes(memoryview(body)[at : at + size]), at + size


def _varint(body: bytearray, at: int) -> tuple[int, int]:
    value = 0
    for i in range(4):
        byte = body[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if not byte & 0x80:
            return value, at + i + 1
    raise ProtocolViolation("a length has more than four bytes")
