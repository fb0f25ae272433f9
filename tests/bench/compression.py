"""What compressed gradients cost in accuracy and save in bytes: Fashion-MNIST, a group's members in one process.

    python -m tests.bench.compression [--quick] [--json] [--images 24000 --epochs 3] [--seeds 3] [--processes 2]
        [--only int8,top_k:0.05] [--results FILE.jsonl]

Each member computes, compresses and keeps what it leaves out as on an edge (services.round); their gradients pass a
group's log that is held in memory, and what it comes to is folded as all members do. Steps close with all gradients.
What links, brokers and late members do to training is another bench's subject (`exchange`, `tests/faults`).

Payload: bytes of one member for one step. Points: by how many the test accuracy, on all 10,000 test images, is below
that of `none` with the same seed; the first weights, order and shares of samples are the same with the same seed. With
`--results` each finished run is added to that file, and runs that it holds already are not made again.
"""

# ruff: noqa: T201 - a script prints

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from edged.adapters.host.blas import single_threaded_blas
from edged.domain.group import compression, gradient_log, state
from edged.domain.group import step as group_step
from edged.domain.group.records import Begin, Join, Part, Record
from edged.domain.group.state import Closed, Rules, State
from edged.domain.nn import param_vector
from edged.domain.nn.model import Model
from edged.domain.topology import Compression, Cosine, Exchange, Sgd, Training
from edged.domain.training.learner import Learner
from edged.services.batches.batcher import MiniBatch
from edged.services.group.contribution import ContributionMaker, PendingGradient
from tests.bench.accuracy import FASHION
from tests.bench.arguments import bench_parser, several
from tests.bench.sampling_study import Data, read
from tests.bench.trainer import machine

JOB = "0" * 64
SHAPE = (28, 28, 1)
SETTINGS = ("none", "fp16", "int8", "top_k:0.01", "top_k:0.02", "top_k:0.05", "top_k:0.1")
"""What is measured by default: a compression, and the share of top_k."""

