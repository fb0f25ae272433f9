# ruff: noqa: T201 - a script prints
"""How training together scales: 1, 2, 4 and 8 slow edges on slow links, over real Kafka; beside it PyTorch's DDP.

    python -m tests.bench.exchange [--quick] [--json] [--results FILE.jsonl] [--edges 1,2,4] [--modes …] …

Each edge is a real process that has a share of one CPU, a network of its own and a link of the given width in both
directions. A link's delay is what everything takes on it one way: a broker's answer comes after twice that, and so does
what one rank of PyTorch sends another, by the links of both. Broker and archive node, on the same machine, are not
limited: the edges' shares should leave them a core. All runs train README's model with the same global batch, so
that their updates are the same however many edges there are, but for `ddp`, whose order and first weights are its own.

Samples/s are those of all epochs but the first, in which samples come over the link (ddp has them in memory from the
beginning). Efficiency: to as many times what one edge alone does on the same link and CPU; `beside`: to what as many
edges do that train alone at the same time, mode none, for they too share the machine's caches and memory; `whole`: as
efficiency, but by the clock on the wall, which also counts the tests, checkpoints and agreements between epochs. CPU:
all edges' milliseconds for a sample, everything counted; other work on the machine disturbs it less than it does the
rest. Hits: samples from the edge's own cache, the others come over its link. KB: of one edge for one step, by the log,
and both ways on its link, where everything counts. Accuracies are the bench's own, of checkpoints on all 10,000 test
images. Seconds to the goal count from the start of training and include the tests.

With `--results` each finished run is added to that file, and runs that it holds already are not made again.
"""

import argparse
import asyncio
import json
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import exchange_ddp
from tests.bench.arguments import bench_parser, several
from tests.bench.cpu_limit import how
from tests.bench.exchange_ddp import DDP
from tests.bench.exchange_site import ALONE, Conditions, Setting, Site, site
from tests.bench.network import Network, link_name, network, read_link
from tests.bench.trainer import machine

MODES = (ALONE, "all_reduce", "parameter_server", DDP)
COMPRESSIONS = ("none", "fp16", "int8", "top_k")
MAX_IMAGES = 60_000

Run = Mapping[str, Any]


def settings(given: argparse.Namespace) -> Iterator[Setting]:
    """The runs: for each link what one edge does alone, and one rank; then the groups, from the smallest."""
    links: Sequence[tuple[float, float]] = given.links
    for seed in range(given.seeds):
        for link in links:
            yield Setting(ALONE, 1, "none", 1, *link, seed)
            if DDP in given.modes:
                yield Setting(DDP, 1, "none", 1, *link, seed)
            for edges in sorted(given.edges):
                for mode in given.modes:
                    if edges > 1 or mode not in {ALONE, DDP}:
                        yield from _of_mode(given, mode, edges, link, seed)


def _of_mode(
    given: argparse.Namespace, mode: str, edges: int, link: tuple[float, float], seed: int
) -> Iterator[Setting]:
    # A group of one has nobody to save bytes for: it shows what the log itself costs, and what the others should learn.
    for compression in given.compression if edges > 1 and mode != ALONE else ["none"]:
        if mode == DDP:
            if compression in exchange_ddp.COMPRESSIONS:
                yield Setting(mode, edges, compression, 1, *link, seed)
        else:
            for sync_every in given.sync_every if mode != ALONE else [1]:
                yield Setting(mode, edges, compression, sync_every, *link, seed)


async def measure(
    wanted: Sequence[Setting], conditions: Conditions, results: Path | None, folder: Path, net: Network
) -> list[Run]:
    """Those runs, from the file of results or made now, and the others that are there under these conditions."""
    runs = [run for run in _known(results) if run["conditions"] == asdict(conditions)]
    missing = [each for each in wanted if not any(run["setting"] == asdict(each) for run in runs)]
    async with AsyncExitStack() as stack:
        made: Site | None = None
        for each in missing:
            begin = time.monotonic()
            if each.mode == DDP:
                run = await exchange_ddp.run(each, conditions, net, folder)
            else:
                if made is None:
                    made = await stack.enter_async_context(site(folder, conditions, net))
                run = await made.run(each)
            run |= {"setting": asdict(each), "conditions": asdict(conditions), "took_s": time.monotonic() - begin}
            report(run)
            if "failed" in run:
                continue
            runs.append(run)
            if results is not None:
                with results.open("a") as file:
                    file.write(json.dumps(run) + "\n")
    return runs


