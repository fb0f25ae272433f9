"""Pooling by the mean: over windows that may overlap, and over whole samples."""

import math

import numpy as np
import numpy.typing as npt

from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.params import Params
from edged.domain.nn.spec import AvgPool2d, Shape


class AvgPoolLayer:
    """The mean of each window; its gradient goes to all places of the window in equal parts."""

    def __init__(self, pool: AvgPool2d, shape: Shape, *, micro_batch: int, dtype: npt.DTypeLike) -> None:
        self._pool, self._shape, self._output_shape = pool, shape, pool.output_shape(shape)
        self._y = Buffer(micro_batch * math.prod(self._output_shape), dtype)
        self._dx = Buffer(micro_batch * math.prod(shape), dtype)

    @property
    def buffer_bytes(self) -> int:
        return self._y.nbytes + self._dx.nbytes

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002 - one signature for all layers
        y = self._y.array(len(x), *self._output_shape)
        first, *others = self._places()
        np.copyto(y, x[first])
        for place in others:
            y += x[place]
        return np.divide(y, math.prod(self._pool.size), out=y)

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        dx = self._dx.array(len(dy), *self._shape)
        dx[:] = 0
        np.divide(dy, math.prod(self._pool.size), out=dy)
        for place in self._places():
            dx[place] += dy
        return dx

    def _places(self) -> list[tuple[slice, slice, slice]]:
        """For each place in a window, where the input's elements at that place of all windows are."""
        rows, columns, _ = self._output_shape
        (down, right), (height, width) = self._pool.stride, self._pool.size
        return [
            (slice(None), slice(a, a + (rows - 1) * down + 1, down), slice(b, b + (columns - 1) * right + 1, right))
            for a in range(height)
            for b in range(width)
        ]


class GlobalAvgPoolLayer:
    """The mean of each channel over all other axes of a sample."""

    def __init__(self, shape: Shape, *, micro_batch: int, dtype: npt.DTypeLike) -> None:
        self._shape, self._num_places = shape, math.prod(shape[:-1])
        self._y = Buffer(micro_batch * shape[-1], dtype)
        self._dx = Buffer(micro_batch * math.prod(shape), dtype)

    @property
    def buffer_bytes(self) -> int:
        return self._y.nbytes + self._dx.nbytes

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002
        channels = self._shape[-1]
        y = self._y.array(len(x), channels)
        np.add.reduce(x, axis=tuple(range(1, x.ndim - 1)), out=y)
        return np.divide(y, self._num_places, out=y)

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        np.divide(dy, self._num_places, out=dy)
        dx = self._dx.array(*self._shape[:-1], *dy.shape)  # samples inside, as convolutions have them
        np.copyto(dx, dy)
        return np.moveaxis(dx, -2, 0)
