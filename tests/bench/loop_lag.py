# ruff: noqa: T201 - a script that prints what it measured
"""How late the event loop is while training runs beside it, in threads of the same process.

Run it from the repository: python -m tests.bench.loop_lag [--quick] [--json] [--lanes 2] [--batch 128]

Trains as the trainer service does: each step in a worker thread, its lanes on threads of lower priority. Meanwhile the
loop sleeps for 5 ms at a time and notes how much later than that it wakes. The same without training comes first: what
the machine and its other work are to blame for. Nothing else that a daemon does is measured.
"""

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from edged.adapters.host import micro_batch
from edged.adapters.host.blas import single_threaded_blas
from edged.adapters.host.thread_priority import LowerPriority
from edged.aio import run_in_worker
from edged.domain.nn.model import Model
from edged.domain.nn.spec import Conv2d, Dense, Flatten, MaxPool2d
from edged.domain.topology import Sgd
from edged.domain.training import optim
from tests.bench.arguments import bench_parser

SHAPE = (28, 28, 1)
LAYERS = (
    Conv2d(32, (3, 3), activation="relu"),
    MaxPool2d((2, 2), (2, 2)),
    Conv2d(64, (3, 3), activation="relu"),
    MaxPool2d((2, 2), (2, 2)),
    Flatten(),
    Dense(10),
)
SLEEP_S = 0.005


class Training:
    """Steps on one mini-batch of noise, over and over."""

    def __init__(self, lanes: int, batch: int) -> None:
        rng = np.random.default_rng(0)
        self._x, self._y = rng.random((batch, *SHAPE), np.float32), rng.integers(0, 10, batch)
        self._model = Model(
            SHAPE, LAYERS, lanes=lanes, micro_batch=micro_batch.measure(SHAPE, LAYERS, -(-batch // lanes))
        )
        self._params = self._model.initial(0)
        self._slots = optim.initial_slots(Sgd(), self._params)
        self._executor = ThreadPoolExecutor(lanes, initializer=LowerPriority().lower)
        self.num_samples = 0

    async def run(self) -> None:
        while True:
            await run_in_worker(self._step)
            self.num_samples += len(self._x)

    def _step(self) -> None:
        gradient = self._model.gradient(self._params, self._x, self._y, map=self._executor.map)
        optim.update(Sgd(), self._params, self._slots, gradient.grads, learning_rate=0.01, step=0)


async def lags_ms(seconds: float) -> dict[str, float]:
    """How late the loop woke: percentiles."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    lags = []
    while (now := loop.time()) < end:
        await asyncio.sleep(SLEEP_S)
        lags.append(loop.time() - now - SLEEP_S)
    percentiles = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    values = 1000 * np.percentile(lags, list(percentiles.values()))
    return dict(zip(percentiles, values.round(2).tolist(), strict=True))


async def measure(lanes: int, batch: int, seconds: float) -> dict[str, Any]:
    training = Training(lanes, batch)
    idle = await lags_ms(min(seconds, 5))
    task = asyncio.create_task(training.run())
    busy = await lags_ms(seconds)
    task.cancel()
    await asyncio.wait([task])
    return {
        "lanes": lanes, "batch": batch, "seconds": seconds, "idle_ms": idle, "training_ms": busy,
        "samples_per_s": round(training.num_samples / seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = bench_parser(__doc__, "ten seconds in place of a minute")
    parser.add_argument("--lanes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    with single_threaded_blas():
        report = asyncio.run(measure(arguments.lanes, arguments.batch, 10 if arguments.quick else 60))
    print(f"{report['lanes']} lanes, batch {report['batch']}: {report['samples_per_s']:.0f} samples/s")
    for name in ("idle_ms", "training_ms"):
        print(f"  {name:12}" + ", ".join(f"{percentile} {ms:.2f}" for percentile, ms in report[name].items()))
    if arguments.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
