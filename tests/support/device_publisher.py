# ruff: noqa: T201 - a script
"""A device's program, to be killed: publishes numbers through a buffer, and prints each once `publish` has returned.

Arguments: "kafka" or "mqtt", the broker's address, the buffer's folder, the first number. "-" as the first number:
nothing is published; it prints a line once the buffer is empty, and ends.
"""

import asyncio
import itertools
import sys

from edged.device import Device
from edged.domain.topology import Mqtt


async def main(transport: str, address: str, folder: str, first: str) -> None:
    where = address if transport == "kafka" else Mqtt(address)
    words = {"site": "greenhouse", "name": f"cam-{transport}", "edge": "pi", "shape": (4,)}
    async with Device.at(where, **words, buffer=folder, receive=False) as device:  # type: ignore[arg-type]
        if first == "-":
            await device.flush()
            print("empty", flush=True)
            return
        for number in itertools.count(int(first)):
            await device.publish(number.to_bytes(4))
            print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
