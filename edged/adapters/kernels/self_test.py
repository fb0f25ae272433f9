"""What the kernels must compute, to the bit, on every machine.

A few layers of each kind with made-up values: their outputs and gradients have one digest, whatever the compiler and
the width of the vectors. Another order of additions in kernels.c is another digest and another NUMERICS there.
"""

import hashlib
import math
from itertools import count

import numpy as np
import numpy.typing as npt

from edged.domain.nn.backend import Backend
from edged.domain.nn.context import LayerContext
from edged.domain.nn.params import Params, weight_name
from edged.domain.nn.spec import (
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    LayerSpec,
    MaxPool1d,
    MaxPool2d,
    Shape,
)

DIGEST = "d054c1688fb81c64f2581b3343d280cf3e0c55ab995145082c78d1c8fa720d9a"

_LAYERS: tuple[tuple[Shape, LayerSpec, MaxPool2d | None], ...] = (
    ((7, 6, 3), Conv2d(17, (3, 2), (2, 1), "same", "relu"), MaxPool2d((2, 2), (2, 2))),
    ((9, 8, 9), Conv2d(18, (3, 3), (1, 1), "same", "relu6"), MaxPool2d((2, 2), (2, 2))),
    ((7, 5, 20), Conv2d(8, (3, 3)), None),
    ((23, 8), Conv1d(19, 3, 1, "same", "relu"), MaxPool2d((1, 2), (1, 2))),
    ((16, 9), Conv1d(8, 5), None),
    ((4, 5, 33), Conv2d(9, (1, 1), (1, 1), "valid", "relu6"), None),
    ((7, 8, 21), DepthwiseConv2d((3, 3), (2, 2), "same", "relu6"), None),
    ((6, 9, 16), DepthwiseConv2d((3, 3), (1, 1), "same", "relu"), None),
    ((300,), Dense(10, "relu"), None),
    ((5, 6, 17), AvgPool2d((3, 2), (1, 2)), None),
    ((13, 5), MaxPool1d(3, 2), None),
)
_SAMPLES = 3


def digest_of(backend: Backend) -> str:
    """SHA-256 of what `backend` computes, in hexadecimal."""
    sha = hashlib.sha256()
    seeds = count(1)
    for shape, spec, pool in _LAYERS:
        layer = backend.layer(spec, pool, LayerContext(0, shape, _SAMPLES, np.float32, input_gradient=True))
        assert layer is not None
        params: Params = {
            weight_name(0, spec, name): _values(weight, next(seeds)) for name, weight in spec.weights(shape).items()
        }
        grads = {name: np.zeros_like(array) for name, array in params.items()}
        layer.begin(params)
        y = layer.forward(params, _values((_SAMPLES, *shape), next(seeds)))
        sha.update(y.astype("<f4").tobytes())
        dx = layer.backward(params, _values(y.shape, next(seeds)), grads)
        layer.end(grads)
        assert dx is not None
        for array in (dx, *grads.values()):
            sha.update(array.astype("<f4").tobytes())
    return sha.hexdigest()


def keeps_denormals() -> bool:
    """Whether this thread computes numbers below float32's smallest normal one as IEEE 754 says, and not as 0.

    No digest shows it: a few layers with values around 1 compute none.
    """
    small = np.array([2.0**-100], np.float32)
    product = small * np.float32(2.0**-40)
    return int(product.view(np.uint32)[0]) == 1 << 9  # 2^-140; as a float it might compare as 0


def _values(shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float32]:
    """Between -1 and 1, as exact on every machine."""
    steps = np.arange(math.prod(shape), dtype=np.uint64) * np.uint64(2654435761) + np.uint64(seed * 40503)
    return ((steps >> np.uint64(7)) % np.uint64(4093)).astype(np.float32).reshape(shape) / np.float32(
        2046.5
    ) - np.float32(1)
