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
from pathlib import Path
from statistics import median

from tests.bench.arguments import bench_parser

_USE = """
import asyncio
from edged.device import Device
from edged.domain.topology import Mqtt

async def use():
    async with {device} as device:
        try:
            async with asyncio.timeout(0.05):
                await device.publish(bytes(784))
        except TimeoutError:
            pass

asyncio.run(use())
"""
_FILE = """\
schema: 1
site: s
kafka: {{bootstrap: ["127.0.0.1:1"]}}
mqtt: {{broker: "127.0.0.1:1"}}
streams:
  x: {{sample: {{shape: [784], dtype: uint8}}}}
iot: [{{name: n, edge: e, stream: x, codec: raw, transport: {transport}}}]
edges: [{{name: e}}]
archive: [{{name: a, url: "file:///srv/edged"}}]
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

    def at(address: str, more: str = "") -> str:
        words = f'site="s", name="n", edge="e", shape=(784,), receive=False{more}'
        return _USE.format(device=f"Device.at({address}, {words})")

    def by_file(transport: str) -> str:
        file = Path(folder) / f"{transport}.yaml"
        file.write_text(_FILE.format(transport=transport))
        return _USE.format(device=f'Device({str(file)!r}, "n", receive=False)')

    return {
        BARE: "",
        "asyncio": "import asyncio",
        "aiokafka": "import aiokafka",
        "paho": "import asyncio, paho.mqtt.client",
        "Device, Kafka": at(kafka),
        "Device, Kafka, buffer": at(kafka, buffer),
        "Device, MQTT": at(mqtt),
        "Device, MQTT, buffer": at(mqtt, buffer),
        "Device, Kafka, by its file": by_file("kafka"),
        "Device, MQTT, by its file": by_file("mqtt"),
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
        print(f"{name:28} {ms:5.0f} ms {mib:6.1f} MiB")


if __name__ == "__main__":
    main()
