"""An edge's intake over the log in memory: three streams, devices of every codec, and runs that end by themselves."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from edged.adapters.images import PillowDecoder, encode
from edged.adapters.memory.log import MemoryLog
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import Pack
from edged.domain.topology import Archive, Device, Edge, Kafka, Stream, Topology
from edged.ports import Log, Message, Record
from edged.services.ingest.ingest import Ingest
from edged.services.ingest.live_window import LiveWindow
from edged.services.ingest.uplink import Uplink
from edged.settings import Timing, TopologyInUse

TOPOLOGY = Topology(
    site="site",
    kafka=Kafka(("nowhere:9092",)),
    streams=(
        Stream("grey", (2, 3, 1), "uint8", ("cat", "dog")),
        Stream("floats", (2,), "float32", ("low", "high")),
        Stream("photos", (16, 16, 3), "uint8", ("cat", "dog")),
    ),
    iot=(
        Device("cam", "pi", "grey"),
        Device("cam-2", "pi", "grey"),
        Device("meter", "pi", "floats"),
        Device("photo", "pi", "photos", "jpeg"),
        Device("scan", "pi", "photos", "png"),
        Device("elsewhere", "other", "grey"),
    ),
    edges=(Edge("pi"), Edge("other")),
    archive=(Archive("vault", "file:///nowhere"),),
)
GREY = TOPOLOGY.archive_topic("grey", "pi")
DEAD_LETTERS = TOPOLOGY.dead_letters_topic("pi")


def grey(number: int) -> bytes:
    """A valid payload of stream grey, distinguished by its number."""
    return number.to_bytes(6, "big")


def floats(*values: float) -> bytes:
    """A payload of stream floats."""
    return np.array(values, "<f4").tobytes()


def photo(codec: str, seed: int = 0) -> bytes:
    """A noisy image of 64×48."""
    return encode(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8), codec)


def from_device(device: str, value: bytes, key: bytes | None = b"cat", partition: int = 0) -> Message:
    """A message as the device publishes it."""
    return Message(TOPOLOGY.device_topic(device), value, key, partition=partition)


@dataclass
class Intake:
    """New objects, as after a start of the process."""

    ingest: Ingest
    uplink: Uplink
    live: LiveWindow


def intake(log: Log, topology: Topology = TOPOLOGY) -> Intake:
    """The edge pi's intake; stream grey is trained on."""
    live = LiveWindow(log, GREY)
    ingest = Ingest(log, TopologyInUse(topology), "pi", PillowDecoder())
    return Intake(ingest, Uplink(ingest, log, topology, "pi", {"grey": [live]}, Timing()), live)


async def run_until(uplink: Uplink, done: Callable[[], bool]) -> None:
    """Run until `done`, checked in fake time; raises what the uplink raises, AssertionError if it never is."""
    task = asyncio.create_task(uplink.run())
    try:
        for _ in range(1000):
            if done() or task.done():
                break
            await asyncio.sleep(0.1)
        if task.done():
            task.result()
        assert done()
    finally:
        task.cancel()
        with contextlib.suppress(BaseException):
            await task


def archived(log: MemoryLog, topic: str = GREY) -> list[Pack]:
    """The packs in an archive topic."""
    return [packs.decode(record.value) for record in log.records(topic)]


def identities(of_packs: Iterable[Pack]) -> list[tuple[str, int, int]]:
    """(device, partition, offset) of all samples, in order."""
    return [(each.device, each.partition, each.offset) for pack in of_packs for each in pack.samples]


def reason(letter: Record) -> str:
    """The reason in a dead letter."""
    return dict(letter.headers)["reason"].decode()