def _known(results: Path | None) -> list[Run]:
    if results is None or not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def report(run: Run) -> None:
    """A line for a run that is over, and what its log held that should not be there."""
    setting = Setting(**run["setting"])
    link = link_name(setting.link, setting.delay_ms)
    name = f"{setting.mode:16} {setting.edges} × {setting.compression:5} H {setting.sync_every:<3} {link:>18}"
    if "failed" in run:
        print(f"{name}: failed after {run['took_s']:.0f} s: {run['failed']}", flush=True)
        return
    accuracies = " ".join(f"{epoch['test_accuracy']:.4f}" for epoch in run["epochs"])
    print(
        f"{name}: {run['took_s']:4.0f} s, {samples_per_s(run):6.0f} samples/s, accuracy {accuracies}"
        f"{'' if run['same_weights'] else ', WEIGHTS DIFFER'}",
        flush=True,
    )
    for defect in run["defects"]:
        print(f"  defect: {defect}")


def steady(run: Run) -> Sequence[Mapping[str, Any]]:
    """The epochs that are measured: all but the first, if there are others."""
    epochs: Sequence[Mapping[str, Any]] = run["epochs"]
    return epochs[1:] or epochs


def samples_per_s(run: Run, seconds: str = "seconds") -> float:
    """Of the whole group, in the epochs that are measured. `seconds`: the figure of an epoch that is its length."""
    samples = float(sum(epoch["samples"] for epoch in steady(run)))
    return samples / float(sum(epoch[seconds] for epoch in steady(run)))


HEADS = (
    "link", "mode", "compression", "H", "edges", "samples/s", "efficiency", "beside", "whole", "CPU ms", "hits",
    "KB/step", "link KB/step", "step ms", "comm", "missed", "accuracy", "s to goal", "weights",
)  # fmt: skip


