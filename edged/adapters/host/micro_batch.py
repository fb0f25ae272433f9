"""The micro-batch size with which a model trains fastest on this machine: measured once, cached in a file.

Small ones stay in the CPU's caches, large ones need fewer calls. The result only affects speed: when the file is
missing, incomplete or invalid, it is measured again.
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

from edged.domain.nn.backend import NUMPY, Backend
from edged.domain.nn.micro_batch import MAX_LANE_BYTES, SIZES
from edged.domain.nn.model import Model
from edged.domain.nn.spec import DESCRIBED, LayerSpec, Shape, settings
from edged.files import read_regular

_GOOD_ENOUGH = 1.03
"""The smallest size within this factor of the best time wins: it needs less memory."""

_MAX_S = 1.5
_ROUNDS = 5
_FILE = "micro-batch.json"
_MAX_CACHED = 64
_MAX_FILE_BYTES = 1 << 20


def fastest(
    shape: Shape, layers: Sequence[LayerSpec], folder: Path, *, batch_size: int, backend: Backend | None = None
) -> int:
    """The micro-batch size for a lane that trains on `batch_size` samples per step by `backend`; cached in `folder`.

    Blocks for up to about two seconds when it has to be measured. Limit BLAS to one thread first.
    """
    key = _key(shape, layers, batch_size, backend)
    cached = _read(folder / _FILE)
    if key not in cached:
        cached[key] = measure(shape, layers, batch_size, backend)
        _write(folder / _FILE, dict(list(cached.items())[-_MAX_CACHED:]))
    return cached[key]


def measure(shape: Shape, layers: Sequence[LayerSpec], batch_size: int, backend: Backend | None = None) -> int:
    """Time the sizes in turn, for a few rounds or _MAX_S; compares each one's best time."""
    models = _models(shape, layers, batch_size, backend)
    params = next(iter(models.values())).initial(0)
    n = max(models)
    x = np.random.default_rng(0).random((n, *shape), np.float32)
    y = np.zeros(n, np.int64)
    best_s = dict.fromkeys(models, float("inf"))
    end = time.perf_counter() + _MAX_S
    for _ in range(_ROUNDS):
        for micro_batch, model in models.items():
            begin = time.thread_time()  # less affected by other work on the machine than wall-clock time
            model.gradient(params, x, y)
            best_s[micro_batch] = min(best_s[micro_batch], time.thread_time() - begin)
        if time.perf_counter() > end:
            break
    return min(size for size, seconds in best_s.items() if seconds <= _GOOD_ENOUGH * min(best_s.values()))


def _models(shape: Shape, layers: Sequence[LayerSpec], batch_size: int, backend: Backend | None) -> dict[int, Model]:
    models: dict[int, Model] = {}
    for size in SIZES:
        model = Model(shape, layers, micro_batch=size, backend=backend)
        if models and (size > batch_size or model.buffer_bytes > MAX_LANE_BYTES):
            break
        models[size] = model
    return models


def _key(shape: Shape, layers: Sequence[LayerSpec], batch_size: int, backend: Backend | None) -> str:
    """A digest of everything the result depends on."""
    blas = [(each.get("version"), each.get("architecture")) for each in threadpool_info() if each["user_api"] == "blas"]
    model = [[DESCRIBED[type(layer)][0], settings(layer)] for layer in layers]
    by = NUMPY if backend is None else backend.name
    text = json.dumps(
        [shape, model, batch_size, by, _cpu(), np.__version__, blas, SIZES, MAX_LANE_BYTES], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _cpu() -> str:
    """The CPU's name, if the system reports one."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(("model name", "CPU part")):
                return line.partition(":")[2].strip()
    return platform.machine()


def _read(path: Path) -> dict[str, int]:
    try:
        values = json.loads(read_regular(path, _MAX_FILE_BYTES))
        return {str(key): value for key, value in values.items() if type(value) is int and value in SIZES}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _write(path: Path, values: dict[str, int]) -> None:
    """Replace the file atomically. If the folder is not writable, the next start measures again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(values), "utf-8")
        temporary.replace(path)
