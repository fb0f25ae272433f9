"""What each way to sample from a cache costs in accuracy and fetches: Fashion-MNIST with a simulated cache.

    python -m tests.bench.sampling_study [--quick] [--json] [--mode echo ...] [--cached 0.35 ...] [--seeds 3]

All modes train README's model for the same number of steps. The cache is a set of ids and fetching is counted, not
done: what a mode does to learning shows here, what a network does to it in another bench. `stratified` and
`stratified rotating` draw a share q of each mini-batch from the cache and weigh (c/q, (1-c)/(1-q)); `half weights` take
the square root of these. `echo` admits all that it fetches, fetches every sample equally often and weighs nothing.
`plan MODE`, such as `plan stratified`, draws what the daemon's own plan of that mode says, over blocks of 250 samples.
"""

# ruff: noqa: T201 - a script prints

import gzip
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from edged.adapters.host.blas import single_threaded_blas
from edged.domain.archive.snapshot import Snapshot
from edged.domain.epochs import importance, modes
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.plan import CachedWindow, PlanSettings
from edged.domain.epochs.scores import ScoreTable
from edged.domain.epochs.window import SAMPLE_OVERHEAD
from edged.domain.nn.model import Gradient, Model, Params
from edged.domain.topology import SamplingMode
from edged.domain.training import optim, schedule
from tests.bench.accuracy import FASHION
from tests.bench.arguments import bench_parser

DATA = Path("/usr/share/datasets/fashion-mnist")
NUM_THREADS = len(os.sched_getaffinity(0))
BATCH = FASHION.global_batch
HIT_SHARE = {0.1: 0.36, 0.35: 0.73, 0.75: 0.85}
MODES = ("uniform", "stratified", "stratified rotating", "half weights", "echo", "plan stratified", "plan importance")
WINDOW_BYTES = 8 << 20
ROWS, SAMPLE_BYTES = 250, 784  # of a block, of a sample
FEWEST_TO_ECHO = 2048
"""Cached samples from which on a cold cache is drawn from."""

Ids = npt.NDArray[np.int64]
Rng = np.random.Generator


class Draw(NamedTuple):
    """A mini-batch: int64 [n], float32 [n], and how many of its samples were fetched."""

    ids: Ids
    weights: npt.NDArray[np.float32]
    num_fetched: int


@dataclass(frozen=True, slots=True)
class Data:
    """Fashion-MNIST: `x` uint8 [n, 28, 28, 1], `y` int64 [n]."""

    x: npt.NDArray[np.uint8]
    y: npt.NDArray[np.int64]


class Walk:
    """Ids in one random order after the other, or always in the same: no id twice before all came once."""

    def __init__(self, num_ids: int, rng: Rng, *, is_cyclic: bool = False) -> None:
        self._num_ids, self._rng, self._left = num_ids, rng, np.zeros(0, np.int64)
        self._cycle = rng.permutation(num_ids) if is_cyclic else None

    def take(self, n: int, cached: npt.NDArray[np.bool_] | None = None) -> Ids:
        """The next `n` ids that are not cached."""
        taken = np.zeros(0, np.int64)
        while len(taken) < n:
            if not len(self._left):
                self._left = self._rng.permutation(self._num_ids) if self._cycle is None else self._cycle
            ahead, self._left = self._left[: n - len(taken)], self._left[n - len(taken) :]
            taken = np.concatenate([taken, ahead if cached is None else ahead[~cached[ahead]]])
        return taken


def uniform(num_ids: int, rng: Rng, epochs: int) -> Iterator[Draw]:
    """A permutation an epoch. What is fetched depends on the cache's policy alone, and is worked out from c."""
    for _ in range(epochs):
        order = rng.permutation(num_ids)
        for start in range(0, num_ids, BATCH):
            ids = order[start : start + BATCH]
            yield Draw(ids, np.ones(len(ids), np.float32), len(ids))


