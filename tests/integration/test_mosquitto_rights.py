"""A real Mosquitto with exactly what `edged topics` prints: each right works, and each other one is refused."""

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.mqtt import PahoBroker
from edged.domain.mqtt.rights import rights, users
from edged.domain.mqtt.topics import (
    packs_topic,
    predictions_topic,
    probe_topic,
    receipts_topic,
    samples_topic,
)
from edged.domain.topology import Device, Mqtt, Topology
from edged.errors import MqttRefused
from edged.ports import MqttSession
from tests.support.brokers import free_port
from tests.support.mosquitto import need_mosquitto
from tests.support.printed_mosquitto import PrintedMosquitto
from tests.support.valid_topology import VALID

DEVICES = ("cam", "esp", "mast")


def site() -> Topology:
    mqtt = Mqtt(f"127.0.0.1:{free_port()}", None, "${NODE}", "p", packet_bytes=100_000, window=8)
    edges = dict(zip(DEVICES, ("pi-a", "pi-a", "pi-b"), strict=True))
    devices = tuple(Device(name, edge, "tiles", transport="mqtt") for name, edge in edges.items())
    return replace(VALID, mqtt=mqtt, iot=devices)


@pytest.fixture(scope="module")
def printed() -> Iterator[Topology]:
    """A site whose broker runs."""
    need_mosquitto()
    topology = site()
    with PrintedMosquitto(topology):
        yield topology


@asynccontextmanager
async def session(topology: Topology, user: str, *filters: str) -> AsyncIterator[MqttSession]:
    assert topology.mqtt is not None
    mqtt = replace(topology.mqtt, username=user, password=user)
    async with (
        PahoBroker(mqtt, RecordingHealth(), deadline_s=0.0) as broker,
        broker.session(f"test:{uuid.uuid4()}", filters, part="device/x") as opened,
    ):
        await opened.connected()
        yield opened


def test_for_a_device_that_is_new_no_other_password_is_asked_for() -> None:
    need_mosquitto()
    with PrintedMosquitto(site()) as broker:
        before = broker.passwords
        new = Device("cam.1", "pi-a", "tiles", transport="mqtt")
        broker.topology = replace(broker.topology, iot=(*broker.topology.iot, new))
        broker.stop()
        broker.start()
        assert broker.passwords.items() > before.items()
        assert broker.passwords.keys() - before.keys() == {"cam.1"}


def topics_of(topology: Topology) -> list[str]:
    """Of every kind for each device and edge, and some that nobody has a right to."""
    site = topology.site
    return [
        *(
            topic
            for device in DEVICES
            for topic in (
                samples_topic(site, device),
                samples_topic(site, device, "ripe", "17"),
                packs_topic(site, device),
                receipts_topic(site, device),
                predictions_topic(site, device),
                f"{predictions_topic(site, device)}/mine",
            )
        ),
        *(probe_topic(site, edge.name) for edge in topology.edges),
        *(f"other/iot/{DEVICES[0]}", f"{site}/iot", f"{packs_topic(site, DEVICES[0])}/more", site),
    ]


def allowed_to(topology: Topology, operation: str) -> Mapping[str, set[str]]:
    """For each user the topics that its rights cover."""
    return {
        user: {
            topic
            for topic in topics_of(topology)
            for right in rights(topology)
            if (right.user, right.operation) == (user, operation) and covers(right.topics, topic)
        }
        for user in users(topology)
    }


def covers(filter_: str, topic: str) -> bool:
    """As MQTT has it: x/# is x and all below."""
    above = filter_.removesuffix("/#")
    return topic == filter_ or (above != filter_ and f"{topic}/".startswith(f"{above}/"))


async def test_each_may_publish_where_it_has_the_right_and_nowhere_else(printed: Topology):
    allowed = allowed_to(printed, "write")
    assert {user: len(topics) for user, topics in allowed.items()} == dict.fromkeys(DEVICES, 3) | {"pi-a": 7, "pi-b": 4}
    for user in users(printed):
        async with session(printed, user) as opened:
            for topic in topics_of(printed):
                if topic in allowed[user]:
                    await opened.publish(topic, b"x")
                else:
                    with pytest.raises(MqttRefused, match=r"not authorized \(0x87\)"):
                        await opened.publish(topic, b"x")


async def test_each_is_sent_what_it_has_the_right_to_and_nothing_else(printed: Topology):
    """Whoever asks for all gets what is its own; the last of that is behind all that it must not see."""
    writers = {topic: user for user, topics in allowed_to(printed, "write").items() for topic in topics}
    allowed = allowed_to(printed, "read")
    last = {user: max(topics) for user, topics in allowed.items()}
    async with AsyncExitStack() as stack:
        readers = {user: await stack.enter_async_context(session(printed, user, "#")) for user in users(printed)}
        senders = {user: await stack.enter_async_context(session(printed, user)) for user in users(printed)}
        for topic in sorted(writers, key=lambda topic: topic in last.values()):
            await senders[writers[topic]].publish(topic, b"x")
        for user, reader in readers.items():
            assert await topics_until(reader, last[user]) == allowed[user]


async def topics_until(reader: MqttSession, last: str) -> set[str]:
    seen: set[str] = set()
    while last not in seen:
        packets = await reader.receive(max_packets=100, timeout_s=1.0)
        reader.acknowledge(packets)
        seen |= {packet.topic for packet in packets}
    return seen


@pytest.mark.parametrize(("user", "password"), [("pi-a", "wrong"), ("nobody", "open-sesame")])
async def test_who_has_no_such_password_is_refused_with_the_reason(printed: Topology, user: str, password: str):
    assert printed.mqtt is not None
    health = RecordingHealth()
    async with (
        PahoBroker(replace(printed.mqtt, username=user, password=password), health, deadline_s=0.0) as broker,
        broker.session("test:stranger", part="device/x"),
    ):
        await health.until_degraded()
    (reason,) = health.reasons.values()
    assert f'not authorized (0x87): it does not know user "{user}"' in reason
    assert password not in reason


async def test_a_device_of_mqtt_3_is_not_told_that_a_larger_packet_was_taken(printed: Topology, tmp_path: Path):
    """It is disconnected, and what it publishes next is delivered."""
    assert printed.mqtt is not None
    (tmp_path / "large").write_bytes(bytes(printed.mqtt.packet_bytes))
    (tmp_path / "small").write_bytes(bytes(1000))
    topic = samples_topic(printed.site, "cam")
    publish = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(printed.mqtt.port), "-u", "cam", "-P", "cam", "-q", "1"]
    async with session(printed, "pi-a", f"{topic}/#") as edge:
        results = [
            await asyncio.to_thread(subprocess.run, [*publish, "-t", topic, "-f", str(tmp_path / size)], check=False)
            for size in ("large", "small")
        ]
        assert [result.returncode == 0 for result in results] == [False, True]
        (packet,) = await edge.receive(max_packets=10, timeout_s=60.0)
        edge.acknowledge([packet])
        assert len(packet.payload) == 1000


async def test_its_answer_to_a_connection_has_what_the_topology_says(printed: Topology):
    async with session(printed, "pi-a") as opened:
        assert opened.limits is not None
        assert (opened.limits.packet_bytes, opened.limits.receive_maximum) == (100_000, 8)
