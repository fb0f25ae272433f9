"""The layers that a Model is made of and how they follow from the specification; flatten, ReLU and dense themselves.

A layer owns the buffers of one micro-batch and nothing else: weights come with every call. Activations are NHWC.
What a call returns is a view of a buffer, valid until the layer's next call; `backward` follows the `forward` of the
same micro-batch and may overwrite the gradient that it is given. Convolution and pooling: see `conv` and `pool`.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.conv import ConvLayer
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.pool import PoolLayer
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec, MaxPool2d, Relu, Shape, shapes


class Layer(Protocol):
    """One step of the model, forward and backward."""

    @property
    def buffer_bytes(self) -> int:
        """Memory that the layer holds."""

    def forward(self, params: Params, x: Array) -> Array:
        """The output for micro-batch `x` [n, …]; n is at most the micro-batch that the layer was made for."""

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:
        """Add the weights' gradients to `grads`; return the input's, or None when nothing before has weights."""


def make_layers(
    sample_shape: Shape, specs: Sequence[LayerSpec], *, micro_batch: int, dtype: npt.DTypeLike
) -> list[Layer]:
    """The layers of `specs`, in order, a convolution and the pooling behind it as one. Raises ShapeError."""
    result: list[Layer] = []
    below = False  # whether a layer before has weights, and so needs this one's input gradient
    taken_in = False
    for index, (spec, shape) in enumerate(zip(specs, shapes(sample_shape, specs), strict=False)):
        if taken_in:
            taken_in = False
            continue
        match spec:
            case Conv2d():
                pool = _pool_to_take_in(specs, index + 1)
                taken_in = pool is not None
                result.append(
                    ConvLayer(index, spec, pool, shape, micro_batch=micro_batch, dtype=dtype, input_gradient=below)
                )
            case Dense():
                result.append(
                    DenseLayer(index, spec, shape, micro_batch=micro_batch, dtype=dtype, input_gradient=below)
                )
            case MaxPool2d():
                result.append(PoolLayer(spec, shape, micro_batch=micro_batch, dtype=dtype))
            case Relu():
                result.append(ReluLayer(shape, micro_batch=micro_batch, dtype=dtype))
            case Flatten():
                result.append(FlattenLayer(shape))
        below = below or isinstance(spec, Conv2d | Dense)
    return result


def _pool_to_take_in(specs: Sequence[LayerSpec], index: int) -> MaxPool2d | None:
    spec = specs[index] if index < len(specs) else None
    if isinstance(spec, MaxPool2d) and spec.stride[0] >= spec.size[0] and spec.stride[1] >= spec.size[1]:
        return spec
    return None


class FlattenLayer:
    """All axes of a sample into one."""

    buffer_bytes = 0

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002 - one signature for all layers
        return x.reshape(len(x), math.prod(self._shape))

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        return dy.reshape(len(dy), *self._shape)


class ReluLayer:
    """max(x, 0); the gradient at 0 is 0."""

    def __init__(self, shape: Shape, *, micro_batch: int, dtype: npt.DTypeLike) -> None:
        self._y = Buffer(micro_batch * math.prod(shape), dtype)
        self._mask = Buffer(micro_batch * math.prod(shape), np.bool_)

    @property
    def buffer_bytes(self) -> int:
        return self._y.nbytes + self._mask.nbytes

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002
        return np.maximum(x, 0, out=self._y.array(*x.shape))

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        passed = np.greater(self._y.array(*dy.shape), 0, out=self._mask.array(*dy.shape))
        return np.multiply(dy, passed, out=dy)


class DenseLayer:
    """x·W + b, then the activation."""

    def __init__(
        self, index: int, spec: Dense, shape: Shape, *, micro_batch: int, dtype: npt.DTypeLike, input_gradient: bool
    ) -> None:
        self._kernel, self._bias = kernel_name(index, spec), bias_name(index, spec)
        self._input_gradient = input_gradient
        self._num_inputs, self._units = shape[0], spec.units
        self._x = Buffer(micro_batch * shape[0], dtype)
        self._y = Buffer(micro_batch * spec.units, dtype)
        self._dkernel = Buffer(shape[0] * spec.units, dtype)
        self._dx = Buffer(micro_batch * shape[0] * input_gradient, dtype)
        self._relu = (
            ReluLayer((spec.units,), micro_batch=micro_batch, dtype=dtype) if spec.activation == "relu" else None
        )

    @property
    def buffer_bytes(self) -> int:
        own = self._x.nbytes + self._y.nbytes + self._dkernel.nbytes + self._dx.nbytes
        return own + (self._relu.buffer_bytes if self._relu else 0)

    def forward(self, params: Params, x: Array) -> Array:
        kept, y = self._x.array(*x.shape), self._y.array(len(x), self._units)
        np.copyto(kept, x)
        np.matmul(kept, params[self._kernel], out=y)
        np.add(y, params[self._bias], out=y)
        return self._relu.forward(params, y) if self._relu else y

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:
        if self._relu:
            dy = self._relu.backward(params, dy, grads)
        x = self._x.array(len(dy), self._num_inputs)
        grads[self._bias] += dy.sum(axis=0)
        grads[self._kernel] += np.matmul(x.T, dy, out=self._dkernel.array(self._num_inputs, self._units))
        if not self._input_gradient:
            return None
        return np.matmul(dy, params[self._kernel].T, out=self._dx.array(*x.shape))
