# ruff: noqa: T201 - a script that prints what it measured
"""What a device's program costs above the bare interpreter: CPU time and memory, until its first sample is on its way.

Run it from the repository: python -m tests.bench.device_start [--rounds 11] [--quick] [--json]

Each in a process of its own, in turn; medians. `cpu_ms`: user and system time of the whole process; `rss_mib`: its
peak. With nothing at the address, so that nothing is measured but the program.
"""

import json
import subprocess
import sys
import tempfile
from statistics import median

from tests.bench.arguments import bench_parser

_USE = """
import asyncio
from edged.device import Device
from edged.domain.topology import Mqtt

async def use():
    async with Device.at({address}, site="s", name="n", edge="e", shape=(784,), receive=False{more}) as device:
        try:
            async with asyncio.timeout(0.05):
                await device.publish(bytes(784))
        except TimeoutError:
            pass

asyncio.run(use())
"""
_TELL = """
import os, resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(1000 * (used.ru_utime + used.ru_stime), used.ru_maxrss / 1024)
"""
BARE = "the interpreter"


def programs(folder: str) -> dict[str, str]:
    """What is measured, by name."""
    kafka, mqtt, buffer = '"127.0.0.1:1"', 'Mqtt("127.0.0.1:1")', f", buffer={folder!r}"
    return {
        BARE: "",
        "asyncio": "import asyncio",
        "aiokafka": "import aiokafka",
        "paho": "import asyncio, paho.mqtt.client",
        "Device, Kafka": _USE.format(address=kafka, more=""),
        "Device, Kafka, buffer": _USE.format(address=kafka, more=buffer),
        "Device, MQTT": _USE.format(address=mqtt, more=""),
        "Device, MQTT, buffer": _USE.format(address=mqtt, more=buffer),
    }


def cost(program: str) -> tuple[float, float]:
    """(ms, MiB) of one process."""
    done = subprocess.run([sys.executable, "-c", program + _TELL], capture_output=True, check=True, text=True)
    cpu_ms, rss_mib = map(float, done.stdout.split())
    return cpu_ms, rss_mib


def main() -> None:
    parser = bench_parser(__doc__, "3 rounds")
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = programs(folder)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        for _ in range(3 if args.quick else args.rounds):
            for name, program in chosen.items():
                found[name].append(cost(program))
    middle = {name: tuple(median(each[i] for each in costs) for i in (0, 1)) for name, costs in found.items()}
    above = {
        name: tuple(ours - bare for ours, bare in zip(costs, middle[BARE], strict=True))
        for name, costs in middle.items()
    }
    if args.json:
        print(json.dumps({name: {"cpu_ms": ms, "rss_mib": mib} for name, (ms, mib) in above.items()}))
        return
    print(f"{BARE}: {middle[BARE][0]:.0f} ms, {middle[BARE][1]:.1f} MiB; above it:")
    for name, (ms, mib) in list(above.items())[1:]:
        print(f"{name:24} {ms:5.0f} ms {mib:6.1f} MiB")


if __name__ == "__main__":
    main()
