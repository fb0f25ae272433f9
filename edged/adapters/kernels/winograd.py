"""Convolutions by Winograd's way: 3×3 kernels, and kernels of 2 to 5 values along a line.

Lavin and Gray 2015, https://arxiv.org/abs/1509.09308; F(2×2, 3×3) needs 16 products for four outputs instead of 36,
F(m, 7 - m) six for m instead of m·(7 - m). The kernels and their gradients are transformed here, the rest in C.
"""

import ctypes
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.adapters.kernels.kernel_layer import ACTIVATIONS, KernelLayer
from edged.adapters.kernels.memory import AlignedBuffer, address_of, check_writable, readable
from edged.adapters.kernels.structs import Winograd
from edged.domain.nn.context import LayerContext
from edged.domain.nn.conv import same_padding
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.spec import Conv1d, Conv2d, MaxPool2d, Shape

_MIN_CHANNELS = 8
"""With fewer channels or filters the transformations cost more than the products save."""

_SQUARE = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
"""The kernel's transformation on one axis, at the points 0, 1, -1 and infinity; the last two as kernels.c has them."""

_LINE_POINTS, _LINE_FACTORS = (0, 1, -1, 2, -2), (1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24)
_LINE_INPUTS = 6

_TILES = 24
"""Transformed together: their values stay in the cache of the second level."""

Offsets = npt.NDArray[np.int64]


