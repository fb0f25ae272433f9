"""Max-pooling by itself: what no convolution took in (see `conv`), with windows that may overlap."""

import math

import numpy as np
import numpy.typing as npt

from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.params import Params
from edged.domain.nn.spec import MaxPool2d, Shape


class PoolLayer:
    """The maximum of each window; its gradient goes to the first place in the window that holds it."""

    def __init__(self, pool: MaxPool2d, shape: Shape, *, micro_batch: int, dtype: npt.DTypeLike) -> None:
        self._pool, self._shape, self._output_shape = pool, shape, pool.output_shape(shape)
        num_outputs = micro_batch * math.prod(self._output_shape)
        self._x = Buffer(micro_batch * math.prod(shape), dtype)
        self._y = Buffer(num_outputs, dtype)
        self._routed = Buffer(num_outputs, dtype)
        self._mask = Buffer(num_outputs, np.bool_)
        self._dx = Buffer(micro_batch * math.prod(shape), dtype)

    @property
    def buffer_bytes(self) -> int:
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Buffer))

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002 - one signature for all layers
        kept, y = self._x.array(*x.shape), self._y.array(len(x), *self._output_shape)
        np.copyto(kept, x)
        first, *others = self._places()
        np.copyto(y, kept[first])
        for place in others:
            np.maximum(y, kept[place], out=y)
        return y

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        x, y = self._x.array(len(dy), *self._shape), self._y.array(*dy.shape)
        routed, is_maximum, dx = self._routed.array(*dy.shape), self._mask.array(*dy.shape), self._dx.array(*x.shape)
        dx[:] = 0
        for place in self._places():
            np.equal(x[place], y, out=is_maximum)
            np.multiply(dy, is_maximum, out=routed)
            np.subtract(dy, routed, out=dy)
            dx[place] += routed
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