Run = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all runs have in common."""

    images: int
    epochs: int
    members: int
    batch: int
    learning_rate: float
    reference_batch: int
    warmup: float

    def training(self, setting: str, seed: int) -> Training:
        """The job of a run."""
        kind, _, share = setting.partition(":")
        if kind not in get_args(Compression):
            raise ValueError(f"no compression is called {kind!r}")
        exchange = Exchange("all_reduce", kind)  # type: ignore[arg-type]  # it is one of them
        return Training(
            "fashion",
            FASHION.model,
            seed=seed,
            epochs=self.epochs,
            global_batch=self.batch,
            reference_batch=self.reference_batch,
            optimizer=Sgd(self.learning_rate, 0.9),
            schedule=Cosine(warmup=self.warmup),
            exchange=replace(exchange, top_k=float(share)) if share else exchange,
        )


class Group:
    """Members that train one model together, and the log between them."""

    def __init__(self, training: Training, num_members: int) -> None:
        self.edges = tuple(f"edge-{i}" for i in range(num_members))
        self.learner = Learner(training, Model(SHAPE, training.model))
        self.state = self.learner.initial(JOB)
        self._training = training
        n = param_vector.size(self.state.params)
        self._rules = Rules(frozenset(self.edges), JOB, n, partial(compression.decompress, n=n))
        self._log = State()
        self._rounds = {edge: ContributionMaker(training, self.learner, n, map) for edge in self.edges}
        for edge in self.edges:
            self._append(Join(edge, JOB, 0, param_vector.digest(self.state.params)))

    def begin(self, epoch: int, num_samples: int) -> None:
        """The next epoch, on equal shares."""
        members = dict.fromkeys(self.edges, 1 / len(self.edges))
        num_steps = -(-num_samples // self._training.global_batch)
        begin = Begin(
            epoch, members, {"train": num_samples}, num_steps, param_vector.digest(self.state.params), self.edges[0]
        )
        self._append(begin)
        group_step.apply_begin(self.state, begin)

    def step(self, data: Data, rows: npt.NDArray[np.int64]) -> int:
        """One step on these samples of `data`; the bytes of all payloads."""
        made = {}
        for edge, share in zip(self.edges, np.array_split(rows, len(self.edges)), strict=True):
            x = data.x[share] * np.float32(1 / 255)
            batch = MiniBatch(x, data.y[share], share, np.ones(len(share), np.float32))
            made[edge] = self._rounds[edge].gradient(self.state, batch)
        actions = [action for edge in self.edges for action in self._send(edge, made[edge])]
        [closed] = [action for action in actions if isinstance(action, Closed)]
        group_step.apply_step(self._training, self.state, self._log, closed)
        for edge in self.edges:
            self._rounds[edge].acknowledge(made[edge], is_counted=True)
        return sum(len(each.blob) for each in made.values())

    def accuracy(self, data: Data) -> float:
        """Of the present weights."""
        parts = [slice(at, at + 500) for at in range(0, len(data.y), 500)]
        right = [self.learner.test(self.state, data.x[at] * np.float32(1 / 255), data.y[at])[1] for at in parts]
        return sum(right) / len(data.y)

    def _send(self, edge: str, made: PendingGradient) -> Iterator[state.Action]:
        chunks = compression.split(made.blob)
        for i, chunk in enumerate(chunks):
            part = Part(
                edge, made.step, "0" * 8, i, len(chunks), made.count, made.loss, made.num_correct, 1.0, chunk
            )  # fmt: skip
            yield from self._append(part)

    def _append(self, record: Record) -> tuple[state.Action, ...]:
        self._log, actions = gradient_log.fold(self._rules, self._log, record, self._log.next_offset)
        return actions


def train(conditions: Conditions, setting: str, seed: int) -> Run:
    """One run: the test accuracy behind each epoch, and the payload."""
    training = conditions.training(setting, seed)
    data, test = read("train"), read("t10k")
    group = Group(training, conditions.members)
    begun_at, num_bytes = time.perf_counter(), 0
    accuracies = []
    with single_threaded_blas():
        for epoch in range(training.epochs):
            order = np.random.default_rng((seed, epoch)).permutation(conditions.images)
            group.begin(epoch, len(order))
            for at in range(0, len(order), training.global_batch):
                num_bytes += group.step(data, order[at : at + training.global_batch])
            accuracies.append(group.accuracy(test))
    return {
        "conditions": asdict(conditions),
        "setting": setting,
        "seed": seed,
        "payload_bytes": num_bytes / group.state.position.step / conditions.members,
        "accuracies": accuracies,
        "seconds": time.perf_counter() - begun_at,
    }


def measure(
    conditions: Conditions, wanted: Sequence[tuple[str, int]], results: Path | None, processes: int
) -> list[Run]:
    """Those runs, from the file of results or made now."""
    lines = results.read_text().splitlines() if results is not None and results.exists() else []
    known = [run for run in map(json.loads, lines) if run["conditions"] == asdict(conditions)]
    runs = [run for run in known if (run["setting"], run["seed"]) in wanted]
    there = {(run["setting"], run["seed"]) for run in runs}
    missing = [each for each in wanted if each not in there]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as executor:
        for run in executor.map(train, [conditions] * len(missing), *zip(*missing, strict=True)) if missing else ():
            words = " ".join(f"{accuracy:.4f}" for accuracy in run["accuracies"])
            print(
                f"  {run['setting']:11} seed {run['seed']}: {words}, {run['seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            runs.append(run)
            if results is not None:
                with results.open("a") as file:
                    file.write(json.dumps(run) + "\n")
    return runs


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The figures of each setting, over its seeds; lost points are those of each seed."""
    whole = {run["seed"]: run for run in runs if run["setting"] == "none"}
    figures = []
    for setting in dict.fromkeys(run["setting"] for run in runs):
        same = [run for run in runs if run["setting"] == setting]
        lost = [
            [
                100 * (exact - own)
                for exact, own in zip(whole[run["seed"]]["accuracies"], run["accuracies"], strict=True)
            ]
            for run in same
            if run["seed"] in whole
        ]
        last = [run["accuracies"][-1] for run in same]
        payload = statistics.mean(run["payload_bytes"] for run in same)
        figures.append(
            {
                "setting": setting,
                "seeds": len(same),
                "payload_bytes": payload,
                "times_fewer": whole[same[0]["seed"]]["payload_bytes"] / payload if lost else None,
                "accuracies": [
                    statistics.mean(each) for each in zip(*(run["accuracies"] for run in same), strict=True)
                ],
                "stdev": statistics.stdev(last) if len(last) > 1 else None,
                "points_lost": [statistics.median(each) for each in zip(*lost, strict=True)],
                "points_lost_of": [each[-1] for each in lost],
            }
        )
    return figures


