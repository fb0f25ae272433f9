"""What the trainer's models learn: Fashion-MNIST in ten epochs, and twenty species of birds from few photographs.

    python -m tests.bench.accuracy [--quick] [--json] [--only fashion|birds] [--seeds N] [--kernels numpy|both]

By compiled kernels, or by NumPy, or by both one after the other, from the same weights and with the same batches. It
trains with the same learner as the daemon, on data in memory, with a thread for each core. Accuracies are those
after the last epoch, on the data sets' own splits, without augmentation; means and standard deviations are over seeds.
"""

# ruff: noqa: T201 - a script prints

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.adapters.datasets.registry import open_dataset
from edged.adapters.host.blas import single_threaded_blas
from edged.adapters.images import PillowDecoder
from edged.adapters.kernels.backend import compiled
from edged.domain.nn.backend import Backend
from edged.domain.nn.model import Model
from edged.domain.nn.spec import (
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    MaxPool2d,
    Relu,
)
from edged.domain.samples import codec
from edged.domain.topology import Adam, Augment, Cosine, Sgd, Stream, Training
from edged.domain.training.learner import Learner
from edged.domain.training.state import Tally
from tests.bench.arguments import bench_parser
from tests.support.data import birds

NUM_THREADS = os.cpu_count() or 1

FASHION = Training(
    "fashion",
    (
        Conv2d(32, (3, 3), activation="relu"),
        MaxPool2d((2, 2), (2, 2)),
        Conv2d(64, (3, 3), activation="relu"),
        MaxPool2d((2, 2), (2, 2)),
        Flatten(),
        Dense(10),
    ),
    epochs=10,
    global_batch=64,
    optimizer=Sgd(0.05, 0.9, nesterov=True),
    schedule=Cosine(warmup=0.2),
    weight_decay=1e-4,
)


def _block(filters: int, stride: int = 1) -> tuple[Any, ...]:
    return (Conv2d(filters, (3, 3), (stride, stride), "same"), GroupNorm(8), Relu())


_POOL = MaxPool2d((2, 2), (2, 2))


BIRDS = Training(
    "birds",
    (*_block(24, 2), *_block(48), _POOL, *_block(64), _POOL, *_block(96), GlobalAvgPool(), Dropout(0.2), Dense(20)),
    epochs=40,
    global_batch=32,
    optimizer=Adam(0.003),
    schedule=Cosine(warmup=2),
    weight_decay=0.01,
    augment=Augment("horizontal", shift=4, crop=0.7),
)


