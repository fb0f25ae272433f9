"""LiteRT, which replaces tflite-runtime from Python 3.12 on, in an environment of its own.

One environment cannot have both runtimes: tflite-runtime needs NumPy 1. This one is kept in the user's cache folder.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.support.brokers import one_at_a_time
from tests.support.requirements import require

_PACKAGES = (
    "ai-edge-litert>=2.0",
    "numpy>=2.0",
    "flatbuffers>=24.3",
    "tflite>=2.18",
    "structlog>=25.1",
    "threadpoolctl>=3.5",
)
_ROOT = Path(__file__).parents[2]
_PREDICT = """
import pathlib, sys, numpy
from edged.adapters.tflite.interpreter import TfliteClassifier
from edged.adapters.tflite.runtime import probe_runtime
folder = pathlib.Path(sys.argv[1])
for file in sorted(folder.glob("*.tflite")):
    predicted = TfliteClassifier(file.read_bytes()).predict(numpy.load(file.with_suffix(".x.npy")))
    numpy.save(file.with_suffix(".y.npy"), predicted)
runtime = probe_runtime()
print(runtime.name, runtime.delegate)
"""


def litert_python() -> Path:
    """A Python with LiteRT and the adapter's other dependencies; set up by the first call. Skips if that fails."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "edged-tests" / f"litert-{sys.version_info.major}.{sys.version_info.minor}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder.with_suffix(".lock")):
        _create(folder)
    return folder / "bin" / "python"


def _create(folder: Path) -> None:
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists() or complete.read_text() != " ".join(_PACKAGES):
        commands: list[list[str | Path]] = [
            [sys.executable, "-m", "venv", "--clear", folder],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_PACKAGES],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                require(f"no environment with LiteRT: {done.stderr.strip()[-300:]}")
        complete.write_text(" ".join(_PACKAGES))


def predict_with_litert(
    folder: Path, cases: dict[str, tuple[bytes, npt.NDArray[np.float32]]]
) -> tuple[str, dict[str, npt.NDArray[np.float32]]]:
    """LiteRT's name and delegate, and its predictions for each case's model and samples. Writes files to `folder`."""
    python = litert_python()
    for name, (content, x) in cases.items():
        (folder / f"{name}.tflite").write_bytes(content)
        np.save(folder / f"{name}.x.npy", x)
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    child = subprocess.run(
        [python, "-c", _PREDICT, folder], capture_output=True, text=True, check=False, env=environment
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.strip(), {name: np.load(folder / f"{name}.y.npy") for name in cases}
