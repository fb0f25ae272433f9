"""Bytes of a broker become packets, whatever they are, and no more is kept than was agreed."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.adapters.mqtt.inbound import (
    MAX_OTHER_BYTES,
    MAX_USER_PROPERTIES,
    Framer,
    Kind,
    ProtocolViolation,
    publish,
)
from edged.ports import PacketProperties

LIMIT = 100_000


def length(size):
    digits = bytearray()
    while True:
        digits.append(size & 0x7F | (0x80 if size > 0x7F else 0))
        size >>= 7
        if not size:
            return bytes(digits)


def packet(body, first=0x32):
    return bytes([first]) + length(len(body)) + body


def text(value):
    return struct.pack("!H", len(value)) + value


def body(topic=b"site/iot/cam", packet_id=7, properties=b"", payload=b"payload"):
    return text(topic) + struct.pack("!H", packet_id) + length(len(properties)) + properties + payload


def frames(data, pieces=1):
    framer, found = Framer(LIMIT), []
    size = -(-len(data) // pieces) or 1
    for start in range(0, len(data), size):
        found += list(framer.feed(data[start : start + size]))
    return found


def read(data, **options):
    (frame,) = frames(data)
    return publish(frame, **{"has_properties": True} | options)


@pytest.mark.parametrize("pieces", [1, 2, 7, 1000])
def test_packets_are_whole_however_they_come(pieces):
    data = packet(body()) + packet(b"\0\0", 0x20) + packet(body(payload=bytes(1000)))
    found = frames(data, pieces)
    assert [frame.kind for frame in found] == [Kind.PUBLISH, Kind.CONNACK, Kind.PUBLISH]
    assert publish(found[2], has_properties=True).payload == bytes(1000)


def test_a_publish_says_what_it_carries():
    properties = b"".join(
        (
            b"\x26" + text(b"label") + text("Röschen".encode()),
            b"\x02" + struct.pack("!I", 60),
            b"\x08" + text(b"site/predictions/cam"),
            b"\x09" + text(b"\0\xff"),
            b"\x01\x01" + b"\x03" + text(b"text/plain") + b"\x0b\x05",
            b"\x26" + text(b"id") + text(b"7"),
        )
    )
    got = read(packet(body(properties=properties), 0x3B))
    assert (got.topic, got.packet_id, got.payload, got.num_bytes) == ("site/iot/cam", 7, b"payload", 7)
    assert (got.is_resent, got.is_retained, got.problem) == (True, True, "")
    expected = PacketProperties((("label", "Röschen"), ("id", "7")), "site/predictions/cam", b"\0\xff", 60)
    assert got.properties == expected


def test_mqtt_3_1_1_has_no_properties():
    got = read(packet(text(b"t") + b"\0\1" + b"payload"), has_properties=False)
    assert (got.payload, got.properties) == (b"payload", PacketProperties())


@pytest.mark.parametrize("pieces", [1, 3, 500])
def test_a_packet_above_the_limit_is_passed_over_with_its_id_known(pieces):
    data = packet(body(payload=bytes(3 * LIMIT))) + packet(body(packet_id=8))
    large, small = (publish(frame, has_properties=True) for frame in frames(data, pieces))
    assert (large.packet_id, large.num_bytes, small.packet_id) == (7, 3 * LIMIT, 8)
    assert len(large.payload) < LIMIT
    assert str(LIMIT) in large.problem


def test_of_100_mb_no_more_than_the_limit_is_held():
    framer, piece = Framer(LIMIT), bytes(1 << 16)
    list(framer.feed(b"\x32" + length(100_000_000) + text(b"t") + b"\0\7"))
    for _ in range(1000):
        list(framer.feed(piece))
        assert framer._frame is not None
        assert len(framer._frame.body) <= LIMIT


def test_a_packet_of_nothing_but_properties_costs_no_more_than_a_few():
    got = read(packet(body(properties=b"\x26\0\0\0\0" * 19_000)))
    assert f"more than {MAX_USER_PROPERTIES}" in got.problem
    assert got.properties == PacketProperties()
    assert got.payload == b"payload"


@pytest.mark.parametrize(
    "properties", [b"\x26\0\1\xff\0\0", b"\x7f", b"\x26\0\xff", b"\x02\0", b"\x80\x80\x80\x80\x01"]
)
def test_a_device_that_writes_bad_properties_spoils_its_own_packet_alone(properties):
    got = read(packet(body(properties=properties, payload=b"")))
    assert got.packet_id == 7
    assert got.problem


@pytest.mark.parametrize(
    "data",
    [
        b"\x32\xff\xff\xff\xff\x01",
        packet(bytes(MAX_OTHER_BYTES + 1), 0x20),
        packet(body(), 0x34),
        packet(body(), 0x36),
        packet(body(topic=b"")),
        packet(body(packet_id=0)),
        packet(b"\0\5abc"),
        packet(text(b"t")),
        packet(b""),
    ],
)
def test_what_no_broker_may_send_ends_the_connection(data):
    with pytest.raises(ProtocolViolation):
        read(data)


@given(st.binary(max_size=400), st.integers(1, 50), st.booleans())
def test_arbitrary_bytes_never_crash(data, pieces, has_properties):
    try:
        for frame in frames(data, pieces):
            if frame.kind == Kind.PUBLISH:
                publish(frame, has_properties=has_properties)
    except ProtocolViolation:
        return


@given(st.binary(max_size=300))
def test_arbitrary_bodies_never_crash(data):
    try:
        read(packet(data))
    except ProtocolViolation:
        return
