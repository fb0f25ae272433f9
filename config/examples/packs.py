"""Many readings in one MQTT packet, which costs less than a packet for each. Python, with edged and its extra `mqtt`.

    packs.py                       with BROKER, PORT, SITE, DEVICE, STREAM, and PASSWORD where there are logins

In the topology the device has `transport: mqtt` and `id: counter`, and its stream `shape: [4]`, `dtype: float32`. A
pack holds up to 256 samples and is no larger than `packet_bytes`. Each sample has a number, which is its id.
"""

import os
import secrets
import struct
import time

import paho.mqtt.publish

from edged.domain.samples.pack import Pack, encode
from edged.domain.samples.sample import Sample

SERIES = secrets.token_hex(4)
"""Another one after each restart, for the numbers begin again."""


def pack(device: str, stream: str, readings: list[tuple[float, ...]], first: int, label: str | None = None) -> bytes:
    """The packet's payload. `first`: the number of the first reading."""
    now_ms = time.time_ns() // 1_000_000
    samples = [
        Sample(device, 0, number, now_ms, label, "raw", struct.pack(f"<{len(values)}f", *values), now_ms, SERIES)
        for number, values in enumerate(readings, first)
    ]
    return encode(Pack(stream, tuple(samples)))


def main() -> None:
    """Publish two readings."""
    site, device, password = os.environ["SITE"], os.environ["DEVICE"], os.environ.get("PASSWORD")
    paho.mqtt.publish.single(
        f"{site}/packs/{device}",
        pack(device, os.environ["STREAM"], [(21.5, 0.4, 1.013, 0.0), (21.6, 0.4, 1.013, 0.1)], first=0),
        qos=1,
        hostname=os.environ["BROKER"],
        port=int(os.environ["PORT"]),
        auth={"username": device, "password": password} if password else None,
    )


if __name__ == "__main__":
    main()
