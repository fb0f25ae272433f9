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
)

USE = """
import asyncio, sys
from edged.device import Device
from edged.domain.topology import Mqtt

async def use():
    async with Device.at({address}, site="s", name="n", edge="e", shape=(2,), dtype="float32"{more}) as n:
        try:
            async with asyncio.timeout({timeout_s}):
                await n.publish(bytes(8), sampled_ms=1)
        except TimeoutError:
            pass

asyncio.run(use())
print(*(name for name in {names} if name in sys.modules))
"""
ADDRESSES = {"kafka": '"127.0.0.1:1"', "mqtt": 'Mqtt("127.0.0.1:1")'}


def loaded(transport, names, *, more="", timeout_s=0.2):
    more = f", receive=False{more}"
    script = USE.format(address=ADDRESSES[transport], more=more, timeout_s=timeout_s, names=names)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    return done.stdout.split()


@pytest.mark.parametrize("transport", ADDRESSES)
def test_a_device_loads_nothing_heavy(transport):
    assert loaded(transport, HEAVY) == []


@pytest.mark.parametrize("transport", ADDRESSES)
def test_a_buffer_adds_nothing_heavy(transport, tmp_path):
    assert loaded(transport, HEAVY, more=f", buffer={str(tmp_path)!r}", timeout_s=10) == []


def test_a_device_loads_the_client_of_its_own_transport_alone():
    clients = ("aiokafka", "paho")
    assert loaded("kafka", clients) == ["aiokafka"]
    assert loaded("mqtt", clients) == ["paho"]
