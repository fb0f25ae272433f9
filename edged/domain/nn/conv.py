"""Convolution by im2col and one matrix product, fused with the max-pooling after it.

Outputs that no pooling window covers are never computed; the others come by phase (see `epilogue`). Patches are laid
out with samples innermost and the patch's elements outermost, the input with its columns dealt out by their remainder
modulo the step from one patch to the next. So whole rows of patches are copied, and added in the backward pass, as one
run of memory whatever the number of channels. 1×1 kernels need no patches. See also: `winograd` (3×3 kernels).
"""

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from edged.domain.nn.buffer import Array, Buffer, Step, Steps, run
from edged.domain.nn.context import LayerContext
from edged.domain.nn.epilogue import BoundEpilogue, Epilogue
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.spec import Conv2d, MaxPool2d, Shape
from edged.domain.nn.winograd import WinogradLayer, suits_winograd

_NO_POOL = MaxPool2d((1, 1), (1, 1))


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis for `padding: same`: split evenly, the odd one after, as in TensorFlow."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def conv_layer(conv: Conv2d, pool: MaxPool2d | None, context: LayerContext) -> Layer:
    """The fastest layer for a convolution, its activation and the `pool` fused with it (no overlapping windows)."""
    if suits_winograd(conv, pool, context.shape):
        return WinogradLayer(conv, pool, context)
    if conv.kernel == conv.stride == (1, 1) and pool is None:
        return PointwiseLayer(conv, pool, context)
    return ConvLayer(conv, pool, context)


class ConvLayer(Layer):
    """Any convolution, its activation and the `pool` fused with it, if any."""

    def __init__(self, conv: Conv2d, pool: MaxPool2d | None, context: LayerContext) -> None:
        self._kernel, self._bias = kernel_name(context.index, conv), bias_name(context.index, conv)
        self._input_gradient = context.input_gradient
        self._geometry = _Geometry(conv, pool or _NO_POOL, context.shape)
        self._memory = _Memory(self._geometry, context)
        self._views: dict[int, _Views] = {}

    def forward(self, params: Params, x: Array) -> Array:
        at = self._at(len(x))
        at.gather(x)
        np.matmul(at.patches.T, params[self._kernel].reshape(len(at.patches), -1), out=at.products)
        at.epilogue.forward(params[self._bias])
        return at.y

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:
        at = self._at(len(dy))
        grads[self._bias] += at.epilogue.backward(dy.transpose(1, 2, 0, 3))
        np.matmul(at.products.T, at.patches.T, out=at.dkernel)  # faster than its transpose: there are more filters
        dkernel = grads[self._kernel].reshape(len(at.patches), -1)
        dkernel += at.dkernel.T
        if not self._input_gradient:
            return None
        kernel = params[self._kernel].reshape(len(at.patches), -1)
        np.matmul(kernel, at.products.T, out=at.patches)  # the patches are no longer needed
        run(at.scatter)
        return at.dx

    def _at(self, n: int) -> "_Views":
        if n not in self._views:
            self._views[n] = _Views(self._geometry, self._memory, n)
        return self._views[n]


