"""What is told of a broker that refuses, is none, or is silent, and of packets that are too large; no secret in it."""

import asyncio

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker, client, connection
from edged.domain.topology import Mqtt, Tls
from edged.errors import ConfigError
from tests.support.mosquitto import Mosquitto, Stranger, need_mosquitto
from tests.support.proxy import Proxy

SECRET = "a-secret-of-the-greenhouse"  # noqa: S105 - guards nothing


async def reason_of(mqtt: Mqtt) -> str:
    """What health says of a broker with which no session comes about."""
    health = RecordingHealth()
    async with PahoBroker(mqtt, health, deadline_s=0.0) as broker, broker.session("edge", ["x"], part="device/cam"):
        await health.until_degraded()
    assert set(health.reasons) == {"mqtt"}
    assert SECRET not in str(health.reasons)
    assert SECRET not in repr(mqtt)
    return health.reasons["mqtt"]


async def test_a_host_that_nobody_knows_or_that_does_not_listen(process):
    assert "no address is known" in await reason_of(Mqtt("nobody.invalid"))
    with Proxy(1) as proxy:
        port = proxy.port
    assert "does the broker run, and listen" in await reason_of(Mqtt(f"127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("greeting", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "no MQTT broker's; it begins with b'SSH-2.0"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "wants `mqtt.tls`"),
        (b"\x20\xff\xff\xff\xff", "more than four bytes"),
        (b"\x20\xff\xff\xff\x7f" + bytes(100), "268435455 bytes"),
        (b"\x20\x03\x00\x77\x00", "cannot be read"),
        (b"\x20\x01\x00", "cannot be read"),
        (b"\x20\x02\x00", ""),
    ],
)
async def test_a_server_that_is_no_mqtt_broker(process, greeting, said, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 0.5)
    with Stranger(greeting) as stranger:
        assert said in await reason_of(stranger.mqtt)


async def test_a_server_that_hangs_up_without_a_word(process):
    with Stranger(b"", hangs_up=True) as stranger:
        reason = await reason_of(stranger.mqtt)
        assert "closed" in reason or "reset" in reason


async def test_a_wrong_password_is_told_in_the_brokers_words(process):
    need_mosquitto()
    with Mosquitto(users={"edge": SECRET}) as broker:
        reason = await reason_of(broker.mqtt(username="edge", password=f"{SECRET}-another"))
        assert "not authorized (0x87)" in reason or "bad user name or password" in reason
        assert 'it does not know user "edge", or has another password' in reason
        assert "mqtt.username and mqtt.password say who comes" in await reason_of(Mqtt(f"127.0.0.1:{broker.port}"))


async def test_certificates(process, tmp_path):
    need_mosquitto()
    with Mosquitto(tls=True, wants_certificate=True) as broker:
        assert broker.files is not None
        async with (
            PahoBroker(broker.mqtt(), RecordingHealth()) as mqtt,
            mqtt.session("edge", ["x"], part="device/cam") as session,
        ):
            await session.connected()
            assert await session.publish("x", bytes(300_000)) == "delivered"
            (packet,) = await session.receive(max_packets=1, timeout_s=60.0)
            assert packet.num_bytes == 300_000
        at = f"127.0.0.1:{broker.port}"
        assert "certificate" in await reason_of(Mqtt(at, Tls(ca=broker.files.ca)))
        assert "certificate is not accepted" in await reason_of(Mqtt(at, Tls()))
        with pytest.raises(ConfigError, match=r"mqtt\.tls\.ca"):
            PahoBroker(Mqtt(at, Tls(ca=str(tmp_path / "missing.pem"))), RecordingHealth())


async def test_an_expired_certificate(process):
    need_mosquitto()
    with Mosquitto(tls=True, days=-1) as broker:
        assert "expired" in await reason_of(broker.mqtt())


async def test_a_packet_above_the_limit_is_delivered_in_part_and_what_follows_whole(mosquitto):
    health = RecordingHealth()
    async with (
        PahoBroker(mosquitto.mqtt(packet_bytes=100_000), health) as broker,
        broker.session("edge", ["x"], part="device/cam") as session,
    ):
        await session.connected()
        await session.publish("x", bytes(900_000))
        await session.publish("x", b"good")
        large, good = [
            *await session.receive(max_packets=1, timeout_s=60.0),
            *(await session.receive(max_packets=1, timeout_s=60.0)),
        ]
        assert large.num_bytes == 900_000
        assert len(large.payload) <= 100_000
        assert "9000" in large.problem
        assert (good.payload, good.problem) == (b"good", "")
        assert session.acknowledge([large, good])
        assert not health.reasons


