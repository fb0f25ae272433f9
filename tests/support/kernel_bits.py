"""What libraries of kernels compute, as digests: `python -m tests.support.kernel_bits LIBRARY...`.

Runs on NumPy and edged alone, so that a foreign Python can run it: prints {library: {what: digest}} as JSON.
"""

import ctypes
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edged.adapters.kernels.backend import CompiledBackend
from edged.adapters.kernels.self_test import digest_of
from edged.adapters.kernels.structs import declare
from edged.domain.nn.model import Model
from edged.domain.nn.params import initial_params
from edged.domain.nn.spec import (
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Flatten,
    GlobalAvgPool,
    LayerSpec,
    MaxPool1d,
    MaxPool2d,
    Shape,
)
from edged.domain.topology import Adam, Lars, Optimizer, Sgd
from edged.domain.training.optim import clip, initial_slots, update

_MODELS: Mapping[str, tuple[Shape, tuple[LayerSpec, ...]]] = {
    "cnn": ((12, 12, 1), (
        Conv2d(9, (3, 3), activation="relu"), MaxPool2d((2, 2), (2, 2)),
        Conv2d(17, (3, 3), (1, 1), "same", "relu"), AvgPool2d((2, 2), (2, 2)), Flatten(), Dense(10),
    )),
    "mobile net": ((9, 10, 3), (
        Conv2d(16, (3, 3), (2, 2), "same", "relu6"), DepthwiseConv2d((3, 3), (1, 1), "same", "relu6"),
        Conv2d(24, (1, 1)), GlobalAvgPool(), Dense(7),
    )),
    "series": ((40, 8), (
        Conv1d(8, 5, activation="relu"), MaxPool1d(2, 2), Conv1d(9, 3, padding="same", activation="relu"), Flatten(),
        Dense(3),
    )),
}  # fmt: skip
_OPTIMIZERS: Mapping[str, Optimizer] = {"sgd": Sgd(), "lars": Lars(), "adam": Adam()}
_SAMPLES, _STEPS = 13, 3


def digests_of(library: Path) -> dict[str, str]:
    """By what was computed: the self-test; of small models the initial weights, and those after some steps."""
    loaded = ctypes.CDLL(str(library))
    declare(loaded)
    backend = CompiledBackend(loaded)
    result = {"self-test": digest_of(backend)}
    for name, (shape, layers) in _MODELS.items():
        result[f"{name}, initial"] = _digest(initial_params(shape, layers, 0))
        for optimizer in _OPTIMIZERS:
            model = Model(shape, layers, micro_batch=4, lanes=2, backend=backend)
            result[f"{name}, {optimizer}"] = _digest(_trained(model, _OPTIMIZERS[optimizer]))
    return result


def _trained(model: Model, optimizer: Optimizer) -> dict[str, npt.NDArray[np.float32]]:
    """The weights after some steps; all losses and scores."""
    params = {name: _values(value.shape, seed) / 4 for seed, (name, value) in enumerate(model.initial(0).items())}
    slots = initial_slots(optimizer, params)
    seen: dict[str, npt.NDArray[np.float32]] = {}
    for step in range(_STEPS):
        x = _values((_SAMPLES, *model.sample_shape), 100 + step) * 2
        gradient = model.gradient(params, x, np.arange(_SAMPLES) % 3, np.linspace(0.5, 1.5, _SAMPLES, dtype=np.float32))
        seen |= {f"losses of {step}": gradient.losses.copy(), f"scores of {step}": gradient.scores.copy()}
        clip(gradient.grads, 0.5)
        steps = model.optimizer_steps
        update(optimizer, params, slots, gradient.grads, learning_rate=0.05, step=step, weight_decay=1e-3, steps=steps)
    return params | seen


def _values(shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float32]:
    """Between -1 and 1, the same on every machine: random bits, and no function of them that rounds."""
    drawn = np.random.default_rng(seed).integers(-(2**20), 2**20, shape)
    return (drawn / 2**20).astype(np.float32)


def _digest(arrays: Mapping[str, npt.NDArray[np.float32]]) -> str:
    sha = hashlib.sha256()
    for name in sorted(arrays):
        assert np.isfinite(arrays[name]).all()
        sha.update(arrays[name].astype("<f4").tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    json.dump({library: digests_of(Path(library)) for library in sys.argv[1:]}, sys.stdout)
