# ruff: noqa: T201 - a script that prints what it measured
"""What a node takes of a small machine: resident memory, and bytes written to its SD card, for each example of config/.

Run it from the repository, as root: python -m tests.bench.footprint [--minutes 10] [--quick] [--json] [--only 01,02]

The archive gets as many made-up samples as fill the first edge's cache in memory and half as many again, of a group as
often as it has members. Then that edge and its companion run as under their units, with epochs without end and a sample
of each device a second; from when its cache in memory is full, their memory is read every 5 s. Their state, the cache
and systemd's journal of their log each lie on a file system of their own, whose device counts what it is given to
write, the file system's journal included: what the cache writes is told from the rest. So are the ends of epochs: their
lines go to another journal, and what the state's device takes from an end's first line until the file system has
written its own journal of it is theirs.
"""

import argparse
import asyncio
import contextlib
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from edged.cli.demo.processes import Child
from edged.device import Device
from edged.domain.cache.entry import ENTRY_OVERHEAD_BYTES
from edged.domain.topology import MIB, Topology
from edged.domain.validation.memory import edge_budget, training_memory
from edged.domain.validation.writes import SERVICE_LINES_S, edge_writes
from tests.bench.arguments import bench_parser, several
from tests.support.brokers import Apache
from tests.support.examples import EXAMPLES, example, made_samples, unit_environment
from tests.support.sd_card import SdCard, journal, sd_card
from tests.support.site import Site, until_archived

EVERY_S = 5.0
QUICK_MINUTES = 1.0
FILLED = 1.5
FULL = 0.95
PORTION = 1000
LIVE_S = 1.0
ENDLESS = 1_000_000
END_LINES = frozenset(
    {"cache.epoch", "train.epoch", "checkpoint.saved", "checkpoint.deployed", "epoch.drawn", "infer.model_loaded"}
)
SETTLED_S = 6.0
"""After an epoch's last line: ext4 commits its journal every 5 s."""

Figures = Mapping[str, float]


class EpochEnds:
    """What a card takes while epochs end, and for how long, by the lines of the log that it `sees`."""

    def __init__(self, card: SdCard) -> None:
        self._card = card
        self._since: tuple[float, int] | None = None
        self._closes: asyncio.TimerHandle | None = None
        self.seconds, self.num_bytes = 0.0, 0

    def see(self, line: Mapping[str, Any]) -> bool:
        """Whether it is a line of an epoch's end."""
        event = line["event"]
        is_ending = self._since is not None and self._closes is None
        if event == "cache.epoch":
            self._end()
            self._since = (time.monotonic(), self._card.taken_bytes())
        elif event == "epoch.drawn" and is_ending:
            self._closes = asyncio.get_running_loop().call_later(SETTLED_S, self._end)
        return event in END_LINES and (event != "checkpoint.saved" or is_ending)

    def _end(self) -> None:
        if self._closes:
            self._closes.cancel()
        if self._since:
            begun_s, taken = self._since
            self.seconds += time.monotonic() - begun_s
            self.num_bytes += self._card.taken_bytes() - taken
        self._closes = self._since = None


async def measure(file: str, broker: Apache, minutes: float, folder: Path) -> Figures:
    """The figures of one example."""
    name = Path(file).stem
    timing = {"sample_s": SERVICE_LINES_S, "report_s": SERVICE_LINES_S}
    site = Site(folder, broker.bootstrap, site=name, timing=timing)
    text = example(file, name, f'{{bootstrap: ["{broker.bootstrap}"]}}', site.archive_folder.as_uri(), epochs=ENDLESS)
    site.topology.write_text(text)
    site.forks, site.more_environment = False, unit_environment()
    topology = site.loaded()
    first, *others = (edge.name for edge in topology.edges)
    with contextlib.ExitStack() as opened:
        names = ("state", "cache", "log", "end_log")
        cards = {name: opened.enter_context(sd_card(folder / f"{first}-{name}")) for name in names}
        ends = EpochEnds(cards["state"])
        homes = {f"XDG_{name.upper()}_HOME": str(cards[name].folder) for name in ("state", "cache")}
        log, end_log = (opened.enter_context(journal(cards[name].folder / "journal")) for name in ("log", "end_log"))
        async with contextlib.AsyncExitStack() as stopping:

            async def started(command: str, node: str) -> Child:
                is_watched = node == first
                child = await Child.start(
                    f"{command} {node}", command, str(site.topology), "--node", node,
                    environment={**site.environment(node), **(homes if is_watched else {})},
                    on_line=lambda _, line: (end_log if ends.see(line) else log)(line) if is_watched else None,
                )  # fmt: skip
                stopping.push_async_callback(child.stop)
                return child

            vault, edge = await started("run", topology.archive[0].name), await started("run", first)
            rest = [await started("run", each) for each in others]
            companion = await started("infer", first)
            total = 0
            for device in trained(topology):
                total += await publish(topology, device)
            await until_archived(vault, total)
            for each in (companion, edge, *rest):
                await each.wait_for("infer.model_loaded" if each is companion else "train.epoch")
            full_bytes = FULL * topology.edges[0].cache.memory
            await edge.until(lambda _: any(each["memory_bytes"] >= full_bytes for each in edge.seen("cache.epoch")))
            live = asyncio.create_task(publish_live(topology))
            try:
                return with_budget(topology, await watched(cards, ends, edge, companion, 60 * minutes))
            finally:
                live.cancel()
                await asyncio.wait([live])


def trained(topology: Topology) -> list[str]:
    """The devices whose samples are trained on."""
    streams = {job.stream for job in topology.jobs}
    return [device.name for device in topology.iot if device.stream in streams]


