# ruff: noqa: T201 - a script prints
"""How far a group of edges scales: a model on paper and a simulation, held to what was measured.

    python -m tests.bench.scale_model [--quick] [--json] [--measured FILE] [--edges 8,64,512] [--jobs 1,4] …

`--measured` is a file of `exchange`'s, from `--results` or the output with `--json`. What a sample costs is what the
edge alone took; what a gradient that is read costs, and each exchange besides, is fitted to the groups but for the
largest, which the model then has to foresee. Without it the costs are those given.

Each edge has `--per-edge` samples of the global batch, so that this grows with the group: how large a batch still
learns well is not the model's subject. Nor are deadlines, late gradients, and whatever else comes over the links:
images that are in no cache, checkpoints, Kafka's own words.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench import scale_simulation
from tests.bench.arguments import bench_parser, several
from tests.bench.network import link_name, read_link
from tests.bench.scale_paper import (
    Costs,
    Exchange,
    Machines,
    efficiency,
    gradient_bytes,
    max_edges,
    min_sync,
    step,
    update_bytes,
)

EFFICIENT = 0.9
"""A group that does less should be another one."""

_GRADIENT_S, _EXCHANGE_S = 0.05, 0.5
"""Beyond these no cost is sought."""

_MAX_SIMULATED = 100_000
"""Records read in an exchange by all members of all jobs."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A group's run. `step_s`: seconds of a global batch; `link_bytes`: of an exchange on an edge's link, both ways."""

    machines: Machines
    exchange: Exchange
    step_s: float
    link_bytes: float


def measured(runs: Sequence[Mapping[str, Any]]) -> tuple[float, list[Measured]]:
    """What a sample costs, and the groups of these runs of `exchange`. Raises ValueError without an edge alone."""
    alone = [run["setting"]["edges"] / _samples_per_s(run) for run in runs if run["setting"]["mode"] == "none"]
    if not alone:
        raise ValueError("no run of one edge alone is among what was measured")
    return sum(alone) / len(alone), [_measured(run) for run in runs if run["setting"]["mode"] not in {"none", "ddp"}]


def _samples_per_s(run: Mapping[str, Any]) -> float:
    epochs = run["epochs"][1:] or run["epochs"]
    return float(sum(epoch["samples"] for epoch in epochs) / sum(epoch["seconds"] for epoch in epochs))


def _measured(run: Mapping[str, Any]) -> Measured:
    setting, conditions = run["setting"], run["conditions"]
    machines = Machines(
        setting["edges"], setting["link"], cpu=1 / (conditions["cores"] or 1.0), delay_s=setting["delay_ms"] / 1e3
    )  # fmt: skip
    exchange = Exchange(setting["mode"], conditions["batch"], setting["compression"], setting["sync_every"])
    last = run["epochs"][-1]
    exchanges = last["samples"] / conditions["batch"] / setting["sync_every"]
    return Measured(machines, exchange, conditions["batch"] / _samples_per_s(run), last["link_bytes"] / exchanges)


def fitted(sample_s: float, groups: Sequence[Measured]) -> Costs:
    """The costs with which the model's steps are nearest to the measured ones, in the squares of their ratios' logs.

    On a grid that is made finer around the best of it; so every formula will do, and no cost is negative.
    """
    best, width = (_GRADIENT_S / 2, _EXCHANGE_S / 2), (_GRADIENT_S / 2, _EXCHANGE_S / 2)
    for _ in range(8):
        candidates = [
            Costs(sample_s, max(best[0] + i / 5 * width[0], 0.0), max(best[1] + j / 5 * width[1], 0.0))
            for i in range(-5, 6)
            for j in range(-5, 6)
        ]
        chosen = min(candidates, key=lambda costs: _error(costs, groups))
        best, width = (chosen.gradient_s, chosen.exchange_s), (width[0] / 3, width[1] / 3)
    return Costs(sample_s, *best)


def _error(costs: Costs, groups: Sequence[Measured]) -> float:
    return sum(math.log(step(each.machines, costs, each.exchange).seconds / each.step_s) ** 2 for each in groups)


def foreseen(groups: Sequence[Measured]) -> tuple[list[Measured], list[Measured]]:
    """The groups to fit to, and those to foresee: the largest, if there are smaller ones."""
    largest = max(each.machines.edges for each in groups)
    smaller = [each for each in groups if each.machines.edges < largest]
    return smaller or [*groups], [each for each in groups if each.machines.edges == largest] if smaller else []


