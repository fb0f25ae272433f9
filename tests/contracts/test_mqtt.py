"""What every `ports.MqttBroker` does: the fake, and the adapter on Mosquitto, by MQTT 5 and by 3.1.1 alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.mqtt import MemoryMqttBroker
from edged.adapters.mqtt import PahoBroker
from edged.errors import MqttRefused, MqttUnavailable
from edged.ports import BrokerLimits, MqttBroker, MqttSession, Packet, PacketProperties
from tests.support.mosquitto import Mosquitto, OldBroker, need_mosquitto
from tests.support.proxy import Proxy

WINDOW = 4
PACKET_BYTES = 100_000


class Bed(Protocol):
    """A broker under test, and what may happen to it."""

    has_properties: bool

    def broker(self, health: RecordingHealth) -> AbstractAsyncContextManager[MqttBroker]: ...
    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None: ...
    async def cut(self) -> None: ...
    async def go_away(self) -> None: ...
    async def come_back(self) -> None: ...
    async def forget(self) -> None: ...


class MemoryBed:
    has_properties = True

    def __init__(self) -> None:
        self._broker: MemoryMqttBroker | None = None

    @contextlib.asynccontextmanager
    async def broker(self, health: RecordingHealth) -> AsyncIterator[MqttBroker]:
        self._broker = MemoryMqttBroker(health, window=WINDOW, limits=BrokerLimits("5", PACKET_BYTES))
        yield self._broker

    @property
    def memory(self) -> MemoryMqttBroker:
        assert self._broker is not None
        return self._broker

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        self.memory.publish(topic, payload, qos=qos, is_retained=retain)

    async def cut(self) -> None:
        self.memory.cut()

    async def go_away(self) -> None:
        self.memory.away = True

    async def come_back(self) -> None:
        self.memory.away = False

    async def forget(self) -> None:
        self.memory.forget()


class MosquittoBed:
    def __init__(self, broker: Mosquitto, proxy: Proxy) -> None:
        self.has_properties = not isinstance(proxy, OldBroker)
        self._mosquitto = broker
        self._proxy = proxy

    @contextlib.asynccontextmanager
    async def broker(self, health: RecordingHealth) -> AsyncIterator[MqttBroker]:
        mqtt = self._mosquitto.mqtt(window=WINDOW, packet_bytes=PACKET_BYTES)
        async with PahoBroker(mqtt, health, deadline_s=0.0) as broker:
            yield broker

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        options = ["-q", str(qos), *(["-r"] if retain else [])]
        await asyncio.to_thread(self._mosquitto.publish, topic, payload, *options)

    async def cut(self) -> None:
        self._proxy.cut()

    async def go_away(self) -> None:
        self._proxy.refuse = True
        self._proxy.cut()

    async def come_back(self) -> None:
        self._proxy.refuse = False

    async def forget(self) -> None:
        await asyncio.to_thread(self._mosquitto.kill)
        self._mosquitto.forget()
        await asyncio.to_thread(self._mosquitto.start)


@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.looptime), "mosquitto", "old_mosquitto"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    if request.param == "memory":
        yield MemoryBed()
        return
    request.getfixturevalue("process")
    need_mosquitto()
    broker = Mosquitto((f"message_size_limit {PACKET_BYTES}", "persistence true", "autosave_interval 1"))
    kind = Proxy if request.param == "mosquitto" else OldBroker
    with kind(broker.port) as proxy:
        broker.advertised = proxy.port
        with broker:
            yield MosquittoBed(broker, proxy)


@pytest.fixture
def health() -> RecordingHealth:
    return RecordingHealth()


async def received(session: MqttSession, count: int) -> list[Packet]:
    packets: list[Packet] = []
    while len(packets) < count:
        packets += await session.receive(max_packets=count - len(packets), timeout_s=1.0)
    return packets


def payloads(packets: Sequence[Packet]) -> list[bytes]:
    return [packet.payload for packet in packets]


@contextlib.asynccontextmanager
async def edge_and_camera(
    bed: Bed, health: RecordingHealth, topics: str
) -> AsyncIterator[tuple[MqttSession, MqttSession]]:
    """Both are connected, and the edge subscribes to these topics."""
    async with (
        bed.broker(health) as broker,
        broker.session("edge", [topics], part="device/cam") as edge,
        broker.session("cam", part="cam") as cam,
    ):
        await edge.connected()
        await cam.connected()
        yield edge, cam


async def test_what_is_published_arrives_in_order_and_once(bed: Bed, health: RecordingHealth) -> None:
    async with edge_and_camera(bed, health, "site/iot/cam/#") as (edge, cam):
        for i in range(2 * WINDOW):
            assert await cam.publish("site/iot/cam/rose", b"%d" % i) == "delivered"
        packets: list[Packet] = []
        for _ in range(2 * WINDOW):
            packets += await received(edge, 1)
            assert edge.acknowledge(packets[-1:])
        assert payloads(packets) == [b"%d" % i for i in range(2 * WINDOW)]
        assert await edge.receive(max_packets=1, timeout_s=0.1) == []
        assert {packet.topic for packet in packets} == {"site/iot/cam/rose"}
        assert {packet.connection for packet in packets} == {1} == {edge.connection}
        assert not any(packet.is_resent or packet.is_retained or packet.problem for packet in packets)
        assert all(packet.packet_id for packet in packets)
        assert packets[0].num_bytes == 1


async def test_many_are_published_at_once_in_order(bed: Bed, health: RecordingHealth) -> None:
    async with edge_and_camera(bed, health, "site/#") as (edge, cam):
        await cam.publish_all("site/iot/cam", [b"%d" % i for i in range(100)])
        packets: list[Packet] = []
        while len(packets) < 100:
            packets += (some := await received(edge, 1))
            edge.acknowledge(some)
        assert payloads(packets) == [b"%d" % i for i in range(100)]
        with pytest.raises(MqttRefused):
            await cam.publish_all("site/#", [b"x"] * 3)
        await bed.go_away()
        with pytest.raises(MqttUnavailable):
            await cam.publish_all("site/iot/cam", [b"x"] * 3)


async def test_several_are_on_their_way_in_order_and_each_gets_its_verdict(bed: Bed, health: RecordingHealth) -> None:
    async with (
        bed.broker(health) as broker,
        broker.session("edge", ["site/iot/#"], part="device/cam") as edge,
        broker.session("cam", part="cam") as cam,
    ):
        await edge.connected()
        await cam.connected()
        verdicts = [cam.send(f"site/{'iot' if i % 2 else 'nobody'}/cam", b"%d" % i) for i in range(50)]
        packets: list[Packet] = []
        while len(packets) < 25:
            packets += (some := await received(edge, 1))
            edge.acknowledge(some)
        assert payloads(packets) == [b"%d" % i for i in range(1, 50, 2)]
        absent = "nobody" if bed.has_properties else "delivered"
        assert [await each for each in verdicts] == [absent, "delivered"] * 25
        verdicts = [cam.send("site/iot/cam", b"x") for _ in range(5)]
        cam.pause()
        for each in verdicts:
            with pytest.raises(MqttUnavailable):
                await each
        with pytest.raises(MqttUnavailable):
            cam.send("site/iot/cam", b"x")


async def test_properties_come_with_it_where_mqtt_has_them(bed: Bed, health: RecordingHealth) -> None:
    sent = PacketProperties((("label", "Rose"), ("id", "7"), ("id", "ö")), "site/predictions/cam/x", b"\0\xff", 60)
    async with edge_and_camera(bed, health, "site/#") as (edge, cam):
        await cam.publish("site/iot/cam", b"x", sent)
        (packet,) = await received(edge, 1)
        if bed.has_properties:
            assert packet.properties == sent
        else:
            assert packet.properties == PacketProperties()


async def test_only_mqtt_5_tells_that_nobody_subscribes(bed: Bed, health: RecordingHealth) -> None:
    async with bed.broker(health) as broker, broker.session("cam", part="cam") as cam:
        await cam.connected()
        assert await cam.publish("site/iot/cam", b"x") == ("nobody" if bed.has_properties else "delivered")


async def test_the_window_bounds_what_is_not_acknowledged(bed: Bed, health: RecordingHealth) -> None:
    if not bed.has_properties:
        pytest.skip("MQTT 3.1.1 has no receive maximum: the broker's max_inflight_messages bounds it")
    async with edge_and_camera(bed, health, "site/#") as (edge, cam):
        for i in range(WINDOW + 2):
            await cam.publish("site/iot/cam", b"%d" % i)
        packets = await received(edge, WINDOW)
        assert await edge.receive(max_packets=1, timeout_s=0.1) == []
        edge.acknowledge(packets[:1])
        assert payloads(await received(edge, 1)) == [b"%d" % WINDOW]


async def test_a_session_whose_window_is_full_hears_that_its_own_packets_are_taken(
    bed: Bed, health: RecordingHealth
) -> None:
    async with (
        bed.broker(health) as broker,
        broker.session("edge", ["site/iot/#"], part="device/cam") as edge,
        broker.session("cam", ["site/receipts/cam"], part="cam") as cam,
        asyncio.timeout(30),
    ):
        await edge.connected()
        await cam.connected()
        for i in range(WINDOW):
            await cam.publish("site/iot/cam", b"%d" % i)
        for i in range(3):
            assert await edge.publish("site/receipts/cam", b"%d" % i) == "delivered"
        assert payloads(await received(edge, WINDOW)) == [b"%d" % i for i in range(WINDOW)]


async def test_what_was_not_acknowledged_comes_again_with_its_id(bed: Bed, health: RecordingHealth) -> None:
    async with (
        bed.broker(health) as broker,
        broker.session("edge", ["site/#"], part="device/cam") as edge,
    ):
        await edge.connected()
        for i in range(3):
            await bed.publish("site/iot/cam", b"%d" % i)
        first = await received(edge, 3)
        assert edge.acknowledge(first[:1])
        # What is behind the acknowledgement shows that it has arrived.
        await edge.publish("site/iot/cam", b"3")
        assert payloads(await received(edge, 1)) == [b"3"]
        await bed.cut()
        again = await received(edge, 3)
        assert payloads(again) == [b"1", b"2", b"3"]
        assert [packet.packet_id for packet in again[:2]] == [packet.packet_id for packet in first[1:]]
        assert all(packet.is_resent for packet in again)
        assert {packet.session for packet in [*first, *again]} == {1}
        assert {packet.connection for packet in again} == {2} == {edge.connection}
        assert not edge.acknowledge(first[1:]), "the connection that brought them is gone"
        assert edge.acknowledge(again)


async def test_the_session_outlives_the_process(bed: Bed, health: RecordingHealth) -> None:
    async with bed.broker(health) as broker:
        async with broker.session("edge", ["site/#"], part="device/cam") as edge:
            await edge.connected()
            assert edge.was_resumed is False
        await bed.publish("site/iot/cam", b"while away")
        async with broker.session("edge", ["site/#"], part="device/cam") as edge:
            assert payloads(await received(edge, 1)) == [b"while away"]
            assert edge.was_resumed is True


async def test_while_paused_the_broker_keeps_what_comes(bed: Bed, health: RecordingHealth) -> None:
    async with (
        bed.broker(health) as broker,
        broker.session("edge", ["site/#"], part="device/cam") as edge,
    ):
        await edge.connected()
        await bed.publish("site/iot/cam", b"not received")
        packets = await received(edge, 1)
        edge.pause()
        with pytest.raises(MqttUnavailable):
            await edge.publish("site/predictions/cam", b"x")
        assert edge.limits is None
        await bed.publish("site/iot/cam", b"while paused")
        assert await edge.receive(max_packets=1, timeout_s=0.1) == []
        edge.resume()
        edge.resume()
        again = await received(edge, 2)
        assert payloads(again) == [b"not received", b"while paused"]
        assert again[0].packet_id == packets[0].packet_id
        assert not health.reasons


async def test_a_broker_that_is_away_is_told_and_taken_up_again(bed: Bed, health: RecordingHealth) -> None:
    async with (
        bed.broker(health) as broker,
        broker.session("edge", ["site/#"], part="device/cam") as edge,
    ):
        await edge.connected()
        await bed.go_away()
        await health.until_degraded()
        assert set(health.reasons) == {"mqtt"}
        with pytest.raises(MqttUnavailable):
            await edge.publish("site/predictions/cam", b"x")
        await bed.come_back()
        await edge.connected()
        assert not health.reasons
        await bed.publish("site/iot/cam", b"x")
        assert payloads(await received(edge, 1)) == [b"x"]


async def test_a_session_that_the_broker_lost_is_told_and_another_one(
    bed: Bed, health: RecordingHealth, log_lines
) -> None:
    async with (
        bed.broker(health) as broker,
        broker.session("edge", ["site/#"], part="device/cam") as edge,
    ):
        await edge.connected()
        await bed.publish("site/iot/cam", b"1")
        (first,) = await received(edge, 1)
        await bed.forget()
        while not log_lines("mqtt.session_lost"):
            await edge.receive(max_packets=1, timeout_s=0.05)
        await edge.connected()
        await bed.publish("site/iot/cam", b"2")
        (second,) = await received(edge, 1)
        assert second.session == first.session + 1
        assert second.payload == b"2", "its subscriptions are back"
        assert [line["client"] for line in log_lines("mqtt.session_lost")] == ["edge"]


async def test_a_second_client_with_the_same_id_is_told_and_not_fought(bed: Bed, health: RecordingHealth) -> None:
    """Mosquitto 2.0 hangs up on the first one without a word, so there it takes a few times."""
    async with (
        bed.broker(health) as broker,
        broker.session("edge", ["site/#"], part="device/first") as first,
        broker.session("edge", ["site/#"], part="device/second") as second,
    ):
        while not {"device/first", "device/second"} & set(health.reasons):
            await first.receive(max_packets=1, timeout_s=0.05)
        ((part, reason),) = [item for item in health.reasons.items() if item[0] != "mqtt"]
        assert "another client" in reason
        loser, winner = (first, second) if part == "device/first" else (second, first)
        await winner.connected()
        assert loser.limits is None
        await bed.publish("site/iot/cam", b"x")
        assert payloads(await received(winner, 1)) == [b"x"]


async def test_a_packet_above_the_brokers_limit_is_refused_not_dropped(bed: Bed, health: RecordingHealth) -> None:
    """MQTT 3.1.1 does not tell its limits: there the topology's counts, above which the edge takes nothing."""
    async with bed.broker(health) as broker, broker.session("cam", part="cam") as cam:
        await cam.connected()
        assert cam.limits is not None
        most = cam.limits.packet_bytes if bed.has_properties else PACKET_BYTES
        if most is None:
            pytest.skip("this broker does not tell its limit")
        with pytest.raises(MqttRefused, match=f"the broker takes {most}"):
            await cam.publish("site/iot/cam", bytes(PACKET_BYTES + 1))
        await cam.publish("site/iot/cam", b"the connection stands")


async def test_a_topic_with_a_wildcard_is_refused(bed: Bed, health: RecordingHealth) -> None:
    async with bed.broker(health) as broker, broker.session("cam", part="cam") as cam:
        await cam.connected()
        with pytest.raises(MqttRefused):
            await cam.publish("site/iot/#", b"x")


async def test_quality_0_arrives_without_an_id(bed: Bed, health: RecordingHealth) -> None:
    async with bed.broker(health) as broker, broker.session("edge", ["site/#"], part="device/cam") as edge:
        await edge.connected()
        await bed.publish("site/iot/cam", b"x", qos=0)
        (packet,) = await received(edge, 1)
        assert packet.packet_id == 0
        assert edge.acknowledge([packet])


async def test_receive_that_is_cancelled_loses_nothing(bed: Bed, health: RecordingHealth) -> None:
    async with bed.broker(health) as broker, broker.session("edge", ["site/#"], part="device/cam") as edge:
        await edge.connected()
        waiting = asyncio.create_task(edge.receive(max_packets=1, timeout_s=60.0))
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await bed.publish("site/iot/cam", b"x")
        assert payloads(await received(edge, 1)) == [b"x"]
