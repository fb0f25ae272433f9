"""The devices of an edge are served, each by itself, and those too that a reload or another edge brings."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Never

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.adapters.memory.mqtt import MemoryMqttBroker
from edged.app import mqtt as app_mqtt
from edged.app.mqtt import MqttDevices
from edged.domain.topology import Device, Edge, Kafka, Mqtt, Stream, Topology
from edged.errors import ConfigError, Problem
from edged.ports import Health
from edged.settings import Timing, TopologyInUse

pytestmark = pytest.mark.looptime


def topology(*devices: str, edge: str = "pi") -> Topology:
    return Topology(
        site="site",
        kafka=Kafka(("kafka:9092",)),
        streams=(Stream("images", (1,), "uint8"),),
        iot=tuple(Device(name, edge, "images", transport="mqtt") for name in devices),
        edges=(Edge("pi"), Edge("pi-b")),
        archive=(),
        mqtt=Mqtt("broker"),
    )


class World:
    """A broker and a log, and what serves an edge's devices."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log, self.health = MemoryLog(), RecordingHealth()
        self.broker = MemoryMqttBroker(self.health)
        monkeypatch.setattr(app_mqtt, "client", lambda: lambda _mqtt, _health: contextlib.nullcontext(self.broker))

    @contextlib.asynccontextmanager
    async def served(self, in_use: TopologyInUse, edge: str = "pi") -> AsyncIterator[MqttDevices]:
        """Inside, they are; the edge is stopped at the end."""
        devices = MqttDevices(self.log, in_use, edge, self.health, Timing())
        running = asyncio.create_task(devices.run())
        await asyncio.sleep(2)
        yield devices
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    def values(self, device: str) -> list[bytes]:
        return [record.value for record in self.log.records(f"site.iot.{device}")]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.mark.parametrize("devices", [["cam"], []])
def test_files_that_cannot_be_used_end_the_start_also_while_kafka_is_away_but_of_an_edge_that_needs_none(
    monkeypatch: pytest.MonkeyPatch, devices: list[str]
) -> None:
    def refuse(_mqtt: Mqtt, _health: Health) -> Never:
        raise ConfigError((Problem("mqtt.tls.key", "is empty"),))

    monkeypatch.setattr(app_mqtt, "client", lambda: refuse)
    in_use = TopologyInUse(topology(*devices))
    with pytest.raises(ConfigError) if devices else contextlib.nullcontext():
        MqttDevices(MemoryLog(), in_use, "pi", RecordingHealth(), Timing())


@pytest.mark.parametrize("before", [(), ("cam-1",)])
async def test_a_device_that_a_reload_brings_is_bridged(before, world):
    in_use = TopologyInUse(topology(*before))
    async with world.served(in_use) as devices:
        in_use.replace(topology(*before, "cam-2"))
        await asyncio.sleep(2)
        in_use.replace(replace(in_use.topology))
        await asyncio.sleep(2)
        for name in (*before, "cam-2"):
            assert world.broker.publish(f"site/iot/{name}", b"x") == "delivered"
        await asyncio.sleep(5)
        assert [world.values(name) for name in (*before, "cam-2")] == [[b"x"]] * (len(before) + 1)
        assert devices.statistics().bridged_records == len(before) + 1
        assert devices.progress().idle


async def test_a_device_that_moves_to_another_edge_leaves_nothing_behind_at_the_broker(world):
    """Where each edge had a session of its own for it, the former one's would be filled: influxdata/telegraf#14366."""
    async with world.served(TopologyInUse(topology("cam-1"))):
        world.broker.publish("site/iot/cam-1", b"1")
        await asyncio.sleep(2)
    world.broker.publish("site/iot/cam-1", b"2")
    async with world.served(TopologyInUse(topology("cam-1", edge="pi-b")), "pi-b"):
        world.broker.publish("site/iot/cam-1", b"3")
        await asyncio.sleep(2)
    assert world.values("cam-1") == [b"1", b"2", b"3"]
    assert world.broker.num_waiting == 0


async def test_a_stop_in_the_middle_of_a_write_waits_for_it_and_acknowledges(world, monkeypatch):
    """Or the broker would send again what Kafka has."""
    append = world.log.append

    async def slow(*arguments, **options):
        await asyncio.sleep(1.0)
        return await append(*arguments, **options)

    monkeypatch.setattr(world.log, "append", slow)
    in_use = TopologyInUse(topology("cam-1", "cam-2"))
    async with world.served(in_use):
        for number in range(3):
            world.broker.publish("site/iot/cam-1", b"%d" % number)
        await asyncio.sleep(0.5)
        began_s = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(0.5, abs=0.1)
    assert world.values("cam-1") == [b"0", b"1", b"2"]
    assert world.broker.num_waiting == 0


async def test_a_stop_while_kafka_takes_nothing_waits_only_so_long(world):
    in_use = TopologyInUse(topology("cam-1"))
    async with world.served(in_use):
        world.log.unavailable = True
        world.broker.publish("site/iot/cam-1", b"1")
        await asyncio.sleep(1)
        began_s = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(app_mqtt.END_S, abs=0.1)
    assert world.broker.num_waiting == 1
