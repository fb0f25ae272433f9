"""What a device's program pays before its first sample: modules that it does not need are not loaded."""

import subprocess
import sys

import pytest

HEAVY = (
    "numpy",
    "PIL",
    "structlog",
    "yaml",
    "psutil",
    "pyarrow",
    "edged.topology_file",
    "edged.domain.nn",
    "edged.events",
    "edged.adapters.tls",
    "edged.domain.topology.nodes",
    "edged.ports.node",
)
OF_A_FILE = {"yaml", "edged.topology_file", "edged.domain.nn", "edged.domain.topology.nodes"}
"""A model's layers are only described there."""

USE = """
import asyncio, sys
from edged.device import Device
from edged.domain.topology import Mqtt

async def use():
    async with {device} as n:
        try:
            async with asyncio.timeout({timeout_s}):
                await n.publish(bytes(8), sampled_ms=1)
        except TimeoutError:
            pass

asyncio.run(use())
print(*(name for name in {names} if name in sys.modules))
"""
FILE = """\
schema: 1
site: s
kafka: {{bootstrap: ["127.0.0.1:1"]}}
mqtt: {{broker: "127.0.0.1:1"}}
streams: {{x: {{sample: {{shape: [2], dtype: float32}}, labels: [low, high]}}}}
iot: [{{name: n, edge: e, stream: x, codec: raw, transport: {transport}}}]
edges: [{{name: e}}]
archive: [{{name: a, url: "file:///srv/edged"}}]
training: {{stream: x, model: [dense: 2], epochs: 1}}
"""
ADDRESSES = {"kafka": '"127.0.0.1:1"', "mqtt": 'Mqtt("127.0.0.1:1")'}


def loaded(transport, names, *, more="", timeout_s=0.2):
    more = f", receive=False{more}"
    words = f'{ADDRESSES[transport]}, site="s", name="n", edge="e", shape=(2,), dtype="float32"{more}'
    return used(f"Device.at({words})", names, timeout_s)


def used(device, names, timeout_s=0.2):
    script = USE.format(device=device, timeout_s=timeout_s, names=names)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    return done.stdout.split()


@pytest.mark.parametrize("transport", ADDRESSES)
def test_a_device_loads_nothing_heavy(transport):
    assert loaded(transport, HEAVY) == []


@pytest.mark.parametrize("transport", ADDRESSES)
def test_a_buffer_adds_nothing_heavy(transport, tmp_path):
    assert loaded(transport, HEAVY, more=f", buffer={str(tmp_path)!r}", timeout_s=10) == []


@pytest.mark.parametrize("transport", ADDRESSES)
def test_a_topology_file_adds_what_reads_it_and_nothing_that_computes(transport, tmp_path):
    file = tmp_path / "topology.yaml"
    file.write_text(FILE.format(transport=transport))
    found = used(f"Device({str(file)!r}, 'n', receive=False)", HEAVY)
    assert set(found) == OF_A_FILE


def test_a_device_loads_its_own_transport_alone_and_a_buffers_part_for_a_buffer(tmp_path):
    parts = ("edged.device.kafka", "edged.device.mqtt", "edged.device.disk_outbox")
    assert loaded("kafka", parts) == ["edged.device.kafka"]
    assert loaded("mqtt", parts) == ["edged.device.mqtt"]
    found = loaded("mqtt", parts, more=f", buffer={str(tmp_path)!r}", timeout_s=10)
    assert found == ["edged.device.mqtt", "edged.device.disk_outbox"]


def test_a_device_loads_the_client_of_its_own_transport_alone():
    clients = ("aiokafka", "paho")
    assert loaded("kafka", clients) == ["aiokafka"]
    assert loaded("mqtt", clients) == ["paho"]
