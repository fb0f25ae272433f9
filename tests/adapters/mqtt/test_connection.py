"""One connection: bytes that come in pieces, and packets that a broker does not acknowledge."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version

import pytest

from edged.adapters.mqtt import connection as connections
from edged.adapters.mqtt.connection import MAX_UNANSWERED, Connection, Options
from edged.adapters.mqtt.reasons import End
from edged.errors import MqttUnavailable
from edged.ports import BrokerLimits, Packet, PacketProperties

CONNACK = b"\x20\x06\x00\x00\x03\x21\x00\x05"  # MQTT 5, Receive Maximum 5


@dataclass
class Owner:
    """Notes what it is told."""

    limits: BrokerLimits | None = None
    is_set_up: asyncio.Event = field(default_factory=asyncio.Event)
    end: End | None = None

    def accepted(self, limits: BrokerLimits, *, is_resumed: bool) -> None:
        self.limits = limits

    def subscribed(self) -> None:
        self.is_set_up.set()

    def arrived(self, packet: Packet) -> bool:
        return True

    def ended(self, end: End) -> None:
        self.end = end
        self.is_set_up.set()


@contextlib.contextmanager
def connection() -> Iterator[tuple[Connection, socket.socket, Owner]]:
    """A connection, the broker's end of it, and its owner."""
    ours, brokers = socket.socketpair()
    ours.setblocking(False)
    owner = Owner()
    made = Connection(ours, Options("cam", (), is_v5=True, window=4, packet_bytes=1000), owner)
    with brokers:
        yield made, brokers, owner
        made.close()


@pytest.mark.parametrize("size", range(1, len(CONNACK)))
async def test_an_answer_that_comes_in_pieces_is_one(size):
    with connection() as (_made, broker, owner):
        for piece in (CONNACK[:size], CONNACK[size:]):
            broker.sendall(piece)
            await asyncio.sleep(0.01)
        await owner.is_set_up.wait()
        assert owner.end is None
        assert owner.limits is not None
        assert owner.limits.receive_maximum == 5


async def test_packets_that_nobody_waits_for_any_more_are_bounded_until_the_broker_answers():
    with connection() as (made, broker, owner):
        broker.sendall(CONNACK)
        await owner.is_set_up.wait()
        for _ in range(MAX_UNANSWERED):
            made.publish("x", b"y", PacketProperties()).cancel()
        with pytest.raises(MqttUnavailable, match="has not acknowledged"):
            made.publish("x", b"y", PacketProperties())


@pytest.mark.skipif(version("paho-mqtt").startswith("2.1."), reason="paho 2.1 does not read what the broker asks for")
async def test_a_broker_that_asks_to_be_kept_alive_more_often_is_pinged_in_time(monkeypatch):
    monkeypatch.setattr(connections, "_TICK_S", 3600.0)
    with connection() as (_made, broker, owner):
        broker.sendall(b"\x20\x06\x00\x00\x03\x13\x00\x01")  # Server Keep Alive: 1 s
        await owner.is_set_up.wait()
        broker.setblocking(False)
        connect = await asyncio.get_running_loop().sock_recv(broker, 1000)
        assert connect[0] == 0x10
        assert await asyncio.get_running_loop().sock_recv(broker, 1000) == b"\xc0\x00"
        assert owner.end is None
