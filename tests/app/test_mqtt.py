"""The devices of an edge are served, each by itself, and those too that a reload brings."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.log import MemoryLog
from edged.adapters.memory.mqtt import MemoryMqttBroker
from edged.app import mqtt as app_mqtt
from edged.app.mqtt import MqttDevices
from edged.domain.topology import Device, Edge, Kafka, Mqtt, Stream, Topology
from edged.settings import Timing, TopologyInUse

pytestmark = pytest.mark.looptime


def topology(*devices: str) -> Topology:
    return Topology(
        site="site",
        kafka=Kafka(("kafka:9092",)),
        streams=(Stream("images", (1,), "uint8"),),
        iot=tuple(Device(name, "pi", "images", transport="mqtt") for name in devices),
        edges=(Edge("pi"),),
        archive=(),
        mqtt=Mqtt("broker"),
    )


@pytest.mark.parametrize("before", [(), ("cam-1",)])
async def test_a_device_that_a_reload_brings_is_bridged(before, monkeypatch):
    log, health = MemoryLog(), RecordingHealth()
    broker = MemoryMqttBroker(health)
    monkeypatch.setattr(app_mqtt, "client", lambda: lambda _mqtt, _health: contextlib.nullcontext(broker))
    in_use = TopologyInUse(topology(*before))
    devices = MqttDevices(log, in_use, "pi", health, Timing())
    running = asyncio.create_task(devices.run())
    await asyncio.sleep(2)
    in_use.replace(topology(*before, "cam-2"))
    await asyncio.sleep(2)
    in_use.replace(replace(in_use.topology))
    await asyncio.sleep(2)
    for name in (*before, "cam-2"):
        assert broker.publish(f"site/iot/{name}", b"x") == "delivered"
    await asyncio.sleep(5)
    assert {name: len(log.records(f"site.iot.{name}")) for name in (*before, "cam-2")} == dict.fromkeys(
        (*before, "cam-2"), 1
    )
    assert devices.statistics().bridged_records == len(before) + 1
    assert devices.progress().idle
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