class _Tiles(NamedTuple):
    """How outputs are divided into tiles: `inputs` and `outputs` of one by rows and columns."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    transformation: npt.NDArray[np.float32]
    """[points, kernel's values]."""


def tiles_of(conv: Conv2d, pool: MaxPool2d | None, shape: Shape) -> _Tiles | None:
    """How to compute the convolution and the pooling after it in tiles, when that is faster."""
    if conv.stride != (1, 1) or min(shape[-1], conv.filters) < _MIN_CHANNELS:
        return None
    if conv.kernel == (3, 3):
        tiles = _Tiles((4, 4), (2, 2), np.kron(_SQUARE, _SQUARE).astype(np.float32))
        pooled = (2, 2)
    elif conv.kernel[0] == 1 and 2 <= conv.kernel[1] <= 5:
        tiles = _Tiles((1, _LINE_INPUTS), (1, _LINE_INPUTS + 1 - conv.kernel[1]), _line(conv.kernel[1]))
        pooled = (1, 2)
    else:
        return None
    if pool is None or (pool.size == pool.stride == pooled and tiles.outputs[1] % 2 == 0):
        return tiles
    return None


def _line(length: int) -> npt.NDArray[np.float32]:
    """The transformation [6, length] of a kernel along a line: its polynomial at the points."""
    rows = [
        [factor * point**power for power in range(length)]
        for point, factor in zip(_LINE_POINTS, _LINE_FACTORS, strict=True)
    ]
    return np.array([*rows, [0] * (length - 1) + [1]], np.float32)


class WinogradLayer(KernelLayer):
    """A convolution that `tiles_of` suits, its activation, and the `pool` when there is one."""

    def __init__(
        self, library: ctypes.CDLL, spec: Conv2d | Conv1d, pool: MaxPool2d | None, tiles: _Tiles, context: LayerContext
    ) -> None:
        struct = Winograd()
        geometry = _Geometry(spec.as_2d if isinstance(spec, Conv1d) else spec, pool, tiles, context.shape)
        output = geometry.output
        super().__init__(struct, context, output[3 - len(context.shape) :])
        self._matrix = library.edged_matrix
        self._kernel, self._bias = kernel_name(context.index, spec), bias_name(context.index, spec)
        self._shape = spec.weights(context.shape)["kernel"]
        channels, filters, points = geometry.channels, output[2], math.prod(tiles.inputs)
        self._points, self._channels, self._filters = points, channels, filters
        windows = len(geometry.at_y) // geometry.num_tiles
        self._places = AlignedBuffer(
            context.micro_batch * geometry.num_tiles * windows * filters * (pool is not None), np.uint8
        )
        self._u, self._du = AlignedBuffer(points * channels * filters), AlignedBuffer(points * channels * filters)
        self._ut = AlignedBuffer(points * channels * filters * context.input_gradient)
        self._v, self._m = AlignedBuffer(points * _TILES * channels), AlignedBuffer(points * _TILES * filters)
        self._zeros, self._sink = (AlignedBuffer(max(channels, filters)) for _ in range(2))
        self._to_u, self._from_du = tiles.transformation, np.ascontiguousarray(tiles.transformation.T)
        self._fill(struct, geometry, ACTIVATIONS[spec.activation], windows)

    def _fill(self, struct: Winograd, of: "_Geometry", activation: int, windows: int) -> None:
        tables, rows = self._tables, np.arange(max(_TILES, self._channels, self._filters, self._points, 9))
        struct.channels, struct.filters, struct.points = self._channels, self._filters, self._points
        struct.tiles, struct.outputs, struct.window = of.num_tiles, of.outputs, of.outputs // windows
        struct.activation, struct.block = activation, _TILES
        struct.inputs, struct.results = of.height * of.width * of.channels, math.prod(of.output)
        struct.at_x, struct.at_y = tables.add(of.at_x), tables.add(of.at_y)
        struct.by_channel, struct.by_filter = tables.add(rows * self._channels), tables.add(rows * self._filters)
        struct.ones = self._by_one = tables.add(rows)
        struct.u, struct.ut, struct.du = self._u.address, self._ut.address, self._du.address
        struct.places, struct.v, struct.m = self._places.address, self._v.address, self._m.address
        struct.zeros, struct.sink = self._zeros.address, self._sink.address
        # For the kernel's transformation: rows of both matrices, and of weights
        taps, size = self._to_u.shape[1], self._channels * self._filters
        self._by_tap, self._by_point = tables.add(rows[: self._points] * taps), tables.add(rows[:taps] * self._points)
        self._by_size = tables.add(rows[: max(self._points, taps)] * size)

    def begin(self, params: Params) -> None:
        size, taps = self._channels * self._filters, self._to_u.shape[1]
        self._read("bias", params[self._bias], (self._filters,))
        kernel = readable(params[self._kernel], self._shape)
        self._multiply(self._to_u, self._by_tap, kernel, taps, size, self._u.array(self._points, size), add=False)
        if self._ut.address:
            u = self._u.array(self._points, self._channels, self._filters)
            np.copyto(self._ut.array(self._points, self._filters, self._channels), u.swapaxes(1, 2))
        self._du.array(self._points * size).fill(0)

    def end(self, grads: Params) -> None:
        size = self._channels * self._filters
        du = self._du.array(self._points, size)
        check_writable(grads[self._kernel], self._shape)
        self._multiply(self._from_du, self._by_point, du, self._points, size, grads[self._kernel], add=True)

    def _multiply(
        self,
        a: npt.NDArray[np.float32],
        rows: int,
        b: npt.NDArray[np.float32],
        terms: int,
        columns: int,
        c: npt.NDArray[np.float32],
        *,
        add: bool,
    ) -> None:
        """Set or add a·b, in rows of the tables: unlike BLAS with the same bits on all machines."""
        arguments = (address_of(a), rows, self._by_one, address_of(b), self._by_size, terms, columns)
        self._matrix(len(a), *arguments, address_of(c), columns, int(add))

    def take_gradients(self, grads: Params) -> None:
        check_writable(grads[self._kernel], self._shape)  # `end` writes it
        self._write("dbias", grads[self._bias], (self._filters,))


class _Geometry:
    """Where the tiles' inputs and results lie in a sample; -1: outside, zero or not wanted."""

    def __init__(self, conv: Conv2d, pool: MaxPool2d | None, tiles: _Tiles, shape: Shape) -> None:
        self.height, self.width, self.channels = ((1,) * (3 - len(shape)) + shape)[:3]
        convolved = conv.output_shape((self.height, self.width, self.channels))
        self.output = pool.output_shape(convolved) if pool else convolved
        wanted = (self.output[0] * pool.size[0], self.output[1] * pool.size[1]) if pool else convolved[:2]
        counts = [-(-size // step) for size, step in zip(wanted, tiles.outputs, strict=True)]
        before = [
            same_padding(size, k, 1)[0] if conv.padding == "same" else 0
            for size, k in zip((self.height, self.width), conv.kernel, strict=True)
        ]
        self.num_tiles, self.outputs = math.prod(counts), math.prod(tiles.outputs)
        first = [np.arange(count) * step for count, step in zip(counts, tiles.outputs, strict=True)]
        self.at_x = _offsets(
            [start - pad for start, pad in zip(first, before, strict=True)],
            tiles.inputs,
            (self.height, self.width),
            self.channels,
        )
        if pool:  # a tile's outputs are its windows, in order
            first = [start // size for start, size in zip(first, pool.size, strict=True)]
            per_tile = (tiles.outputs[0] // pool.size[0], tiles.outputs[1] // pool.size[1])
        else:
            per_tile = tiles.outputs
        self.at_y = _offsets(first, per_tile, self.output[:2], conv.filters)


def _offsets(first: list[Offsets], size: tuple[int, int], shape: tuple[int, ...], depth: int) -> Offsets:
    """Flat: for each tile by row and column, the offsets of its places by row and column in [*shape, depth]; or -1."""
    row, column, i, j = np.ix_(first[0], first[1], np.arange(size[0]), np.arange(size[1]))
    rows, columns = row + i, column + j
    is_inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    offsets: Offsets = np.where(is_inside, (rows * shape[1] + columns) * depth, -1).ravel()
    return offsets