def table(runs: Sequence[Run]) -> str:
    """A row for each setting; means over its seeds."""
    keys = dict.fromkeys(_key(run) for run in sorted(runs, key=_order))
    rows = [HEADS, *(_row([run for run in runs if _key(run) == key], runs) for key in keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _key(run: Run) -> tuple[Any, ...]:
    return tuple(value for name, value in run["setting"].items() if name != "seed")


def _order(run: Run) -> tuple[Any, ...]:
    setting = run["setting"]
    link, mode = (-setting["link"], setting["delay_ms"]), MODES.index(setting["mode"])
    return link, mode, setting["sync_every"], COMPRESSIONS.index(setting["compression"]), setting["edges"]


def _row(same: Sequence[Run], runs: Sequence[Run]) -> tuple[str, ...]:
    setting = Setting(**same[0]["setting"])

    def mean(key: str, scale: float = 1.0, digits: int = 1) -> str:
        values = [epoch[key] for run in same for epoch in steady(run) if epoch[key] is not None]
        return f"{statistics.mean(values) * scale:.{digits}f}" if values else ""

    link_kb = [epoch["link_bytes"] / epoch["steps"] / 1e3 for run in same for epoch in steady(run) if epoch["steps"]]
    per_cpu_s = [samples_per_s(run, "cpu_s") for run in same]
    reached = [run["goal_seconds"] for run in same if run["goal_seconds"] is not None]

    def efficient(seconds: str, beside: int = 1) -> str:
        found = [each for run in same if (each := efficiency(run, runs, seconds, beside)) is not None]
        return f"{statistics.mean(found):.3f}" if found else ""

    return (
        link_name(setting.link, setting.delay_ms), setting.mode, setting.compression, str(setting.sync_every),
        str(setting.edges),
        f"{statistics.mean(map(samples_per_s, same)):.0f}",
        efficient("seconds"), efficient("seconds", beside=setting.edges), efficient("wall_s"),
        f"{1e3 / statistics.mean(per_cpu_s):.2f}",
        mean("hit_ratio", digits=3),
        mean("bytes_per_step", 1e-3), f"{statistics.mean(link_kb):.1f}" if link_kb else "", mean("step_ms"),
        mean("comm_fraction", digits=3), _missed(same),
        f"{statistics.mean(run['epochs'][-1]['test_accuracy'] for run in same):.4f}",
        f"{statistics.mean(reached):.1f}" if len(reached) == len(same) else "not reached",
        "same" if all(run["same_weights"] for run in same) else "DIFFER",
    )  # fmt: skip


def _missed(same: Sequence[Run]) -> str:
    """Gradients that were not in time, in all epochs: with any, the runs' updates are not the same."""
    missed = [sum(epoch["missed"] or 0 for epoch in run["epochs"]) for run in same]
    return f"{statistics.mean(missed):g}"


def efficiency(run: Run, runs: Sequence[Run], seconds: str, beside: int = 1) -> float | None:
    """Samples/s of an edge to those of a single edge (for ddp: rank), or None without such a run.

    `beside`: how many single edges trained at the same time.
    """
    setting = run["setting"]
    mode = DDP if setting["mode"] == DDP else ALONE
    single = setting | {"mode": mode, "edges": beside, "compression": "none", "sync_every": 1}
    alone = next((each for each in runs if each["setting"] == single), None)
    if alone is None:
        return None
    edges: int = setting["edges"]
    return samples_per_s(run, seconds) / edges * beside / samples_per_s(alone, seconds)


def arguments() -> argparse.Namespace:
    parser = bench_parser(__doc__, "a minute or two: 4,000 images, two edges, one link")
    parser.add_argument("--edges", type=several(int), metavar="N,…", help="how many (1,2,4,8)")
    parser.add_argument("--modes", type=several(str), metavar="A,B,…", help=", ".join(MODES))
    parser.add_argument("--compression", type=several(str), metavar="A,B,…", help=", ".join(COMPRESSIONS))
    parser.add_argument("--sync-every", type=several(int), default=[1], metavar="H,…", help="steps of a round (1)")
    parser.add_argument(
        "--links", type=several(read_link), metavar="MBIT/MS,…",
        help="of an edge: Mbit/s, 0 for all that there is, and one way's milliseconds if any (94/0.3,20/3)",
    )  # fmt: skip
    parser.add_argument("--cores", type=float, help="of an edge, a share of one CPU; 0: all (0.2)")
    parser.add_argument("--images", type=int, help=f"of training ({MAX_IMAGES})")
    parser.add_argument("--epochs", type=int, help="(4)")
    parser.add_argument("--batch", type=int, default=512, help="the global batch (512)")
    parser.add_argument("--reference-batch", type=int, default=128, help="that the learning rate is meant for (128)")
    parser.add_argument("--learning-rate", type=float, default=0.025, help="of stochastic gradient descent (0.025)")
    parser.add_argument("--warmup", type=float, default=1.0, help="epochs (1)")
    parser.add_argument("--goal", type=float, default=0.9, help="the accuracy whose seconds are told (0.9)")
    parser.add_argument("--checkpoint", type=float, default=10.0, help="seconds between measured checkpoints (10)")
    parser.add_argument("--seeds", type=int, default=1, help="how many: 0, 1, … (1)")
    parser.add_argument("--results", type=Path, help="a file of runs to add to")
    parser.add_argument("--logs", type=Path, help="an empty folder to keep topologies and logs in")
    given = parser.parse_args()
    quick = given.quick
    given.edges = given.edges or ([1, 2] if quick else [1, 2, 4, 8])
    given.modes = given.modes or ([ALONE, "all_reduce", DDP] if quick else [*MODES])
    given.compression = given.compression or (["none", "int8"] if quick else [*COMPRESSIONS])
    given.links = given.links or ([(94e6, 0.3)] if quick else [(94e6, 0.3), (20e6, 3.0)])
    given.images = given.images or (4_000 if quick else MAX_IMAGES)
    given.epochs = given.epochs or (2 if quick else 4)
    given.cores = given.cores if given.cores is not None else (0.4 if quick else 0.2)
    return given


def main() -> None:
    """Measure what the arguments ask for, and show it."""
    given = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that networks and groups are taken down then, too
    conditions = Conditions(
        images=given.images, epochs=given.epochs, batch=given.batch, cores=given.cores, goal=given.goal,
        learning_rate=given.learning_rate, reference_batch=given.reference_batch, warmup=given.warmup,
        checkpoint_s=given.checkpoint,
    )  # fmt: skip
    print(machine())
    with tempfile.TemporaryDirectory(prefix="edged-exchange-bench-") as temporary, network(max(given.edges)) as net:
        print(f"{how() if given.cores else 'CPU not limited'}; {net.how}", flush=True)
        if DDP in given.modes and (reason := exchange_ddp.why_not(net)) is not None:
            print(f"without {DDP}: {reason}")
            given.modes.remove(DDP)
        folder = given.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        runs = asyncio.run(measure([*settings(given)], conditions, given.results, folder, net))
    print(
        f"{given.images} images, {given.epochs} epochs, global batch {given.batch}, {given.cores:g} cores an edge, "
        f"goal {given.goal:g}"
    )
    print(table(runs))
    if given.json:
        print(json.dumps(runs))


if __name__ == "__main__":
    main()