async def publish(topology: Topology, device: str) -> int:
    """Publish the device's part of what fills the cache; how many samples."""
    shares = 1 if topology.jobs[0].exchange.mode == "none" else len(topology.edges)
    total_bytes, samples = FILLED * topology.edges[0].cache.memory * shares, made_samples(topology, device)
    published, num_bytes = 0, 0
    async with Device(topology, device) as publisher:
        while num_bytes < total_bytes / len(trained(topology)):
            portion = list(islice(samples, PORTION))
            await publisher.publish_many(portion)
            published += len(portion)
            num_bytes += sum(len(payload) + ENTRY_OVERHEAD_BYTES for payload, _ in portion)
    return published


async def publish_live(topology: Topology) -> None:
    """A sample of each device a second, without end."""
    async with contextlib.AsyncExitStack() as stack:
        devices = {each.name: await stack.enter_async_context(Device(topology, each.name)) for each in topology.iot}
        while True:
            for name, device in devices.items():
                await device.publish_many(list(islice(made_samples(topology, name), 1)))
            await asyncio.sleep(LIVE_S)


async def watched(
    cards: Mapping[str, SdCard], ends: EpochEnds, edge: Child, companion: Child, seconds: float
) -> Figures:
    """What the two take from now on."""
    before = {name: await asyncio.to_thread(card.written_bytes) for name, card in cards.items()}
    begin_s, epochs, saved = time.monotonic(), len(edge.seen("train.epoch")), len(edge.seen("checkpoint.saved"))
    cache_before, ends_before = cache_written(edge), (ends.seconds, ends.num_bytes)
    edge_sizes, companion_sizes = [resident(edge.pid)], [resident(companion.pid)]
    while time.monotonic() < begin_s + seconds:
        await asyncio.sleep(EVERY_S)
        edge_sizes.append(resident(edge.pid))
        companion_sizes.append(resident(companion.pid))
    written = {name: await asyncio.to_thread(card.written_bytes) - before[name] for name, card in cards.items()}
    hours = (time.monotonic() - begin_s) / 3600
    outside_hours = hours - (ends.seconds - ends_before[0]) / 3600
    rest_state = (written["state"] - (ends.num_bytes - ends_before[1])) / outside_hours
    at_ends = written["state"] / hours - rest_state + written["end_log"] / hours
    return {
        **memory("edge", edge, edge_sizes),
        **memory("companion", companion, companion_sizes),
        "epochs_per_hour": (len(edge.seen("train.epoch")) - epochs) / hours,
        "checkpoints_per_hour": (len(edge.seen("checkpoint.saved")) - saved) / hours,
        **{f"{name}_mb_per_hour": num_bytes / 1e6 / hours for name, num_bytes in written.items()},
        "epoch_ends_mb_per_hour": at_ends / 1e6,
        "rest_mb_per_hour": (rest_state + written["log"] / hours) / 1e6,
        "cached_mb_per_hour": (cache_written(edge) - cache_before) / 1e6 / hours,
    }


def with_budget(topology: Topology, found: Figures) -> Figures:
    """With what `edged check` says of memory, of what each epoch's end writes, and of the rest beside the cache."""
    models = [training_memory(job, topology.stream(job.stream)) for job in topology.jobs]
    year = edge_writes(topology, topology.edges[0], models, SERVICE_LINES_S)
    return {
        **found,
        "edge_projected_mib": edge_budget(topology, topology.edges[0], models).total / MIB,
        "projected_epoch_ends_mb_per_hour": found["epochs_per_hour"] * year.per_epoch / 1e6,
        "projected_rest_mb_per_hour": (year.log + year.checkpoints) / 1e6 / (365 * 24),
    }


def memory(name: str, child: Child, sizes: Sequence[Mapping[str, float]]) -> Figures:
    """The median of each size, in MiB, and the peak since the start."""
    medians = {f"{name}_{key}_mib": median(each[key] for each in sizes) for key in sizes[0]}
    status = Path(f"/proc/{child.pid}/status").read_text()
    return {**medians, f"{name}_peak_mib": int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024}


def resident(pid: int) -> dict[str, float]:
    """Rss, Pss and what is private, in MiB."""
    rows = dict(re.findall(r"(?m)^(\w+):\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text()))
    private = int(rows["Private_Clean"]) + int(rows["Private_Dirty"])
    return {"rss": int(rows["Rss"]) / 1024, "pss": int(rows["Pss"]) / 1024, "private": private / 1024}


def cache_written(edge: Child) -> int:
    """Bytes that the edge's cache has written, as its last epoch says."""
    lines: list[Any] = edge.seen("cache.epoch")
    return int(lines[-1]["written_bytes"]) if lines else 0


def arguments() -> argparse.Namespace:
    parser = bench_parser(__doc__, f"{QUICK_MINUTES:g} minute of each, which is too short for the journal's part")
    parser.add_argument("--minutes", type=float, help="how long for each example (10)")
    parser.add_argument("--only", type=several(str), help="the beginnings of the examples' names: 01,02")
    given = parser.parse_args()
    given.minutes = given.minutes or (QUICK_MINUTES if given.quick else 10.0)
    return given


def main() -> None:
    given = arguments()
    chosen = [file for file in EXAMPLES if not given.only or file.startswith(tuple(given.only))]
    figures = {}
    with Apache() as broker:
        for file in chosen:
            with tempfile.TemporaryDirectory(prefix="edged-footprint-bench-") as folder:
                figures[file] = found = asyncio.run(measure(file, broker, given.minutes, Path(folder) / "site"))
            print(f"{file}: " + ", ".join(f"{key} {value:.1f}" for key, value in found.items()), flush=True)
    if given.json:
        print(json.dumps({"minutes": given.minutes, "examples": figures}))


if __name__ == "__main__":
    main()
