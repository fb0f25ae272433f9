"""3×3 convolution with stride 1 by Winograd's F(2×2, 3×3): 16 products per tile of four outputs instead of 36.

Lavin and Gray 2015, https://arxiv.org/abs/1509.09308. Per axis, four inputs x give four values v, the kernel k four
values u, and the products v·u two outputs y:

    v = (x0 - x2, x1 + x2, x2 - x1, x3 - x1)        u = (k0, (k0+k1+k2)/2, (k0-k1+k2)/2, k2)
    y = (vu0 + vu1 + vu2, vu1 - vu2 + vu3)

With channels, each of the 16 products is a matrix product. (The paper's v3 and u3 have the other sign: here all of y's
second pair adds.) A tile of four outputs is also a window of the 2×2 pooling that may follow, so that the outputs come
out by phase, as `epilogue` expects them. The backward pass is the transpose of each step in reverse order.

Internally samples come after rows and columns: [rows, columns, n, channels]. So the slices by rows or columns that the
transformations consist of move blocks of n × channels values.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from edged.domain.nn.buffer import Array, Buffer, Step, Steps, planes_size, run
from edged.domain.nn.context import LayerContext
from edged.domain.nn.epilogue import Epilogue
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.spec import Conv2d, MaxPool2d, Shape

_MIN_CHANNELS = 8
"""With fewer channels or filters the transformations cost more than the products save."""

_POOL = MaxPool2d((2, 2), (2, 2))
_KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_CORNERS = [(0, 0), (0, 3), (3, 0), (3, 3)]
"""Of a tile's 4×4 products: where its outputs are once all products are added up."""


def suits_winograd(conv: Conv2d, pool: MaxPool2d | None, shape: Shape) -> bool:
    """Whether WinogradLayer can compute the convolution and the pooling after it, and faster."""
    return (
        conv.kernel == (3, 3)
        and conv.stride == (1, 1)
        and pool in {None, _POOL}
        and min(shape[2], conv.filters) >= _MIN_CHANNELS
    )


class WinogradLayer(Layer):
    """A 3×3 convolution, its activation, and the 2×2 `pool` when there is one."""

    def __init__(self, conv: Conv2d, pool: MaxPool2d | None, context: LayerContext) -> None:
        self._kernel, self._bias = kernel_name(context.index, conv), bias_name(context.index, conv)
        self._input_gradient = context.input_gradient
        self._to_u = np.kron(_KERNEL_TRANSFORM, _KERNEL_TRANSFORM).astype(context.dtype)  # both axes at once
        self._geometry = _Geometry(conv, pool, context.shape)
        self._memory = _Memory(self._geometry, context)
        self._views: dict[int, _Views] = {}
        weights = context.shape[2], conv.filters
        self._u, self._du = self._memory.u.array(16, *weights), self._memory.du.array(16, *weights)
        self._du_sum = self._memory.du_sum.array(16, *weights)
        self._dkernel = self._memory.dkernel.array(9, math.prod(weights))

    def begin(self, params: Params) -> None:
        """Transform the kernel once, for all micro-batches until the next call."""
        np.matmul(self._to_u, params[self._kernel].reshape(9, -1), out=self._u.reshape(16, -1))
        self._du_sum.fill(0)

    def end(self, grads: Params) -> None:
        """Add the kernel's gradient over all micro-batches since `begin` to `grads`; `backward` leaves it out."""
        np.matmul(self._to_u.T, self._du_sum.reshape(16, -1), out=self._dkernel)
        grads[self._kernel] += self._dkernel.reshape(grads[self._kernel].shape)

    def forward(self, params: Params, x: Array) -> Array:
        at = self._at(len(x))
        at.transform(x)
        np.matmul(at.v, self._u, out=at.products)
        run(at.add_up)
        run(at.interleave)
        at.epilogue.forward(params[self._bias])
        return at.y

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:  # noqa: ARG002 - u has the kernel
        at = self._at(len(dy))
        grads[self._bias] += at.epilogue.backward(dy.transpose(1, 2, 0, 3))
        run(at.deinterleave)
        run(at.spread)
        np.matmul(at.v.swapaxes(1, 2), at.products, out=self._du)
        np.add(self._du_sum, self._du, out=self._du_sum)
        if not self._input_gradient:
            return None
        np.matmul(at.products, self._u.swapaxes(1, 2), out=at.v)  # v is no longer needed
        run(at.transform_back)
        return at.dx

    def _at(self, n: int) -> "_Views":
        if n not in self._views:
            self._views[n] = _Views(self._geometry, self._memory, n)
        return self._views[n]


