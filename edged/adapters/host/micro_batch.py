"""The size of micro-batches that a model trains fastest with on this machine: measured once, remembered in a file.

Small ones stay in the CPU's caches, large ones make fewer calls. What was measured is only ever a matter of speed: a
file that is missing, torn or wrong is measured anew.
"""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from edged.domain.nn.model import Model
from edged.domain.nn.spec import DESCRIBED, LayerSpec, Shape, settings

CANDIDATES = (4, 8, 16, 32, 64)
_MAX_BYTES = 16 << 20
"""Of a lane's buffers: a candidate that needs more is not tried, unless it is the first."""

_GOOD_ENOUGH = 1.03
"""The smallest candidate wins that takes at most so many times the best one's time: it needs less memory."""

_MAX_S = 1.5
_ROUNDS = 5
_FILE = "micro-batch.json"
_MAX_REMEMBERED = 64


def tuned(shape: Shape, layers: Sequence[LayerSpec], folder: Path, *, most: int) -> int:
    """The micro-batch for training such a model on mini-batches of `most` samples; remembered in `folder`.

    Blocks for up to about two seconds when it has to be measured. Limit BLAS to one thread before.
    """
    key = _key(shape, layers, most)
    remembered = _read(folder / _FILE)
    if key not in remembered:
        remembered[key] = measured(shape, layers, most)
        _write(folder / _FILE, dict(list(remembered.items())[-_MAX_REMEMBERED:]))
    return remembered[key]


def measured(shape: Shape, layers: Sequence[LayerSpec], most: int) -> int:
    """The candidates by turns, for a few rounds or until the time is up; compared by each one's best time."""
    models = _models(shape, layers, most)
    params = next(iter(models.values())).initial(0)
    n = max(models)
    x = np.random.default_rng(0).random((n, *shape), np.float32)
    y = np.zeros(n, np.int64)
    best_s = dict.fromkeys(models, float("inf"))
    end = time.perf_counter() + _MAX_S
    for _ in range(_ROUNDS):
        for micro_batch, model in models.items():
            begin = time.thread_time()  # other work on the machine counts less than in the time of day
            model.gradient(params, x, y)
            best_s[micro_batch] = min(best_s[micro_batch], time.thread_time() - begin)
        if time.perf_counter() > end:
            break
    return min(size for size, seconds in best_s.items() if seconds <= _GOOD_ENOUGH * min(best_s.values()))


def _models(shape: Shape, layers: Sequence[LayerSpec], most: int) -> dict[int, Model]:
    models: dict[int, Model] = {}
    for size in CANDIDATES:
        model = Model(shape, layers, micro_batch=size)
        if models and (size > most or model.buffer_bytes > _MAX_BYTES):
            break
        models[size] = model
    return models


def _key(shape: Shape, layers: Sequence[LayerSpec], most: int) -> str:
    """What the result depends on, as a digest."""
    blas = [(each.get("version"), each.get("architecture")) for each in threadpool_info() if each["user_api"] == "blas"]
    model = [[DESCRIBED[type(layer)][0], settings(layer)] for layer in layers]
    text = json.dumps([shape, model, most, _cpu(), np.__version__, blas, CANDIDATES], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _cpu() -> str:
    """The CPU's name, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(("model name", "CPU part")):
                return line.partition(":")[2].strip()
    return platform.machine()


def _read(path: Path) -> dict[str, int]:
    try:
        values = json.loads(path.read_text("utf-8"))
        return {str(key): value for key, value in values.items() if value in CANDIDATES}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: Path, values: dict[str, int]) -> None:
    """In one go, so that no reader sees half of it. A folder that cannot be written to only costs the next start."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.with_suffix(f".{os.getpid()}")
        torn.write_text(json.dumps(values), "utf-8")
        torn.replace(path)