def validation(costs: Costs, groups: Sequence[Measured], held_out: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """What the model says of each group that was measured, to what it was."""
    for each in sorted(groups, key=_order):
        paper = step(each.machines, costs, each.exchange)
        simulated = scale_simulation.step_s(each.machines, costs, each.exchange)
        yield {
            "mode": each.exchange.mode, "compression": each.exchange.compression, "H": each.exchange.sync_every,
            **_link(each.machines), "edges": each.machines.edges, "measured_ms": 1e3 * each.step_s,
            "paper": paper.seconds / each.step_s, "simulation": simulated / each.step_s,
            "link_kb": each.link_bytes / 1e3, "bytes": paper.edge_bytes / each.link_bytes,
            "held_out": each in held_out,
        }  # fmt: skip


def _order(group: Measured) -> tuple[Any, ...]:
    machines = group.machines
    return group.exchange.mode, -machines.edge_link, machines.delay_s, machines.edges


def _link(machines: Machines) -> dict[str, float]:
    return {"mbit": machines.edge_link / 1e6, "delay_ms": 1e3 * machines.delay_s}


@dataclass(frozen=True, slots=True)
class Design:
    """A way to train together, and the brokers that it takes."""

    name: str
    exchange: Exchange
    brokers: int = 1


def designs(servers: int, sync_every: int) -> list[Design]:
    """What is compared. The batch is set for each group."""
    several = Exchange("parameter_server", 0, "int8", servers=servers)
    return [
        Design("all_reduce none", Exchange("all_reduce", 0)),
        Design("all_reduce int8", Exchange("all_reduce", 0, "int8")),
        Design("all_reduce top_k", Exchange("all_reduce", 0, "top_k")),
        Design("server none", Exchange("parameter_server", 0)),
        Design("server int8", Exchange("parameter_server", 0, "int8")),
        Design(f"{servers} servers int8", several),
        Design(f"{servers} servers and brokers int8", several, servers),
        Design(f"all_reduce int8, H {sync_every}", Exchange("all_reduce", 0, "int8", sync_every)),
        Design(f"server int8, H {sync_every}", Exchange("parameter_server", 0, "int8", sync_every)),
    ]


def predictions(given: argparse.Namespace, costs: Costs, compared: Sequence[Design]) -> Iterator[dict[str, Any]]:
    """Each design for each link, number of jobs and number of edges."""
    for link, delay_ms in given.links:
        for jobs in given.jobs:
            for edges in given.edges:
                machines = Machines(edges, link, 1e6 * given.broker, delay_s=delay_ms / 1e3)
                for design in compared:
                    yield _prediction(given, costs, design, machines, jobs)


def _prediction(
    given: argparse.Namespace, costs: Costs, design: Design, machines: Machines, jobs: int
) -> dict[str, Any]:
    machines = replace(machines, brokers=design.brokers, cpu=given.server_cpu, server_link=1e6 * given.broker)
    exchange = replace(design.exchange, batch=given.per_edge * machines.edges)
    found = step(machines, costs, exchange, jobs)
    records = jobs * scale_simulation.records_read(machines.edges, exchange)
    affordable = records <= _MAX_SIMULATED and not given.quick
    simulated = scale_simulation.step_s(machines, costs, exchange, jobs=jobs) if affordable else None
    return {
        **_link(machines), "jobs": jobs, "edges": machines.edges, "design": design.name,
        "step_ms": 1e3 * found.seconds, "simulated_ms": None if simulated is None else 1e3 * simulated,
        "efficiency": jobs * efficiency(found, costs, machines, exchange.batch), "comm": found.comm_fraction,
        "broker_in": found.broker_in_rate, "broker_out": found.broker_out_rate, "edge": found.edge_rate,
        "exchange_bytes": (gradient_bytes(exchange), update_bytes(exchange)),
    }  # fmt: skip


def limits(given: argparse.Namespace, costs: Costs, compared: Sequence[Design]) -> Iterator[dict[str, Any]]:
    """How large a group of each design may be, and in what rounds it would have to train at each of the sizes."""
    for link, delay_ms in given.links:
        for design in compared:
            machines = Machines(
                1, link, 1e6 * given.broker, 1e6 * given.broker, design.brokers, given.server_cpu, delay_ms / 1e3
            )
            exchange = design.exchange
            yield {
                **_link(machines), "design": design.name,
                "max_edges": max_edges(EFFICIENT, machines, costs, exchange, given.per_edge),
                "min_sync": {
                    edges: min_sync(
                        EFFICIENT, replace(machines, edges=edges), costs,
                        replace(exchange, batch=given.per_edge * edges, sync_every=1),
                    )
                    for edges in given.edges
                },
            }  # fmt: skip


VALIDATION_HEADS = (
    "link", "mode", "compression", "H", "edges", "measured ms", "paper", "simulation", "measured KB", "paper", ""
)  # fmt: skip
PREDICTION_HEADS = (
    "link", "jobs", "edges", "design", "step ms", "simulated", "efficiency", "comm", "in", "out", "edge"
)  # fmt: skip


def show(report: Mapping[str, Any]) -> None:
    """All tables."""
    costs = report["costs"]
    print(
        f"an edge: {1 / costs['sample_s']:.0f} samples/s alone, {1e3 * costs['gradient_s']:.2f} ms for a gradient that "
        f"it reads, {1e3 * costs['exchange_s']:.1f} ms for an exchange besides"
    )
    if report["validation"]:
        print("\nmodel to measured: milliseconds of a step, KB of an exchange on an edge's link; * was not fitted to")
        print(_table(VALIDATION_HEADS, map(_validation_row, report["validation"])))
    print(f"\n{report['per_edge']} samples an edge and step; MB/s: the broker's in and out, an edge's both ways")
    print(_table(PREDICTION_HEADS, map(_prediction_row, report["predictions"])))
    print(f"\nwith an efficiency of {EFFICIENT:g}: the most edges (of powers of two), and the shortest rounds")
    sizes = (f"H at {edges}" for edges in report["limits"][0]["min_sync"])
    print(_table(("link", "design", "most edges", *sizes), map(_limit_row, report["limits"])))


def _validation_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _link_name(row), row["mode"], row["compression"], str(row["H"]), str(row["edges"]),
        f"{row['measured_ms']:.0f}", f"{row['paper']:.2f}", f"{row['simulation']:.2f}",
        f"{row['link_kb']:.0f}", f"{row['bytes']:.2f}", "*" if row["held_out"] else "",
    )  # fmt: skip


