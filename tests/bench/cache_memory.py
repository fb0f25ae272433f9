# ruff: noqa: T201 - a script that prints what it measured
"""What a smaller cache in memory costs: reads of the disk and CPU, with everything cached, in memory or on the disk.

Run it from the repository: python -m tests.bench.cache_memory [--sizes 784,3072] [--quick] [--json]

A cache gets more samples than its memory holds; then an epoch reads each once, in a random order, in batches of 128: at
first with nothing of the cache's file in Linux's page cache, as after a start or where memory is scarce, then once
more.
"""

import argparse
import asyncio
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edged.adapters.disk.sqlite_cache import SqliteCache
from edged.adapters.memory.health import RecordingHealth
from edged.domain.cache.entry import ENTRY_OVERHEAD_BYTES, Entry, SampleKey
from edged.domain.topology import MIB
from edged.services.cache.cache import Cache
from tests.bench.arguments import bench_parser, several

MEMORY_MIB = (32, 24, 16)
SAMPLES_MIB = (28, 48)
BATCH = 128
DISK_BYTES = 256 * MIB
ON_DISK = "/var/tmp"  # noqa: S108 - /tmp may be in memory


async def measure(memory: int, size: int, samples: int, folder: Path) -> list[Mapping[str, float | str]]:
    """An epoch with a cold page cache, and one with a warm one."""
    count = samples // (size + ENTRY_OVERHEAD_BYTES)
    keys = [SampleKey("pi-a", at // 256, at % 256) for at in range(count)]
    generator = np.random.default_rng(0)
    found: list[Mapping[str, float | str]] = []
    disk = SqliteCache(folder, DISK_BYTES, "bench")
    async with Cache(disk, RecordingHealth(), memory_bytes=memory, disk_bytes=DISK_BYTES) as cache:
        for at in range(0, count, BATCH):
            await cache.admit({key: Entry(generator.bytes(size), "raw", "a") for key in keys[at : at + BATCH]})
        for page_cache in ("cold", "warm"):
            if page_cache == "cold":
                forget(folder)
            keys = [keys[at] for at in generator.permutation(count).tolist()]
            read, hits, cpu_s = read_bytes(), cache.counts.hits_disk, time.process_time()
            for at in range(0, count, BATCH):
                await cache.get_many(keys[at : at + BATCH])
            found.append(
                {
                    "page_cache": page_cache,
                    "hits_on_disk": (cache.counts.hits_disk - hits) / count,
                    "read_mib": (read_bytes() - read) / MIB,
                    "cpu_us_a_sample": 1e6 * (time.process_time() - cpu_s) / count,
                }
            )
    return found


def forget(folder: Path) -> None:
    """Have Linux drop the files' pages from its cache."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes() -> int:
    """That the process has had the device read."""
    return int(re.findall(r"(?m)^read_bytes: (\d+)", Path("/proc/self/io").read_text())[0])


def arguments() -> argparse.Namespace:
    parser = bench_parser(__doc__, "samples of the first size alone")
    parser.add_argument("--sizes", type=several(int), default=[784, 3072], help="bytes of a sample (784,3072)")
    return parser.parse_args()


def main() -> None:
    given, rows = arguments(), []
    for size in given.sizes[: 1 if given.quick else None]:
        for samples in SAMPLES_MIB:
            for memory in MEMORY_MIB:
                with tempfile.TemporaryDirectory(prefix="edged-cache-memory-", dir=ON_DISK) as folder:
                    found = asyncio.run(measure(memory * MIB, size, samples * MIB, Path(folder)))
                for row in found:
                    rows.append({"memory_mib": memory, "samples_mib": samples, "size": size, **row})
                    print(
                        f"{memory} MiB in memory, {samples} MiB of {size} B, page cache {row['page_cache']}:"
                        f" {row['hits_on_disk']:.0%} of the reads on the disk, {row['read_mib']:.1f} MiB read,"
                        f" {row['cpu_us_a_sample']:.0f} µs of CPU a sample",
                        flush=True,
                    )
    if given.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