HEADS = (
    "compression",
    "payload",
    "× fewer",
    "test accuracy, last epoch",
    "points lost, epoch by epoch",
    "last, by seed",
)


def table(figures: Sequence[Mapping[str, Any]]) -> str:
    """The figures for people: accuracies are means ± standard deviations over seeds, lost points medians."""
    rows = [HEADS, *map(_row, figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _row(of: Mapping[str, Any]) -> tuple[str, ...]:
    spread = "" if of["stdev"] is None else f" ± {of['stdev']:.4f}"
    return (
        of["setting"],
        f"{of['payload_bytes'] / 1e3:.1f} kB",
        "" if of["times_fewer"] is None else f"{of['times_fewer']:.1f}",
        f"{of['accuracies'][-1]:.4f}{spread} ({of['seeds']})",
        " ".join(f"{points:+.2f}" for points in of["points_lost"]),
        " ".join(f"{points:+.2f}" for points in of["points_lost_of"]),
    )


def main() -> None:
    """Measure what the arguments ask for."""
    parser = bench_parser(__doc__, "about a minute: 6,000 images, one seed, few settings")
    parser.add_argument("--only", type=several(str), metavar="A,B,…", help=", ".join(SETTINGS))
    parser.add_argument("--images", type=int, help="of training (24,000)")
    parser.add_argument("--epochs", type=int, default=3, help="(3)")
    parser.add_argument("--members", type=int, default=4, help="(4)")
    parser.add_argument("--batch", type=int, default=512, help="the global batch (512)")
    parser.add_argument("--learning-rate", type=float, default=0.025, help="of stochastic gradient descent (0.025)")
    parser.add_argument("--reference-batch", type=int, default=128, help="that the learning rate is meant for (128)")
    parser.add_argument("--warmup", type=float, default=1.0, help="of the learning rate, in epochs (1)")
    parser.add_argument("--seeds", type=int, help="how many: 0, 1, … (3)")
    parser.add_argument("--processes", type=int, default=1, help="runs at the same time, one thread each (1)")
    parser.add_argument("--results", type=Path, help="a file of runs to add to")
    given = parser.parse_args()
    images = given.images or (6_000 if given.quick else 24_000)
    settings = given.only or (["none", "int8", "top_k:0.1"] if given.quick else [*SETTINGS])
    conditions = Conditions(
        images, given.epochs, given.members, given.batch, given.learning_rate, given.reference_batch, given.warmup
    )  # fmt: skip
    print(
        f"{images} images, {given.epochs} epochs, {given.members} members, global batch {given.batch}; {machine()}",
        file=sys.stderr,
        flush=True,
    )
    seeds = given.seeds or (1 if given.quick else 3)
    wanted = [(setting, seed) for seed in range(seeds) for setting in settings]
    figures = summary(measure(conditions, wanted, given.results, given.processes))
    print(table(figures))
    if given.json:
        print(json.dumps({"conditions": asdict(conditions), "figures": figures}))


if __name__ == "__main__":
    main()
