# ruff: noqa: T201 - a script that prints what it measured
"""What exporting to TFLite costs in accuracy, and what it brings in size and speed: float32 and int8, each runtime.

Run it from the repository: python -m tests.bench.tflite [--quick] [--json]

Trains the example's model for two epochs on the full Fashion-MNIST (--quick: on the packaged images), then lets numpy,
this Python's TFLite runtime and LiteRT predict the test images, on one thread: in batches of 32 and one by one. Speed
and the median time of a call are the medians of five rounds, in which the runtimes take turns; other work on the
machine slows all of them.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edged.adapters.host.blas import single_threaded_blas
from edged.adapters.tflite.interpreter import TfliteClassifier
from edged.adapters.tflite.runtime import NumpyClassifier, probe_runtime
from edged.adapters.tflite.writer import to_tflite
from edged.domain.nn.model import Model
from tests.bench.arguments import bench_parser

ROUNDS = 5
SINGLES = 500
"""Samples that are predicted one by one in each round."""
SPEEDS = ("batched_per_s", "single_per_s", "batch_p50_ms", "single_p50_ms")


def main() -> None:
    arguments = parsed()
    if arguments.child:
        serve(Path(arguments.child[0]), numpy=arguments.child[1] == "numpy")
        return
    with tempfile.TemporaryDirectory() as folder:
        results = measured(Path(folder), "fashion-mnist-small" if arguments.quick else "fashion-mnist")
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"{results['machine']}; trained model: {results['accuracy']:.4f} of {results['test_samples']} test images\n")
    print(f"{'':62}{'samples/s':>19}{'p50 ms':>20}")
    columns = f"{'batch 32':>10}{'single':>9}"
    print(f"{'runtime':34}{'model':9}{'bytes':>9}{'accuracy':>10}{'loss':>9}{columns} {columns}")
    for row in results["rows"]:
        print(
            f"{row['runtime']:34}{row['model']:9}{row['bytes']:9,}{row['accuracy']:10.4f}{row['accuracy_loss']:9.4f}"
            f"{row['batched_per_s']:10,.0f}{row['single_per_s']:9,.0f}"
            f" {row['batch_p50_ms']:10.3f}{row['single_p50_ms']:9.3f}"
        )


def parsed() -> argparse.Namespace:
    parser = bench_parser(__doc__, "the packaged images instead of the full set")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(folder: Path, dataset: str) -> dict[str, Any]:
    """Train, export, and let each runtime predict in a process of its own."""
    # Imported here, since a child lives in an environment that has not all of it.
    from tests.support.fashion import LAYERS, SHAPE, accuracy, images, train  # noqa: PLC0415
    from tests.support.litert import litert_python  # noqa: PLC0415

    training, test = images("train", dataset), images("test", dataset)
    params = train(LAYERS, training, epochs=2)
    for name, calibration in (("float32", None), ("int8", training.x[:256])):
        content = to_tflite(SHAPE, LAYERS, params, labels=test.labels, calibration=calibration)
        (folder / f"{name}.tflite").write_bytes(content)
    np.savez(folder / "test.npz", x=test.x, y=test.y)
    trained = accuracy(Model(SHAPE, LAYERS).logits(params, test.x), test.y)
    children = [
        Child(folder, Path(sys.executable), "numpy"),
        Child(folder, Path(sys.executable), "native"),
        Child(folder, litert_python(), "native"),
    ]
    rounds = [[child.round() for child in children] for _ in range(ROUNDS)]
    rows = []
    for at, child in enumerate(children):
        child.stop()
        for model in ("float32", "int8"):
            each = [results[at][model] for results in rounds]
            rows.append({
                "runtime": child.runtime, "model": model, "bytes": (folder / f"{model}.tflite").stat().st_size,
                "accuracy": each[0]["accuracy"], "accuracy_loss": trained - each[0]["accuracy"],
                **{speed: statistics.median(result[speed] for result in each) for speed in SPEEDS},
            })  # fmt: skip
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    return {"machine": machine, "accuracy": trained, "test_samples": len(test.y), "rows": rows}


class Child:
    """A runtime's process; each line it is sent is one round."""

    def __init__(self, folder: Path, python: Path, kind: str) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "tests.bench.tflite", "--child", folder, kind],
            cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        self.runtime: str = self._read()

    def round(self) -> dict[str, dict[str, float]]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        result: dict[str, dict[str, float]] = self._read()
        return result

    def stop(self) -> None:
        self._process.communicate()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def serve(folder: Path, *, numpy: bool) -> None:
    """The child: predicts the test images once for each line of its input."""
    found = probe_runtime()
    runtime = f"numpy {np.__version__}" if numpy else f"{found.name} {found.version} ({found.delegate})"
    make = NumpyClassifier if numpy else TfliteClassifier
    models = {name: make((folder / f"{name}.tflite").read_bytes()) for name in ("float32", "int8")}
    with np.load(folder / "test.npz") as test:
        x, y = test["x"], test["y"]
    print(json.dumps(runtime), flush=True)
    with single_threaded_blas():
        for model in models.values():
            model.predict(x[:32])
            model.predict(x[:1])
        for _ in sys.stdin:
            print(json.dumps({name: timed(model, x, y) for name, model in models.items()}), flush=True)


def timed(model: NumpyClassifier | TfliteClassifier, x: Any, y: Any) -> dict[str, float]:
    predicted, batches_s = [], []
    for first in range(0, len(x) - 31, 32):
        began = time.perf_counter()
        predicted.append(model.predict(x[first : first + 32]))
        batches_s.append(time.perf_counter() - began)
    predicted.append(model.predict(x[len(x) - len(x) % 32 :]))
    singles_s = []
    for sample in range(SINGLES):
        began = time.perf_counter()
        model.predict(x[sample : sample + 1])
        singles_s.append(time.perf_counter() - began)
    return {
        "accuracy": float((np.concatenate(predicted).argmax(axis=1) == y).mean()),
        "batched_per_s": 32 * len(batches_s) / sum(batches_s),
        "single_per_s": SINGLES / sum(singles_s),
        "batch_p50_ms": 1000 * statistics.median(batches_s),
        "single_p50_ms": 1000 * statistics.median(singles_s),
    }


if __name__ == "__main__":
    main()