@dataclass(frozen=True, slots=True)
class Split:
    """Samples as the daemon's mini-batches have them."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]

    def batches(self, size: int, order: npt.NDArray[np.int64] | None = None) -> Iterator[npt.NDArray[np.int64]]:
        rows = np.arange(len(self.y)) if order is None else order
        return (rows[start : start + size] for start in range(0, len(rows), size))


def load(source: str, stream: Stream, name: str, most: int) -> Split:
    """At most `most` samples of a split, spread over all of it."""
    dataset, images = open_dataset(source), PillowDecoder()
    class_of = codec.class_index(stream)
    indices = np.linspace(0, dataset.count(name) - 1, min(most, dataset.count(name))).astype(int)
    items = [dataset.sample(name, int(index)) for index in indices]
    x = np.zeros((len(items), *stream.shape), np.float32)
    codec.fill(x, [item.payload for item in items], [item.codec for item in items], stream, images.decode)
    return Split(x, np.array([class_of[item.label or ""] for item in items]))


def train(training: Training, train_split: Split, test_split: Split, backend: Backend | None) -> dict[str, Any]:
    """Train one model; its accuracies at the end, on training samples without augmentation or dropout.

    `losses`: the mean of each epoch's training samples, as they were trained.
    """
    shape = train_split.x.shape[1:]
    learner = Learner(training, Model(shape, training.model, lanes=NUM_THREADS, backend=backend))
    state = learner.initial("bench")
    losses = []
    begin = time.perf_counter()
    with single_threaded_blas(), ThreadPoolExecutor(NUM_THREADS) as executor:
        for epoch in range(training.epochs):
            order = np.random.default_rng((training.seed, epoch)).permutation(len(train_split.y))
            for at, rows in enumerate(train_split.batches(training.global_batch, order)):
                progress = epoch + at * training.global_batch / len(order)
                ones = np.ones(len(rows), np.float32)
                x = learner.views(train_split.x[rows], rows, epoch)
                learner.step(state, x, train_split.y[rows], ones, progress=progress, map=executor.map)
            state.position = replace(state.position, epoch=epoch + 1)
            losses.append(state.tally.loss / state.tally.num_samples)
            state.tally = Tally()
    seconds = time.perf_counter() - begin
    accuracies = {}
    for name, split in (("train_accuracy", train_split), ("test_accuracy", test_split)):
        right = sum(learner.test(state, split.x[rows], split.y[rows])[1] for rows in split.batches(256))
        accuracies[name] = right / len(split.y)
    speed = {"seconds": seconds, "samples_per_s": training.epochs * len(train_split.y) / seconds}
    return {**accuracies, **speed, "losses": losses}


def summary(runs: Sequence[Mapping[str, Any]], test_split: Split) -> dict[str, Any]:
    """The figures of all seeds, and what those would reach who guess: at random, or always the commonest class."""
    train, test = ([run[name] for run in runs] for name in ("train_accuracy", "test_accuracy"))
    counts = np.bincount(test_split.y)
    return {
        "test_accuracy_mean": statistics.mean(test),
        "test_accuracy_stdev": statistics.stdev(test) if len(test) > 1 else None,
        "train_accuracy_mean": statistics.mean(train),
        "gap": statistics.mean(train) - statistics.mean(test),
        "chance": 1 / len(counts),
        "majority": int(counts.max()) / len(test_split.y),
        "runs": list(runs),
    }


def as_text(name: str, figures: Mapping[str, Any]) -> str:
    """The summary for people."""
    spread = figures["test_accuracy_stdev"]
    over = "with 1 seed" if spread is None else f"± {spread:.4f} over {len(figures['runs'])} seeds"
    return (
        f"{name}: test accuracy {figures['test_accuracy_mean']:.4f} {over}; on the training samples"
        f" {figures['train_accuracy_mean']:.4f}, a gap of {figures['gap']:.4f}; chance {figures['chance']:.3f},"
        f" the commonest class {figures['majority']:.3f}"
    )


def measure(
    name: str,
    source: str,
    shape: tuple[int, ...],
    training: Training,
    *,
    most: int,
    seeds: int,
    backends: Mapping[str, Backend | None],
) -> dict[str, Any]:
    """Train with each seed and print a line for it; the figures."""
    dataset = open_dataset(source)
    stream = Stream(name, shape, "uint8", dataset.labels)
    splits = load(source, stream, "train", most), load(source, stream, "test", most)
    print(
        f"{name}: {len(splits[0].y)} training and {len(splits[1].y)} test samples of {len(dataset.labels)} classes,"
        f" {training.epochs} epochs in batches of {training.global_batch}, {NUM_THREADS} threads",
        file=sys.stderr,
    )
    figures = {}
    for by, backend in backends.items():
        runs = []
        for seed in range(seeds):
            runs.append(train(replace(training, seed=seed), *splits, backend))
            words = " ".join(f"{key} {np.round(value, 4)}" for key, value in runs[-1].items())
            print(f"  seed {seed}, {by}: {words}", file=sys.stderr, flush=True)
        figures[by] = summary(runs, splits[1])
        print(as_text(f"{name}, {by}", figures[by]), file=sys.stderr)
    return figures


def main() -> None:
    """Measure what the arguments ask for."""
    parser = bench_parser(__doc__, "about a minute: one seed, few samples and epochs")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each, with the seeds 0 to N-1 (3)")
    parser.add_argument("--only", choices=("fashion", "birds"), help="just this one")
    parser.add_argument("--kernels", choices=("numpy", "both"), help="by default compiled ones alone")
    args = parser.parse_args()
    backends: dict[str, Backend | None] = {}
    if args.kernels != "numpy":
        backends["compiled"] = compiled()
    if args.kernels is not None:
        backends["numpy"] = None
    if args.quick:
        print("quick: few samples, epochs and seeds; the accuracies say that it learns, not how well", file=sys.stderr)
    most, seeds = (6000, 1) if args.quick else (1 << 30, args.seeds)
    tasks = {"fashion": ("fashion-mnist", (28, 28, 1), FASHION), "birds": ("", (64, 64, 3), BIRDS)}
    figures = {}
    for name, (source, shape, training) in tasks.items():
        if args.only in {None, name}:
            shortened = replace(training, epochs=training.epochs // 4) if args.quick else training
            figures[name] = measure(
                name, source or str(birds()), shape, shortened, most=most, seeds=seeds, backends=backends
            )
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
