# ruff: noqa: T201 - a script that prints what it measured
"""How long a start takes, from the process's begin to the first gradient: a first one, and one that resumes.

Run it from the repository: python -m tests.bench.start [--rounds 5] [--quick] [--json]

An edge of 02-greenhouse.yaml over Apache Kafka, with 3,000 images in the archive, as under its unit. The first start
has neither state nor cache; the next one follows its stop. Each phase is the time from the line before to its own in
the edge's log, whose resource series, 20 a second, also tells when training begins. Medians. `core_s`: of the main
thread, how long it could have run, and other programs had the core; on a quiet machine near 0.
"""

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median

from edged.cli.demo.processes import Child, LogLine
from tests.bench.arguments import bench_parser
from tests.support.brokers import Apache
from tests.support.examples import example, unit_environment
from tests.support.site import Site

NODE = "pi-a"
IMAGES = 3000
SAMPLE_S = 0.05
PHASES = (
    "life.started", "kernels.loaded", "cache.opened", "life.ready", "kafka.connected", "presence.begun",
    "train.started", "epoch.drawn",
)  # fmt: skip
FIRST = "first gradient"

Seconds = Mapping[str, float]


def has_trained(line: LogLine) -> bool:
    """Whether it is of the series, and shows a sample trained."""
    return bool(line["event"] == "res.sample" and line.get("trained_samples_per_s"))


async def start(site: Site) -> Seconds:
    """One start, to its first gradient; the edge is stopped then."""
    begin_s = time.time()
    child = await site.start("run", NODE)
    await child.until(lambda lines: any(map(has_trained, lines)), "it trained")
    cpu_s = {"cpu": cpu(child.pid), "core_s": delay(child.pid)}
    times = {line["event"]: moment_s(line) for line in reversed(child.lines)}
    times[FIRST] = next(moment_s(line) for line in child.lines if has_trained(line))
    await child.stop()
    order = sorted((times[event], event) for event in (*PHASES, FIRST) if event in times)
    before = [begin_s, *(at for at, _ in order)]
    phases = {event: at - earlier for (at, event), earlier in zip(order, before, strict=False)}
    return {"wall": times[FIRST] - begin_s, **cpu_s, **phases}


def moment_s(line: LogLine) -> float:
    return datetime.fromisoformat(line["ts"]).timestamp()


def cpu(pid: int) -> float:
    """CPU seconds of the process since its begin."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def delay(pid: int) -> float:
    """Seconds that its main thread waited for a core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


async def served_site(folder: Path, broker: Apache) -> Site:
    """02-greenhouse's site, with its images in the archive; none of its nodes runs."""
    site = Site(folder, broker.bootstrap, site="start", timing={"sample_s": SAMPLE_S})
    kafka, archive = f'{{bootstrap: ["{broker.bootstrap}"]}}', site.archive_folder.as_uri()
    text = example("02-greenhouse.yaml", "start", kafka, archive, epochs=1000)
    site.topology.write_text(text)
    site.forks, site.more_environment = False, unit_environment()
    await site.import_fashion(IMAGES)
    return site


async def measure(rounds: int, folder: Path) -> Mapping[str, Sequence[Seconds]]:
    """Starts of both kinds, by turns."""
    with Apache() as broker:
        site = await served_site(folder, broker)
        vault: Child = await site.start("run", "vault")
        await vault.wait_for("life.ready")
        found: dict[str, list[Seconds]] = {"the first": [], "resumed": []}
        for _ in range(rounds):
            shutil.rmtree(site.folder / NODE, ignore_errors=True)
            for series in found.values():
                series.append(await start(site))
        await vault.stop()
        return found


def medians(series: Sequence[Seconds]) -> Seconds:
    return {key: round(median(each.get(key, 0.0) for each in series), 3) for key in series[0]}


def arguments() -> argparse.Namespace:
    parser = bench_parser(__doc__, "2 rounds")
    parser.add_argument("--rounds", type=int, help="starts of each kind (5)")
    given = parser.parse_args()
    given.rounds = given.rounds or (2 if given.quick else 5)
    return given


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="edged-start-bench-") as folder:
        figures = {kind: medians(series) for kind, series in asyncio.run(measure(given.rounds, Path(folder))).items()}
    for kind, each in figures.items():
        print(f"{kind}: {each['wall']:.2f} s, {each['cpu']:.2f} s of CPU; waited {each['core_s']:.2f} s for a core")
        print("   " + ", ".join(f"{key} {value:.2f}" for key, value in each.items() if key in {*PHASES, FIRST}))
    if given.json:
        print(json.dumps({"rounds": given.rounds, "starts": figures}))


if __name__ == "__main__":
    main()