def _prediction_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    simulated = row["simulated_ms"]
    return (
        _link_name(row), str(row["jobs"]), str(row["edges"]), row["design"], f"{row['step_ms']:.0f}",
        "" if simulated is None else f"{simulated:.0f}", f"{row['efficiency']:.3f}", f"{row['comm']:.2f}",
        *(f"{row[key] / 1e6:.2f}" for key in ("broker_in", "broker_out", "edge")),
    )  # fmt: skip


def _limit_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    syncs = (str(value) if value is not None else "never" for value in row["min_sync"].values())
    return (_link_name(row), row["design"], str(row["max_edges"] or "none"), *syncs)


def _link_name(row: Mapping[str, Any]) -> str:
    return link_name(1e6 * row["mbit"], row["delay_ms"])


def _table(heads: Sequence[str], rows: Any) -> str:
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def read_runs(path: Path) -> list[Mapping[str, Any]]:
    """The runs of a file of results, or of an output that ends with them."""
    lines = path.read_text().splitlines()
    last = json.loads(lines[-1])
    return last if isinstance(last, list) else [json.loads(line) for line in lines]


def arguments() -> argparse.Namespace:
    parser = bench_parser(__doc__, "on paper alone, without simulating the large groups")
    parser.add_argument("--measured", type=Path, help="runs of tests.bench.exchange to calibrate by")
    parser.add_argument("--edges", type=several(int), default=[8, 64, 512], metavar="N,…", help="(8,64,512)")
    parser.add_argument(
        "--links", type=several(read_link), default=[(94e6, 0.3), (20e6, 3.0)], metavar="MBIT/MS,…",
        help="an edge's Mbit/s and one way's milliseconds (94/0.3,20/3)",
    )  # fmt: skip
    parser.add_argument("--jobs", type=several(int), default=[1, 4], metavar="N,…", help="at the same time (1,4)")
    parser.add_argument("--per-edge", type=int, default=64, help="samples of a step on each edge (64)")
    parser.add_argument("--broker", type=float, default=1000.0, help="Mbit/s of the broker and of a server (1000)")
    parser.add_argument("--servers", type=int, default=4, help="when there are several (4)")
    parser.add_argument("--sync-every", type=int, default=16, help="steps of a round, where there are rounds (16)")
    parser.add_argument("--server-cpu", type=float, default=5.0, help="a server's speed, to an edge's (5)")
    parser.add_argument("--samples-per-s", type=float, default=700.0, help="of an edge alone (700)")
    parser.add_argument("--gradient-ms", type=float, default=2.0, help="that an edge takes to read a gradient (2)")
    parser.add_argument("--exchange-ms", type=float, default=10.0, help="that an exchange takes besides (10)")
    return parser.parse_args()


def main() -> None:
    """Calibrate, compare with what was measured, and foresee."""
    given = arguments()
    costs, compared = Costs(1 / given.samples_per_s, 1e-3 * given.gradient_ms, 1e-3 * given.exchange_ms), []
    if given.measured is not None:
        sample_s, groups = measured(read_runs(given.measured))
        fit, held_out = foreseen(groups)
        costs = fitted(sample_s, fit)
        compared = [*validation(costs, groups, held_out)]
    ways = designs(given.servers, given.sync_every)
    report = {
        "costs": asdict(costs), "per_edge": given.per_edge, "validation": compared,
        "predictions": [*predictions(given, costs, ways)], "limits": [*limits(given, costs, ways)],
    }  # fmt: skip
    show(report)
    if given.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
