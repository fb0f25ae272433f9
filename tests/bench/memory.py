# ruff: noqa: T201 - a script that prints what it measured
"""How the memory of a site's nodes grows under a steady live stream: real processes, and Apache Kafka.

Run it from the repository: python -m tests.bench.memory [--minutes 60] [--quick] [--json] [--rate 50] [--series FILE]

Two devices publish images at a steady rate; the edge trains on them as they come, the archive node archives them, the
companion predicts them. Each process's resident size is read every 5 s. What counts is the trend after the first ten
minutes (a sixth of a shorter run), in which buffers, caches and the allocator's free lists come to their size: the
median of the slopes of all pairs of values (Theil-Sen). The exit code is 1 when a node's exceeds `--limit`.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import psutil

from edged.cli.demo.processes import Child
from edged.domain.topology import MIB
from tests.bench.arguments import bench_parser
from tests.support.brokers import Apache
from tests.support.site import Site
from tests.support.trends import theil_sen

EVERY_S = 5.0
WARM_UP_S = 600.0
QUICK_MINUTES = 3.0
MAX_GROWTH = 2.0
"""MiB an hour."""

RATES = ("ingested_samples_per_s", "trained_samples_per_s")

SETTINGS = {
    "source": "live", "epochs": 1_000_000, "checkpoint": "1min", "flush": "10s", "timing": {"sample_s": 1.0},
    "more": "live_epoch: 5000",
}  # fmt: skip
"""Training goes on for as long as the bench does; epochs, checkpoints and files of the archive come every minute."""

Series = Mapping[str, Sequence[tuple[float, int]]]
"""Of each process: seconds since the start, and resident bytes."""


async def measure(minutes: float, rate: float, folder: Path) -> tuple[Series, dict[str, float]]:
    """The resident sizes of the nodes, and the edge's mean rates meanwhile."""
    with Apache() as broker:
        site = Site(folder, broker.bootstrap, **SETTINGS)
        site.forks = False
        async with contextlib.AsyncExitStack() as stopping:
            vault, edge, companion = nodes = await site.start_nodes()
            for child in [*nodes, *await site.start_sensors(rate)]:
                stopping.push_async_callback(child.stop)
            await companion.wait_for("infer.model_loaded")
            await vault.wait_for("archive.flushed")
            series = await _watched(nodes, 60 * minutes)
            lines = edge.seen("res.sample")
            return series, {key: mean(line.get(key, 0.0) for line in lines) for key in RATES}


async def _watched(nodes: Sequence[Child], seconds: float) -> Series:
    start = time.monotonic()
    series: dict[str, list[tuple[float, int]]] = {node.name: [] for node in nodes}
    while (now := time.monotonic() - start) < seconds:
        for node in nodes:
            if node.exit_code is not None:
                raise RuntimeError(f"{node.name} ended\n{node.last_words()}")
            series[node.name].append((now, psutil.Process(node.pid).memory_info().rss))
        await asyncio.sleep(EVERY_S)
    return series


def report(series: Series, minutes: float) -> dict[str, dict[str, float]]:
    """Of each process: the trend after the warm-up, and what it held at its ends and at most, in MiB."""
    warm_up_s = min(WARM_UP_S, 60 * minutes / 6)
    figures = {}
    for name, points in series.items():
        times, sizes = zip(*[(t / 3600, size / MIB) for t, size in points if t >= warm_up_s], strict=True)
        figures[name] = {
            "mib_per_hour": round(theil_sen(times, sizes), 2), "first_mib": round(sizes[0], 1),
            "last_mib": round(sizes[-1], 1), "most_mib": round(max(sizes), 1), "values": len(sizes),
        }  # fmt: skip
    return figures


def arguments() -> argparse.Namespace:
    parser = bench_parser(__doc__, f"{QUICK_MINUTES:g} minutes, which show a large leak only")
    parser.add_argument("--minutes", type=float, help="how long (60)")
    parser.add_argument("--rate", type=float, default=50.0, help="images a second of each of the two devices (50)")
    parser.add_argument(
        "--limit", type=float, default=MAX_GROWTH, help=f"MiB an hour that are no growth ({MAX_GROWTH:g})"
    )
    parser.add_argument("--series", type=Path, metavar="FILE", help="keep all values there, as JSON")
    given = parser.parse_args()
    given.minutes = given.minutes or (QUICK_MINUTES if given.quick else 60.0)
    return given


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="edged-memory-bench-") as folder:
        series, rates = asyncio.run(measure(given.minutes, given.rate, Path(folder)))
    figures = report(series, given.minutes)
    if given.series:
        given.series.write_text(json.dumps(series))
    print(f"{given.minutes:g} minutes: " + ", ".join(f"{value:.1f} {key}" for key, value in rates.items()))
    for name, each in figures.items():
        print(
            f"{name:12}{each['mib_per_hour']:+8.2f} MiB an hour, {each['first_mib']:.1f} to {each['last_mib']:.1f}, "
            f"at most {each['most_mib']:.1f}"
        )
    if given.json:
        print(json.dumps({"minutes": given.minutes, "rate": given.rate, "nodes": figures, "edge": rates}))
    sys.exit(any(each["mib_per_hour"] > given.limit for each in figures.values()))


if __name__ == "__main__":
    main()