def stratified(
    num_ids: int, rng: Rng, epochs: int, *, cached_share: float, q: float, power: float = 1.0, rotation: float = 0.0
) -> Iterator[Draw]:
    """A first epoch of misses, then weighted strata; a miss replaces a random cached sample by chance `rotation`."""
    yield from uniform(num_ids, rng, 1)
    members = rng.permutation(num_ids)[: round(cached_share * num_ids)]
    cached = np.zeros(num_ids, np.bool_)
    cached[members] = True
    hits, misses = Walk(len(members), rng), Walk(num_ids, rng)
    weight = np.array([(1 - cached_share) / (1 - q), cached_share / q]) ** power
    owed = 0.0
    for _ in range((epochs - 1) * -(-num_ids // BATCH)):
        owed += q * BATCH
        num_hits = int(owed)
        owed -= num_hits
        missed = misses.take(BATCH - num_hits, cached)
        ids = np.concatenate([members[hits.take(num_hits)], missed])
        is_hit = np.arange(BATCH) < num_hits
        yield Draw(ids, weight[is_hit.astype(int)].astype(np.float32), len(missed))
        new = np.unique(missed[rng.random(len(missed)) < rotation])
        places = rng.choice(len(members), len(new), replace=False)
        cached[members[places]], cached[new] = False, True
        members[places] = new


def echo(
    num_ids: int, rng: Rng, epochs: int, *, cached_share: float, q: float, fills_first: bool = False
) -> Iterator[Draw]:
    """All that is fetched is cached, in place of what was there longest; hits go round the cache evenly."""
    size = round(cached_share * num_ids)
    ring = np.zeros(size, np.int64)
    filled = at = 0
    misses, owed, turn = Walk(num_ids, rng, is_cyclic=True), 0.0, np.zeros(0, np.int64)
    num_steps = -(-num_ids // BATCH)
    for step in range(epochs * num_steps):
        is_warm = filled == size if fills_first else filled >= min(FEWEST_TO_ECHO, size)
        if fills_first and step < num_steps:
            is_warm = False
        owed += (q if is_warm else 0.0) * BATCH
        num_hits = int(owed)
        owed -= num_hits
        hits = np.zeros(0, np.int64)
        while len(hits) < num_hits:
            if not len(turn):
                turn = rng.permutation(filled)
            take, turn = turn[: num_hits - len(hits)], turn[num_hits - len(hits) :]
            hits = np.concatenate([hits, ring[take]])
        missed = misses.take(BATCH - num_hits)
        yield Draw(np.concatenate([hits, missed]), np.ones(BATCH, np.float32), len(missed))
        ring[(at + np.arange(len(missed))) % size] = missed
        at, filled = (at + len(missed)) % size, min(size, filled + len(missed))


class Planned:
    """What the daemon's plans draw, and the scores that they are told of."""

    def __init__(self, mode: SamplingMode, num_ids: int, seed: int, cached_share: float, q: float) -> None:
        num_blocks = num_ids // ROWS
        rows = np.full(num_blocks, ROWS)
        source = np.zeros(num_blocks, np.int64)
        ends = {"_train.x": num_blocks}
        self._snapshot = Snapshot(("_train.x",), source, np.arange(num_blocks), rows, rows * SAMPLE_BYTES, ends)
        self._scores, self._gate = ScoreTable(self._snapshot, 1 << 20), importance.Gate()
        capacity = round(cached_share * num_ids) * (SAMPLE_BYTES + SAMPLE_OVERHEAD)
        self._settings = PlanSettings(seed, 0.0, WINDOW_BYTES, capacity)
        self._mode, self._boundary = mode, EpochStart(np.zeros(0, np.int64), hit_share=q)

    def draws(self, epochs: int) -> Iterator[Draw]:
        """Full mini-batches; what is left over at an epoch's end is the beginning of the next one's first."""
        ids, weights, is_hit = np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.bool_)
        for window in self._windows(epochs):
            ids, weights = np.concatenate([ids, window.ids]), np.concatenate([weights, window.weights])
            is_hit = np.concatenate([is_hit, window.is_cached])
            while len(ids) >= BATCH:
                yield Draw(ids[:BATCH], weights[:BATCH], BATCH - int(is_hit[:BATCH].sum()))
                ids, weights, is_hit = ids[BATCH:], weights[BATCH:], is_hit[BATCH:]

    def _windows(self, epochs: int) -> Iterator[CachedWindow]:
        for epoch in range(epochs):
            boundary = replace(self._boundary, is_gate_open=self._gate.is_open)
            scores = self._scores.snapshot()
            plan = modes.plan(self._mode, self._settings, self._snapshot, epoch, boundary, scores)
            for index in count():
                if (window := plan.window(index)) is None:
                    break
                yield window
            self._boundary = plan.after

    def observe(self, draw: Draw, gradient: Gradient) -> None:
        scores = gradient.scores if self._mode == "importance" else gradient.losses
        self._scores.update(draw.ids, scores)
        self._gate = self._gate.after(gradient.scores)


def draws(mode: str, num_ids: int, rng: Rng, epochs: int, cached_share: float, q: float) -> Iterator[Draw]:
    """The samples of a run in `mode`."""
    weighted = {
        "stratified": {"rotation": 0.1},
        "stratified fixed": {},
        "stratified rotating": {"rotation": 1.0},
        "half weights": {"rotation": 1.0, "power": 0.5},
        "no weights": {"rotation": 1.0, "power": 0.0},
    }
    if mode in weighted:
        return stratified(num_ids, rng, epochs, cached_share=cached_share, q=q, **weighted[mode])
    if mode.startswith("echo"):
        return echo(num_ids, rng, epochs, cached_share=cached_share, q=q, fills_first=mode == "echo warm")
    return uniform(num_ids, rng, epochs)


def read(split: str) -> Data:
    with gzip.open(DATA / f"{split}-images-idx3-ubyte.gz") as file:
        x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(DATA / f"{split}-labels-idx1-ubyte.gz") as file:
        return Data(x, np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64))


def with_wrong_labels(data: Data, share: float) -> Data:
    """The same share of labels replaced by another class in every run."""
    rng = np.random.default_rng(0)
    wrong = rng.random(len(data.y)) < share
    return Data(data.x, np.where(wrong, (data.y + rng.integers(1, 10, len(data.y))) % 10, data.y))


def train(
    splits: tuple[Data, Data],
    samples: Iterator[Draw],
    seed: int,
    epochs: int,
    observe: Callable[[Draw, Gradient], None] | None = None,
) -> dict[str, Any]:
    """Train one model: accuracy, fetches and distinct samples at each half epoch, all by samples drawn."""
    data, test = splits
    model = Model((28, 28, 1), FASHION.model, lanes=NUM_THREADS)
    params = model.initial(seed)
    slots = optim.initial_slots(FASHION.optimizer, params)
    seen, drawn, fetched, step = np.zeros(len(data.y), np.bool_), 0, 0, 0
    curve: list[dict[str, float]] = []
    distinct, begin = [], time.perf_counter()
    with single_threaded_blas(), ThreadPoolExecutor(NUM_THREADS) as executor:
        for step, draw in enumerate(samples):
            x = data.x[draw.ids] * np.float32(1 / 255)
            gradient = model.gradient(params, x, data.y[draw.ids], draw.weights, map=executor.map)
            if observe is not None:
                observe(draw, gradient)
            optim.clip(gradient.grads, FASHION.clip_norm or np.inf)
            factor = schedule.factor(FASHION.schedule, drawn / len(data.y), epochs)
            optim.update(
                FASHION.optimizer, params, slots, gradient.grads,
                learning_rate=FASHION.optimizer.learning_rate * factor, step=step, weight_decay=FASHION.weight_decay,
            )  # fmt: skip
            seen[draw.ids] = True
            before, drawn, fetched = drawn, drawn + len(draw.ids), fetched + draw.num_fetched
            if drawn * 2 // len(data.y) != before * 2 // len(data.y):
                curve.append({"drawn": drawn, "fetched": fetched, "accuracy": accuracy(model, params, test)})
                if len(curve) % 2 == 0:
                    distinct.append(float(seen.mean()))
                    seen[:] = False
    if curve[-1]["drawn"] < drawn:
        curve.append({"drawn": drawn, "fetched": fetched, "accuracy": accuracy(model, params, test)})
    earlier = min(curve, key=lambda point: abs(point["drawn"] - (drawn - len(data.y))))
    return {
        "accuracy": curve[-1]["accuracy"],
        "fetched_an_epoch": fetched / len(data.y) / epochs,
        "fetched_last_epoch": (fetched - earlier["fetched"]) / (drawn - earlier["drawn"]),
        "distinct_last_epoch": distinct[-1],
        "seconds": time.perf_counter() - begin,
        "curve": curve,
    }


def accuracy(model: Model, params: Params, test: Data) -> float:
    right = 0
    for at in range(0, len(test.y), 500):
        part = slice(at, at + 500)
        right += int((model.logits(params, test.x[part] * np.float32(1 / 255)).argmax(1) == test.y[part]).sum())
    return right / len(test.y)


def main() -> None:
    parser = bench_parser(__doc__, "few samples: does it run at all?")
    parser.add_argument("--mode", action="append", help="just these modes")
    parser.add_argument("--cached", type=float, action="append", help="just these shares of samples cached")
    parser.add_argument("--hits", type=float, help="the share q of samples from the cache")
    parser.add_argument("--wrong", type=float, default=0.0, help="share of wrong labels")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    epochs = 3 if args.quick else args.epochs
    training, test = read("train"), read("t10k")
    if args.quick:
        training, test = Data(training.x[:6000], training.y[:6000]), Data(test.x[:1000], test.y[:1000])
    training = with_wrong_labels(training, args.wrong)
    figures = []
    for cached_share in args.cached or HIT_SHARE:
        for mode in args.mode or MODES:
            q = args.hits or HIT_SHARE.get(cached_share, cached_share)
            runs = []
            for seed in range(args.seed, args.seed + args.seeds):
                rng = np.random.default_rng((seed, 1))
                kind: Any = mode.removeprefix("plan ")
                if mode.startswith("plan ") and kind in get_args(SamplingMode):
                    planned = Planned(kind, len(training.y), seed, cached_share, q)
                    runs.append(train((training, test), planned.draws(epochs), seed, epochs, planned.observe))
                else:
                    samples = draws(mode, len(training.y), rng, epochs, cached_share, q)
                    runs.append(train((training, test), samples, seed, epochs))
            accuracies = [run["accuracy"] for run in runs]
            spread = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
            last = runs[-1]
            print(
                f"c {cached_share:.2f} q {q:.2f} {mode:20} accuracy {statistics.mean(accuracies):.4f} ± {spread:.4f},"
                f" fetched {last['fetched_an_epoch']:.3f} N an epoch, {last['fetched_last_epoch']:.3f} N in the last,"
                f" distinct {last['distinct_last_epoch']:.3f}, {last['seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            figures.append(
                {"mode": mode, "cached": cached_share, "q": q, "wrong": args.wrong, "epochs": epochs, "runs": runs}
            )
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
