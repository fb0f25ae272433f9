"""Pooling over windows that may overlap, by maximum or mean, and the mean over whole samples.

A maximum after a convolution is usually fused into it instead: see `conv`.
"""

import math

import numpy as np

from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.context import LayerContext
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params
from edged.domain.nn.spec import AvgPool2d, MaxPool2d, Shape


class MaxPoolLayer(Layer):
    """The maximum of each window; its gradient goes to the first element of the window that has it."""

    def __init__(self, pool: MaxPool2d, context: LayerContext) -> None:
        self._shape, self._output_shape = context.shape, pool.output_shape(context.shape)
        self._elements = _elements_of_windows(pool, self._output_shape)
        num_inputs = context.micro_batch * math.prod(self._shape)
        num_outputs = context.micro_batch * math.prod(self._output_shape)
        self._x = Buffer(num_inputs, context.dtype)
        self._y = Buffer(num_outputs, context.dtype)
        self._routed = Buffer(num_outputs, context.dtype)
        self._mask = Buffer(num_outputs, np.bool_)
        self._dx = Buffer(num_inputs, context.dtype)

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002 - one signature for all layers
        kept, y = self._x.array(*x.shape), self._y.array(len(x), *self._output_shape)
        np.copyto(kept, x)
        first, *others = self._elements
        np.copyto(y, kept[first])
        for element in others:
            np.maximum(y, kept[element], out=y)
        return y

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        x, y = self._x.array(len(dy), *self._shape), self._y.array(*dy.shape)
        routed, is_maximum, dx = self._routed.array(*dy.shape), self._mask.array(*dy.shape), self._dx.array(*x.shape)
        dx[:] = 0
        for element in self._elements:
            np.equal(x[element], y, out=is_maximum)
            np.multiply(dy, is_maximum, out=routed)
            np.subtract(dy, routed, out=dy)
            dx[element] += routed
        return dx


class AvgPoolLayer(Layer):
    """The mean of each window; its gradient is divided evenly over the window."""

    def __init__(self, pool: AvgPool2d, context: LayerContext) -> None:
        self._shape, self._output_shape = context.shape, pool.output_shape(context.shape)
        self._elements = _elements_of_windows(pool, self._output_shape)
        self._y = Buffer(context.micro_batch * math.prod(self._output_shape), context.dtype)
        self._dx = Buffer(context.micro_batch * math.prod(self._shape), context.dtype)

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002
        y = self._y.array(len(x), *self._output_shape)
        first, *others = self._elements
        np.copyto(y, x[first])
        for element in others:
            y += x[element]
        return np.divide(y, len(self._elements), out=y)

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        dx = self._dx.array(len(dy), *self._shape)
        dx[:] = 0
        np.divide(dy, len(self._elements), out=dy)
        for element in self._elements:
            dx[element] += dy
        return dx


class GlobalAvgPoolLayer(Layer):
    """The mean of each channel over all other axes of a sample."""

    def __init__(self, context: LayerContext) -> None:
        self._shape, self._num_positions = context.shape, math.prod(context.shape[:-1])
        self._y = Buffer(context.micro_batch * context.shape[-1], context.dtype)
        self._dx = Buffer(context.micro_batch * math.prod(context.shape), context.dtype)

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002
        channels = self._shape[-1]
        y = self._y.array(len(x), channels)
        np.add.reduce(x, axis=tuple(range(1, x.ndim - 1)), out=y)
        return np.divide(y, self._num_positions, out=y)

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        np.divide(dy, self._num_positions, out=dy)
        dx = self._dx.array(*self._shape[:-1], *dy.shape)  # samples inside, as convolutions have them
        np.copyto(dx, dy)
        return np.moveaxis(dx, -2, 0)


def _elements_of_windows(pool: MaxPool2d | AvgPool2d, output_shape: Shape) -> list[tuple[slice, slice, slice]]:
    """For each element of a window, the index [samples, rows, columns] of that element of all windows."""
    rows, columns, _ = output_shape
    (down, right), (height, width) = pool.stride, pool.size
    return [
        (slice(None), slice(a, a + (rows - 1) * down + 1, down), slice(b, b + (columns - 1) * right + 1, right))
        for a in range(height)
        for b in range(width)
    ]
