# ruff: noqa: T201 - a script prints
"""What each way to sample from the cache costs and gains: Fashion-MNIST over real Kafka and a slow link.

    python -m tests.bench.cache [--quick | --wide] [--json] [--figure FILE.svg] [--results FILE.jsonl] …

An edge trains README's model as a real process, once for each mode, cache fraction and seed, from empty folders.
Its link to Kafka lets `--rate` bytes a second through; the archive node, on the same machine, has none. Accuracies are
the bench's own, of the checkpoints on all 10,000 test images; the edge itself tests on 500, so that held-out samples
hardly load the link. `thesis` has no cache: each epoch is fetched again. Seconds count from the start of training.

With `--results` each finished run is added to that file, and runs that it holds already are not made again: a long
bench can be made in parts. The table and the figure are of all runs in it.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edged.domain.topology import MIB, Edge
from tests.bench.arguments import bench_parser, several
from tests.bench.cache_figure import figure
from tests.bench.cache_site import NUM_TRAINING, THESIS, Conditions, Setting, site
from tests.bench.sampling_study import SAMPLE_BYTES
from tests.bench.trainer import machine

MODES = (THESIS, "lru", "no_evict", "shade", "icache", "stratified", "importance")
FRACTIONS = (0.1, 0.35, 0.75)
RATE = 0.45e6
"""About a quarter of what the trainer of a machine with two cores takes: 3,000 samples of 570 bytes, compressed."""

QUICK_PREFETCH = 4 * MIB
"""So that few images are several windows, too."""

WIDE = 3.0
"""How much more than the trainer takes, `--wide` lets through."""

NUM_WIDE_EPOCHS = 3

Run = Mapping[str, Any]


def settings(modes: Sequence[str], fractions: Sequence[float], seeds: int) -> Iterator[Setting]:
    """The runs, all modes of one seed first: what is made before a break can be compared."""
    for seed in range(seeds):
        for i, fraction in enumerate(fractions):
            for mode in modes:
                if mode != THESIS:
                    yield Setting(mode, fraction, seed)
                elif i == 0:
                    yield Setting(mode, 0.0, seed)


async def measure(wanted: Sequence[Setting], conditions: Conditions, results: Path | None, kept: Path) -> list[Run]:
    """Those runs, from the file of results or made now, and the others that are there under these conditions."""
    runs = [run for run in _known(results) if _fits(run, conditions)]
    missing = [each for each in wanted if not any(_is(run, each) for run in runs)]
    if not missing:
        return runs
    async with site(kept, conditions) as bench:
        for each in missing:
            begin = time.monotonic()
            run = await bench.run(each)
            runs.append({**run, "took_s": time.monotonic() - begin})
            if results is not None:
                with results.open("a") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
            report(runs[-1])
    return runs


def _known(results: Path | None) -> list[Run]:
    if results is None or not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def _fits(run: Run, conditions: Conditions) -> bool:
    same = ("wrong_labels", "rate", "images", "memory_only", "goal", "cores")
    return all(run[key] == getattr(conditions, key) for key in same) and len(run["epochs"]) == conditions.epochs


def _is(run: Run, setting: Setting) -> bool:
    return (run["mode"], run["fraction"], run["seed"]) == (setting.mode, setting.fraction, setting.seed)


async def measure_wide(conditions: Conditions, kept: Path) -> dict[str, float]:
    """How near the trainer comes to its speed in memory when the link is three times as wide as that takes."""
    in_memory = replace(conditions, epochs=NUM_WIDE_EPOCHS, memory_only=True, rate=1e9, checkpoint_s=86_400)
    (kept / "in-memory").mkdir()
    async with site(kept / "in-memory", in_memory) as bench:
        cached = (await bench.run(Setting("no_evict", 1.1, 0)))["epochs"][-1]
    rate = WIDE * cached["samples_per_s"] * SAMPLE_BYTES
    (kept / "wide").mkdir()
    async with site(kept / "wide", replace(in_memory, rate=rate)) as bench:
        streamed = (await bench.run(Setting(THESIS, 0.0, 0)))["epochs"][-1]
    return {
        "rate": rate,
        "in_memory_samples_per_s": cached["samples_per_s"],
        "in_memory_hit_ratio": cached["hit_ratio"],
        "streamed_samples_per_s": streamed["samples_per_s"],
        "streamed_wait_fraction": streamed["wait_fraction"],
        "share_of_speed": streamed["samples_per_s"] / cached["samples_per_s"],
    }


def report(run: Run) -> None:
    """A line for a run that is over, and what its log held that should not be there."""
    accuracies = " ".join(f"{epoch['test_accuracy']:.4f}" for epoch in run["epochs"])
    print(
        f"{run['mode']:17} c {run['fraction']:4.2f} seed {run['seed']}: {run['took_s']:4.0f} s, accuracy {accuracies}"
    )
    for defect in run["defects"]:
        print(f"  defect: {defect}")


HEADS = (
    "cached", "mode", "seeds", "hits", "fresh", "distinct", "MB/epoch", "last", "link", "samples/s", "wait",
    "accuracy", "±", "MB to goal", "s to goal", "MB written",
)  # fmt: skip


def table(runs: Sequence[Run]) -> str:
    """Means over seeds, and of the last epoch but for these: bytes of all epochs, by log and by link, and samples/s."""
    keys = sorted({(run["fraction"], run["mode"]) for run in runs}, key=lambda key: (key[0], MODES.index(key[1])))
    rows = [HEADS, *(_row([run for run in runs if (run["fraction"], run["mode"]) == key]) for key in keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _row(runs: Sequence[Run]) -> tuple[str, ...]:
    last = [run["epochs"][-1] for run in runs]

    def mean(key: str) -> float:
        return statistics.mean(float(epoch[key]) for epoch in last)

    def over_all(key: str) -> float:
        return statistics.mean(float(epoch[key]) for run in runs for epoch in run["epochs"])

    seconds = sum(epoch["seconds"] for run in runs for epoch in run["epochs"])
    samples = sum(epoch["samples"] for run in runs for epoch in run["epochs"])
    accuracies = [epoch["test_accuracy"] for epoch in last]
    return (
        f"{runs[0]['fraction']:g}", runs[0]["mode"], str(len(runs)), f"{mean('hit_ratio'):.3f}",
        f"{mean('fresh_hit_ratio'):.3f}", f"{mean('distinct_samples') / runs[0]['images']:.3f}",
        f"{over_all('fetched_bytes') / 1e6:.1f}", f"{mean('fetched_bytes') / 1e6:.1f}",
        f"{over_all('link_bytes') / 1e6:.1f}", f"{samples / seconds:.0f}", f"{mean('wait_fraction'):.3f}",
        f"{statistics.mean(accuracies):.4f}", f"{statistics.stdev(accuracies):.4f}" if len(runs) > 1 else "",
        _reached(runs, "goal_bytes", 1e6), _reached(runs, "goal_seconds", 1.0), f"{mean('written_bytes') / 1e6:.1f}",
    )  # fmt: skip


def _reached(runs: Sequence[Run], key: str, unit: float) -> str:
    """The mean over the runs that came so far, and how many did when not all."""
    reached = [run[key] / unit for run in runs if run[key] is not None]
    if not reached:
        return "not reached"
    return f"{statistics.mean(reached):.1f}" + (
        "" if len(reached) == len(runs) else f" ({len(reached)} of {len(runs)})"
    )


def arguments() -> argparse.Namespace:
    parser = bench_parser(__doc__, "a minute or two: 10,000 images, three modes")
    parser.add_argument("--wide", action="store_true", help="a wide link against everything in memory, nothing else")
    parser.add_argument("--modes", type=several(str), metavar="A,B,…", help=", ".join(MODES))
    parser.add_argument("--fractions", type=several(float), metavar="C,…")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, … (3)")
    parser.add_argument("--epochs", type=int, help="(10)")
    parser.add_argument("--images", type=int, help=f"of training ({NUM_TRAINING})")
    parser.add_argument("--rate", type=float, default=RATE, help=f"the link's bytes a second ({RATE:.0f})")
    parser.add_argument("--goal", type=float, default=0.9, help="the accuracy whose bytes and seconds are told (0.9)")
    parser.add_argument("--wrong-labels", type=float, default=0.0, help="share of wrong training labels (0)")
    parser.add_argument("--checkpoint", type=float, default=10.0, help="seconds between measured checkpoints (10)")
    parser.add_argument("--cores", type=float, default=0.0, help="what the edge may take of them; 0: all (0)")
    parser.add_argument("--memory-only", action="store_true", help="no disk tier")
    parser.add_argument("--results", type=Path, help="a file of runs to add to")
    parser.add_argument("--figure", type=Path, help="an SVG to draw: accuracy against bytes and seconds")
    parser.add_argument("--logs", type=Path, help="an empty folder to keep topologies and logs in")
    given = parser.parse_args()
    quick = given.quick
    given.modes = given.modes or ([THESIS, "no_evict", "stratified"] if quick else list(MODES))
    given.fractions = given.fractions or ([0.35] if quick else list(FRACTIONS))
    given.seeds = 1 if quick else given.seeds
    given.epochs = given.epochs or (3 if quick else 10)
    given.prefetch = QUICK_PREFETCH if quick else Edge("").prefetch
    given.images = given.images or (10_000 if quick else NUM_TRAINING)
    return given


def main() -> None:
    """Measure what the arguments ask for, and show it."""
    given = arguments()
    conditions = Conditions(
        images=given.images, epochs=given.epochs, rate=given.rate, wrong_labels=given.wrong_labels, goal=given.goal,
        checkpoint_s=given.checkpoint, memory_only=given.memory_only, cores=given.cores,
        prefetch=given.prefetch,
    )  # fmt: skip
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="edged-cache-bench-") as temporary:
        folder = given.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.wide:
            figures: Any = asyncio.run(measure_wide(conditions, folder))
            print("\n".join(f"{name.replace('_', ' '):28}{value:14.4f}" for name, value in figures.items()))
        else:
            wanted = [*settings(given.modes, given.fractions, given.seeds)]
            figures = asyncio.run(measure(wanted, conditions, given.results, folder))
            print(f"{given.images} images, {given.epochs} epochs, {given.rate / 1e6:g} MB/s, goal {given.goal:g}")
            print(table(figures))
            if given.figure is not None:
                given.figure.write_text(figure(figures, given.goal, THESIS))
    if given.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