class _Geometry:
    """Sizes, without samples. A step is the distance between adjacent pooling windows, in the input."""

    def __init__(self, conv: Conv2d, pool: MaxPool2d, shape: Shape) -> None:
        self.height, self.width, self.channels = shape
        self.kernel, self.stride, self.pool = conv.kernel, conv.stride, pool.size
        self.filters, self.activation = conv.filters, conv.activation
        self.rows, self.columns, _ = pool.output_shape(conv.output_shape(shape))
        self.step = conv.stride[0] * pool.stride[0], conv.stride[1] * pool.stride[1]
        (self.top, below), (self.left, right) = (
            same_padding(n, k, s) if conv.padding == "same" else (0, 0)
            for n, k, s in zip(shape[:2], conv.kernel, conv.stride, strict=True)
        )
        self.is_padded = any((self.top, below, self.left, right))
        width = self.left + self.width + right
        self.dealt = (self.channels, self.top + self.height + below, self.step[1], -(-width // self.step[1]))
        self.patch = (*conv.kernel, self.channels)


class _Memory:
    """The buffers that micro-batches of all sizes share."""

    def __init__(self, of: _Geometry, context: LayerContext) -> None:
        micro_batch, dtype, input_gradient = context.micro_batch, context.dtype, context.input_gradient
        outputs, phases = micro_batch * of.rows * of.columns, math.prod(of.pool)
        self.dealt = Buffer(micro_batch * math.prod(of.dealt), dtype)
        self.patches = Buffer(phases * outputs * math.prod(of.patch), dtype)
        self.products = Buffer(phases * outputs * of.filters, dtype)
        self.y = Buffer(outputs * of.filters * (phases > 1), dtype)
        self.dkernel = Buffer(math.prod(of.patch) * of.filters, dtype)
        self.dx = Buffer(micro_batch * of.height * of.width * of.channels * input_gradient, dtype)
        self.has_dx = input_gradient
        self.epilogue = Epilogue(phases, outputs, of.filters, of.activation, dtype)


class _Views:
    """The buffers as a micro-batch of `n` samples uses them, and the steps between the matrix products."""

    def __init__(self, of: _Geometry, memory: _Memory, n: int) -> None:
        self._of = of
        self._dealt = memory.dealt.array(*of.dealt, n)  # [channels, rows, column % step, column // step, n]
        self._columns = list(self._columns_by_remainder())
        patches = memory.patches.array(*of.patch, *of.pool, of.rows, of.columns, n)
        self._gather = list(self._copy_patches(patches))
        products = memory.products.array(math.prod(of.pool), of.rows, of.columns, n, of.filters)
        y = products[0] if len(products) == 1 else memory.y.array(*products.shape[1:])

        self.patches = patches.reshape(math.prod(of.patch), -1)
        self.products = products.reshape(-1, of.filters)
        self.epilogue = memory.epilogue.of(list(products), y)
        self.y = y.transpose(2, 0, 1, 3)
        self.dkernel = memory.dkernel.array(of.filters, len(self.patches))
        if memory.has_dx:
            dx = memory.dx.array(of.height, of.width, n, of.channels)
            self.dx = dx.transpose(2, 0, 1, 3)
            self.scatter: Steps = [
                partial(self._dealt.fill, 0),
                *self._add_patches(patches),
                *(
                    partial(np.copyto, dx[:, columns], target.transpose(1, 2, 3, 0))
                    for columns, target in self._columns
                ),
            ]

    def gather(self, x: Array) -> None:
        """Copy the patches of the input [n, height, width, channels]."""
        if self._of.is_padded:
            self._dealt.fill(0)
        for columns, target in self._columns:
            np.copyto(target, x[:, :, columns].transpose(3, 1, 2, 0))
        run(self._gather)

    def _columns_by_remainder(self) -> Iterator[tuple[slice, Array]]:
        """The input's columns of each remainder, and where they are copied to: [channels, height, columns, n]."""
        of, step = self._of, self._of.step[1]
        for remainder in range(step):
            first = (remainder - of.left) % step
            begin = (first + of.left) // step
            end = begin + max(-(-(of.width - first) // step), 0)
            yield slice(first, None, step), self._dealt[:, of.top : of.top + of.height, remainder, begin:end]

    def _copy_patches(self, patches: Array) -> Iterator[Step]:
        """One copy for each column of the kernel and each phase of columns."""
        of, dealt = self._of, self._dealt
        by_channel, by_row, by_remainder, by_column, by_sample = dealt.strides
        shape = (of.kernel[0], of.channels, of.pool[0], *patches.shape[-3:])
        strides = (by_row, by_channel, by_row * of.stride[0], by_row * of.step[0], by_column, by_sample)
        for column, phase in np.ndindex(of.kernel[1], of.pool[1]):
            first, remainder = divmod(phase * of.stride[1] + column, of.step[1])
            source: Array = np.ndarray(shape, dealt.dtype, dealt, remainder * by_remainder + first * by_column, strides)
            yield partial(np.copyto, patches[:, column, :, :, phase], source)

    def _add_patches(self, dpatches: Array) -> Iterator[Step]:
        """Add each patch's gradient where the patch came from: patches that do not overlap in one operation."""
        of = self._of
        for row, column, a, b in np.ndindex(*of.kernel, *of.pool):
            top = a * of.stride[0] + row
            first, remainder = divmod(b * of.stride[1] + column, of.step[1])
            rows = slice(top, top + (of.rows - 1) * of.step[0] + 1, of.step[0])
            target = self._dealt[:, rows, remainder, first : first + of.columns]
            yield partial(np.add, target, dpatches[row, column, :, a, b], out=target)


class PointwiseLayer(Layer):
    """A 1×1 convolution and its activation: the input is its own patches."""

    def __init__(self, conv: Conv2d, pool: MaxPool2d | None, context: LayerContext) -> None:
        assert pool is None, "pooling needs a layer of its own"
        self._kernel, self._bias = kernel_name(context.index, conv), bias_name(context.index, conv)
        shape, dtype, input_gradient = context.shape, context.dtype, context.input_gradient
        self._shape, self._filters, self._input_gradient = shape, conv.filters, input_gradient
        outputs = context.micro_batch * shape[0] * shape[1]
        self._x = Buffer(outputs * shape[2], dtype)
        self._products = Buffer(outputs * conv.filters, dtype)
        self._dkernel = Buffer(shape[2] * conv.filters, dtype)
        self._dx = Buffer(outputs * shape[2] * input_gradient, dtype)
        self._epilogue = Epilogue(1, outputs, conv.filters, conv.activation, dtype)
        self._bound: dict[int, tuple[Array, BoundEpilogue]] = {}
        self._kept: Array = self._x.array(0)

    def forward(self, params: Params, x: Array) -> Array:
        self._kept = x.transpose(1, 2, 0, 3)
        if not self._kept.flags.c_contiguous:
            self._kept = self._x.array(*self._shape[:2], len(x), self._shape[2])
            np.copyto(self._kept, x.transpose(1, 2, 0, 3))
        y, epilogue = self._at(len(x))
        kernel = params[self._kernel].reshape(-1, self._filters)
        np.matmul(self._kept.reshape(-1, len(kernel)), kernel, out=y.reshape(-1, self._filters))
        epilogue.forward(params[self._bias])
        return y.transpose(2, 0, 1, 3)

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:
        y, epilogue = self._at(len(dy))
        grads[self._bias] += epilogue.backward(dy.transpose(1, 2, 0, 3))
        kernel, dproducts = params[self._kernel].reshape(-1, self._filters), y.reshape(-1, self._filters)
        dkernel = self._dkernel.array(*kernel.shape)
        np.matmul(self._kept.reshape(-1, len(kernel)).T, dproducts, out=dkernel)
        grads[self._kernel] += dkernel.reshape(grads[self._kernel].shape)
        if not self._input_gradient:
            return None
        dx = self._dx.array(*self._kept.shape)
        np.matmul(dproducts, kernel.T, out=dx.reshape(-1, len(kernel)))
        return dx.transpose(2, 0, 1, 3)

    def _at(self, n: int) -> tuple[Array, BoundEpilogue]:
        """The outputs [height, width, n, filters], and their epilogue."""
        if n not in self._bound:
            y = self._products.array(*self._shape[:2], n, self._filters)
            self._bound[n] = y, self._epilogue.of([y], y)
        return self._bound[n]