async def test_a_link_that_is_cut_without_a_word_is_noticed_and_taken_up_again(mosquitto, monkeypatch):
    monkeypatch.setattr(client, "KEEPALIVE_S", 1)
    monkeypatch.setattr(connection, "_TICK_S", 0.3)
    health = RecordingHealth()
    with Proxy(mosquitto.port) as proxy:
        async with (
            PahoBroker(Mqtt(f"127.0.0.1:{proxy.port}"), health, deadline_s=0.0) as broker,
            broker.session("edge", ["x"], part="device/cam") as session,
        ):
            await session.connected()
            proxy.blackhole = True
            await health.until_degraded()
            assert "does not answer" in health.reasons["mqtt"]
            proxy.blackhole = False
            await session.connected()
            await session.publish("x", b"again")
            (packet,) = await session.receive(max_packets=1, timeout_s=60.0)
            assert packet.payload == b"again"


@pytest.fixture
def impatient(monkeypatch):
    """Gives a silent broker up after seconds, of which a busy machine takes some."""
    monkeypatch.setattr(client, "KEEPALIVE_S", 3)
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 3.0)
    monkeypatch.setattr(connection, "_TICK_S", 1.0)


@pytest.fixture
def slow(mosquitto):
    """A line that carries 50 kB/s, once its `bytes_per_s` says so."""
    with Proxy(mosquitto.port, buffer_bytes=4096) as proxy:
        yield proxy


@pytest.mark.slow
async def test_a_slow_link_is_no_dead_one_while_an_answer_stands_behind_what_is_sent(slow, impatient):
    """The packet would be sent again for ever."""
    async with (
        PahoBroker(Mqtt(f"127.0.0.1:{slow.port}"), RecordingHealth()) as broker,
        broker.session("edge", ["x"], part="device/cam") as session,
    ):
        await session.connected()
        slow.bytes_per_s = 50_000
        assert await session.publish("x", bytes(500_000)) == "delivered"
        assert session.connection == 1


@pytest.mark.slow
async def test_nor_while_what_waited_for_the_session_comes_before_the_answers(slow, impatient):
    async with PahoBroker(Mqtt(f"127.0.0.1:{slow.port}"), RecordingHealth()) as broker:
        async with broker.session("edge", ["x"], part="device/cam") as session:
            await session.connected()
            await session.publish("x", bytes(500_000))
        slow.bytes_per_s = 50_000
        async with broker.session("edge", ["x"], part="device/cam") as session:
            await session.connected()
            (packet,) = await session.receive(max_packets=1, timeout_s=60.0)
            assert packet.num_bytes == 500_000
            assert session.connection == 1


async def test_a_flood_of_quality_0_is_read_on_and_dropped_where_nobody_takes_it(mosquitto, log_lines):
    """Unread, it fills the broker's memory, which no setting of Mosquitto bounds, and takes all other devices along."""
    async with (
        PahoBroker(mosquitto.mqtt(), RecordingHealth()) as broker,
        broker.session("edge", ["x"], part="device/cam") as session,
    ):
        await session.connected()
        await asyncio.to_thread(mosquitto.publish_lines, "x", b"x" * 50_000, 100)
        assert await session.publish("x", b"behind it") == "delivered"
        packets = await session.receive(max_packets=1000, timeout_s=60.0)
        assert sum(packet.num_bytes for packet in packets) < 1_200_000
        assert (packets[-1].payload, packets[-1].packet_id > 0) == (b"behind it", True)
        assert len(packets) > 10
    assert {line["client"] for line in log_lines("mqtt.dropped")} == {"edge"}


def publish(packet_id: int) -> bytes:
    """A PUBLISH of QoS 1 to x."""
    return b"\x32\x07\x00\x01x" + packet_id.to_bytes(2) + b"\x00!"


async def test_a_broker_that_sends_more_than_the_window_at_once_is_held_to_it(process):
    """As Mosquitto 2.0.11 does with what has waited: what is taken and not acknowledged may come twice."""
    granted = b"\x20\x03\x00\x00\x00\x90\x04\x00\x01\x00\x01"
    with Stranger(granted + b"".join(map(publish, range(1, 51)))) as stranger:
        mqtt = Mqtt(f"127.0.0.1:{stranger.port}", window=4)
        async with (
            PahoBroker(mqtt, RecordingHealth()) as broker,
            broker.session("edge", ["x"], part="device/cam") as session,
        ):
            ids: list[int] = []
            while len(ids) < 50:
                packets = await session.receive(max_packets=4, timeout_s=60.0)
                packets += await session.receive(max_packets=50, timeout_s=0.05)
                assert len(packets) <= 5
                assert await session.receive(max_packets=50, timeout_s=0.05) == []
                ids += [packet.packet_id for packet in packets]
                assert session.acknowledge(packets)
    assert ids == list(range(1, 51))


async def test_leaving_ends_connections_that_are_under_way(process):
    with Stranger(b"") as stranger:
        health = RecordingHealth()
        async with PahoBroker(stranger.mqtt, health) as broker, broker.session("edge", part="device/cam"):
            await asyncio.sleep(0.05)
    assert not health.reasons
