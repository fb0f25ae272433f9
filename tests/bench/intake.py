# ruff: noqa: T201, ASYNC110 - a script that prints what it measured
"""How fast the intake is: decoding, filling mini-batches, and the whole loop over the log in memory.

Run it from the repository: python -m tests.bench.intake
"""

import asyncio
import io
import time

import numpy as np
from PIL import Image

from edged.adapters.images import PillowDecoder
from edged.adapters.memory import MemoryLog
from edged.config import Timing
from edged.domain import codec
from edged.domain.topology import Archive, Codec, Device, Edge, Kafka, Stream, Topology
from edged.ports import Message
from edged.services.ingest import Ingest
from edged.services.live import LiveLog
from edged.services.uplink import Uplink

GREY = Stream("s", (28, 28, 1), "uint8", ("a", "b"))
PHOTOS = Stream("s", (64, 64, 3), "uint8", ("a", "b"))


def camera_jpeg(width: int, height: int, quality: int) -> bytes:
    """Noise over a gradient: as hard to compress as a photograph."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (height, width, 3)) + np.linspace(0, 150, width)[None, :, None]
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def bench_jpeg(payload: bytes, what: str, times: int) -> None:
    decoder = PillowDecoder()
    begin = time.perf_counter()
    for _ in range(times):
        decoder.decode(payload, "jpeg", PHOTOS.shape)
    rate = times / (time.perf_counter() - begin)
    print(f"decode JPEG {what}, {len(payload) / 1024:.0f} KiB, to 64×64×3: {rate:,.0f} images/s")


def bench_fill(times: int = 2000) -> None:
    payloads = list(np.random.default_rng(0).integers(0, 256, (128, 784), np.uint8))
    raw = [each.tobytes() for each in payloads]
    x = np.empty((128, *GREY.shape), np.float32)
    begin = time.perf_counter()
    for _ in range(times):
        codec.fill(x, raw, ["raw"] * 128, GREY, PillowDecoder().decode)
    print(f"fill mini-batches of 128 raw 28×28: {128 * times / (time.perf_counter() - begin):,.0f} samples/s")


async def bench_loop(stream: Stream, of_codec: Codec, payload: bytes, samples: int) -> None:
    topology = Topology(
        "bench",
        Kafka(("nowhere:9092",)),
        (stream,),
        tuple(Device(f"cam-{n}", "pi", "s", of_codec) for n in range(4)),
        (Edge("pi"),),
        (Archive("vault", "file:///nowhere"),),
    )
    log = MemoryLog()
    await log.append([Message(topology.device_topic(f"cam-{n % 4}"), payload, b"a") for n in range(samples)])
    ingest = Ingest(log, topology, "pi", PillowDecoder())
    uplink = Uplink(ingest, log, topology, "pi", {"s": LiveLog(log, topology.archive_topic("s", "pi"))}, Timing())
    begin = time.perf_counter()
    task = asyncio.create_task(uplink.run())
    while uplink.statistics().ingested_samples < samples:
        await asyncio.sleep(0.01)
    rate = samples / (time.perf_counter() - begin)
    task.cancel()
    await asyncio.wait([task])
    print(f"intake of {of_codec}, {len(payload)} bytes each: {rate:,.0f} samples/s (the last pack's linger included)")


if __name__ == "__main__":
    bench_jpeg(camera_jpeg(1280, 960, 65), "1280×960", 50)
    bench_jpeg(camera_jpeg(4000, 3000, 10), "4000×3000", 10)
    bench_fill()
    asyncio.run(bench_loop(GREY, "raw", bytes(784), 60_000))
    asyncio.run(bench_loop(PHOTOS, "jpeg", camera_jpeg(1280, 960, 65), 300))
    asyncio.run(bench_loop(PHOTOS, "jpeg", camera_jpeg(64, 64, 90), 20_000))