class _Geometry:
    """Sizes, without samples."""

    def __init__(self, conv: Conv2d, pool: MaxPool2d | None, shape: Shape) -> None:
        self.height, self.width, self.channels = shape
        self.filters, self.activation, self.has_pool = conv.filters, conv.activation, pool is not None
        rows, columns, _ = conv.output_shape(shape)
        self.tiles = (rows // 2, columns // 2) if pool else (-(-rows // 2), -(-columns // 2))
        self.outputs = self.tiles if pool else (rows, columns)
        self.pad = 1 if conv.padding == "same" else 0
        self.covered = 2 * self.tiles[0] + 2, 2 * self.tiles[1] + 2  # rows and columns of the input under tiles
        self.is_padded = self.pad > 0 or self.covered[0] > self.height or self.covered[1] > self.width
        self.dx = max(self.covered[0], self.height + self.pad), max(self.covered[1], self.width + self.pad)


class _Memory:
    """The buffers that micro-batches of all sizes share."""

    def __init__(self, of: _Geometry, context: LayerContext) -> None:
        micro_batch, dtype, input_gradient = context.micro_batch, context.dtype, context.input_gradient
        tiles, outputs = micro_batch * math.prod(of.tiles), micro_batch * math.prod(of.outputs)
        weights = of.channels * of.filters
        self.x = Buffer(micro_batch * math.prod(of.covered) * of.channels, dtype)
        self.half = Buffer(4 * micro_batch * of.covered[0] * of.tiles[1] * of.channels, dtype)
        self.v = Buffer(16 * tiles * of.channels, dtype)
        self.u = Buffer(16 * weights, dtype)
        self.products = Buffer(planes_size(16, tiles * of.filters), dtype)
        self.y = Buffer(outputs * of.filters, dtype)
        self.du = Buffer(16 * weights, dtype)
        self.du_sum = Buffer(16 * weights, dtype)
        self.dkernel = Buffer(9 * weights, dtype)
        self.dx = Buffer(micro_batch * math.prod(of.dx) * of.channels * input_gradient, dtype)
        self.has_dx = input_gradient
        self.epilogue = Epilogue(4 if of.has_pool else 1, outputs, of.filters, of.activation, dtype)


class _Views:
    """The buffers as a micro-batch of `n` samples uses them, and the steps between the matrix products."""

    def __init__(self, of: _Geometry, memory: _Memory, n: int) -> None:
        rows, columns = of.tiles
        self._of = of
        self._padded = memory.x.array(*of.covered, n, of.channels)
        inner = self._padded[of.pad : of.pad + of.height, of.pad : of.pad + of.width]
        self._inner = inner.transpose(2, 0, 1, 3)
        self._borders = [self._padded[: of.pad], self._padded[:, : of.pad]]
        self._borders += [self._padded[of.pad + len(inner) :], self._padded[:, of.pad + inner.shape[1] :]]
        self._half = memory.half.array(4, of.covered[0], columns, n * of.channels)
        v = memory.v.array(4, 4, rows, columns, n * of.channels)
        self._combine_rows = _combine([self._half[:, k : k + 2 * rows : 2] for k in range(4)], v)
        self.v = v.reshape(16, -1, of.channels)

        products = memory.products.planes((4, 4), (rows * columns * n * of.filters,))
        self.products = products.reshape(16, -1, of.filters)
        self.add_up, self.spread = _add_up(products), _spread(products)
        corners = [products[corner].reshape(rows, columns, n, of.filters) for corner in _CORNERS]
        y = memory.y.array(*of.outputs, n, of.filters)
        self.y = y.transpose(2, 0, 1, 3)
        self.epilogue = memory.epilogue.of(corners if of.has_pool else [y], y)
        self.interleave: Steps = [] if of.has_pool else _interleave(corners, y)
        self.deinterleave: Steps = [] if of.has_pool else _deinterleave(y, corners)
        if memory.has_dx:
            self._prepare_backward(memory, v, n)

    def _prepare_backward(self, memory: _Memory, dv: Array, n: int) -> None:
        of = self._of
        dx = memory.dx.array(*of.dx, n * of.channels)
        under_tiles = dx[: of.covered[0], : of.covered[1]]
        self.transform_back: Steps = [
            partial(dx[of.covered[0] :].fill, 0),
            partial(dx[:, of.covered[1] :].fill, 0),
            *_uncombine(dv.swapaxes(1, 2), self._half.swapaxes(0, 1)),
            *_uncombine(self._half.swapaxes(1, 2), under_tiles.swapaxes(0, 1)),
        ]
        inner = dx.reshape(*of.dx, n, of.channels)[of.pad : of.pad + of.height, of.pad : of.pad + of.width]
        self.dx = inner.transpose(2, 0, 1, 3)

    def transform(self, x: Array) -> None:
        """The input [n, height, width, channels] to `v`."""
        columns = self._of.tiles[1]
        under = self._under_tiles(x).reshape(*self._padded.shape[:2], -1)  # fewer axes: simpler loops
        run(_combine([under[:, k : k + 2 * columns : 2] for k in range(4)], self._half))
        run(self._combine_rows)

    def _under_tiles(self, x: Array) -> Array:
        """The input that tiles cover, padded with zeros; a view of `x` where that is possible."""
        inside = x.transpose(1, 2, 0, 3)
        if not self._of.is_padded and inside.flags.c_contiguous:
            return inside[: self._of.covered[0], : self._of.covered[1]]
        for border in self._borders:
            border.fill(0)
        np.copyto(self._inner, x[:, : self._inner.shape[1], : self._inner.shape[2]])
        return self._padded


def _combine(x: Sequence[Array], v: Array) -> Steps:
    """From x to v along one axis, see the module's docstring."""
    return [
        partial(np.subtract, x[0], x[2], out=v[0]),
        partial(np.add, x[1], x[2], out=v[1]),
        partial(np.subtract, x[2], x[1], out=v[2]),
        partial(np.subtract, x[3], x[1], out=v[3]),
    ]


def _uncombine(dv: Array, dx: Array) -> Steps:
    """The transpose of _combine: dv [4, tiles, …] to dx [2·tiles + 2, …], where neighbouring tiles share two inputs."""
    even, odd = dx[0::2], dx[1::2]
    return [
        partial(np.add, dv[1], dv[2], out=even[1:]),
        partial(np.subtract, even[1:], dv[0], out=even[1:]),
        partial(np.add, even[1:-1], dv[0, 1:], out=even[1:-1]),
        partial(np.copyto, even[0], dv[0, 0]),
        partial(np.subtract, dv[1], dv[2], out=odd[:-1]),
        partial(np.subtract, odd[:-1], dv[3], out=odd[:-1]),
        partial(np.add, odd[1:-1], dv[3, :-1], out=odd[1:-1]),
        partial(np.copyto, odd[-1], dv[3, -1]),
    ]


def _add_up(products: Array) -> Steps:
    """Products [4, 4, …] to outputs, in place: they end in the corners. First along rows, then columns of these."""
    steps: list[Step] = []
    for axis in (products, products[0::3].swapaxes(0, 1)):
        steps += [partial(np.add, axis[0], axis[k], out=axis[0]) for k in (1, 2)]
        steps += [partial(np.add, axis[3], axis[1], out=axis[3]), partial(np.subtract, axis[3], axis[2], out=axis[3])]
    return steps


def _spread(dproducts: Array) -> Steps:
    """The transpose of _add_up: from the corners of [4, 4, …] to all products."""
    steps: list[Step] = []
    for axis in (dproducts[0::3].swapaxes(0, 1), dproducts):
        steps += [partial(np.add, axis[0], axis[3], out=axis[1]), partial(np.subtract, axis[0], axis[3], out=axis[2])]
    return steps


def _by_phase(y: Array) -> list[Array]:
    """The outputs that each corner of the tiles holds."""
    return [y[i // 3 :: 2, j // 3 :: 2] for i, j in _CORNERS]


def _interleave(corners: Sequence[Array], y: Array) -> Steps:
    """Copy outputs by phase to their rows and columns, without those beyond the last row or column."""
    return [
        partial(np.copyto, part, corner[: part.shape[0], : part.shape[1]])
        for part, corner in zip(_by_phase(y), corners, strict=True)
    ]


def _deinterleave(dy: Array, corners: Sequence[Array]) -> Steps:
    """The transpose of _interleave."""
    steps: list[Step] = []
    for part, corner in zip(_by_phase(dy), corners, strict=True):
        rows, columns = part.shape[:2]
        steps.append(partial(np.copyto, corner[:rows, :columns], part))
        steps += [partial(corner[rows:].fill, 0), partial(corner[:, columns:].fill, 0)]
    return steps
