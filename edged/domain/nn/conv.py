"""Convolution by im2col and one matrix product, with the max-pooling behind it taken in.

With a pooling behind it, the convolution's outputs are computed as one matrix per *phase*: phase (a, b) holds the
outputs at row a, column b of every pooling window. Pooling is then an element-wise maximum of contiguous matrices, its
backward pass likewise, outputs that no window covers are never computed, and bias and ReLU, which the maximum
commutes with, have only the pooled outputs to do. Without pooling there is one phase.
"""

import math

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.spec import Conv2d, MaxPool2d, Shape

_LEAST_RUN = 8
"""Where fewer values lie side by side, copying them one by one over many patches is faster than patch by patch."""

_NO_POOL = MaxPool2d((1, 1), (1, 1))


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """Zeros before and behind an axis for `padding: same`: evenly, the odd one behind, as TensorFlow does."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


class ConvLayer:
    """A convolution, its activation, and `pool` (windows that do not overlap) when there is one."""

    def __init__(
        self,
        index: int,
        conv: Conv2d,
        pool: MaxPool2d | None,
        shape: Shape,
        *,
        micro_batch: int,
        dtype: npt.DTypeLike,
        input_gradient: bool,
    ) -> None:
        pool = pool or _NO_POOL
        self._kernel, self._bias = kernel_name(index, conv), bias_name(index, conv)
        self._conv, self._shape, self._input_gradient = conv, shape, input_gradient
        self._rows, self._columns, _ = pool.output_shape(conv.output_shape(shape))
        self._phases = [(a, b) for a in range(pool.size[0]) for b in range(pool.size[1])]
        self._step = conv.stride[0] * pool.stride[0], conv.stride[1] * pool.stride[1]
        self._patch = (*conv.kernel, shape[2])

        same = conv.padding == "same"
        pads = [
            same_padding(n, k, s) if same else (0, 0)
            for n, k, s in zip(shape[:2], conv.kernel, conv.stride, strict=True)
        ]
        self._top, self._left = pads[0][0], pads[1][0]
        self._padded_shape = (shape[0] + sum(pads[0]), shape[1] + sum(pads[1]), shape[2])
        self._is_padded = self._padded_shape != shape

        outputs = micro_batch * self._rows * self._columns
        self._x_padded = Buffer(micro_batch * math.prod(self._padded_shape) * self._is_padded, dtype)
        self._patches = Buffer(len(self._phases) * outputs * math.prod(self._patch), dtype)
        self._products = Buffer(len(self._phases) * outputs * conv.filters, dtype)
        self._pooled = Buffer(outputs * conv.filters, dtype)
        self._y = Buffer(outputs * conv.filters, dtype)
        self._mask = Buffer(outputs * conv.filters, np.bool_)
        self._dkernel = Buffer(math.prod(self._patch) * conv.filters, dtype)
        self._dx = Buffer(micro_batch * math.prod(self._padded_shape) * input_gradient, dtype)
        self._dx_inner = Buffer(micro_batch * math.prod(shape) * (input_gradient and self._is_padded), dtype)

    @property
    def buffer_bytes(self) -> int:
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Buffer))

    def forward(self, params: Params, x: Array) -> Array:
        patches, products, pooled = self._matrices(len(x))
        self._gather(self._pad(x), patches)
        num_patches = math.prod(patches.shape[:4])
        kernel = params[self._kernel].reshape(-1, self._conv.filters)
        np.matmul(patches.reshape(num_patches, -1), kernel, out=products.reshape(num_patches, -1))
        if len(self._phases) == 1:
            pooled = products[0]
        else:
            np.maximum(products[0], products[1], out=pooled)
            for product in products[2:]:
                np.maximum(pooled, product, out=pooled)
        y = self._y.array(*pooled.shape)
        np.add(pooled, params[self._bias], out=y)
        if self._conv.activation == "relu":
            np.maximum(y, 0, out=y)
        return y

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:
        patches, products, pooled = self._matrices(len(dy))
        if self._conv.activation == "relu":
            passed = self._mask.array(*dy.shape)
            np.greater(self._y.array(*dy.shape), 0, out=passed)
            np.multiply(dy, passed, out=dy)
        grads[self._bias] += dy.reshape(-1, self._conv.filters).sum(axis=0)
        self._unpool(dy, products, pooled)

        num_patches = math.prod(patches.shape[:4])
        patch_matrix, dproducts = patches.reshape(num_patches, -1), products.reshape(num_patches, -1)
        dkernel = self._dkernel.array(math.prod(self._patch), self._conv.filters)
        np.matmul(patch_matrix.T, dproducts, out=dkernel)
        grads[self._kernel] += dkernel.reshape(grads[self._kernel].shape)
        if not self._input_gradient:
            return None
        kernel = params[self._kernel].reshape(-1, self._conv.filters)
        np.matmul(dproducts, kernel.T, out=patch_matrix)  # the patches have done their work
        return self._scatter(patches)

    def _matrices(self, n: int) -> tuple[Array, Array, Array]:
        """Patches [phases, n, rows, columns, *kernel, channels], their products with the kernel, and these pooled."""
        outputs = (n, self._rows, self._columns)
        phases = len(self._phases)
        return (
            self._patches.array(phases, *outputs, *self._patch),
            self._products.array(phases, *outputs, self._conv.filters),
            self._pooled.array(*outputs, self._conv.filters),
        )

    def _pad(self, x: Array) -> Array:
        if not self._is_padded:
            return x
        padded = self._x_padded.array(len(x), *self._padded_shape)
        self._inner(padded)[:] = x  # the border stays zero
        return padded

    def _inner(self, padded: Array) -> Array:
        height, width, _ = self._shape
        return padded[:, self._top : self._top + height, self._left : self._left + width]

    def _gather(self, x: Array, patches: Array) -> None:
        rows, columns, channels = self._patch
        for phase, target in zip(self._phases, patches, strict=True):
            if columns * channels >= _LEAST_RUN:
                np.copyto(target, _windows(x, rows, columns)[self._corners(phase)])
                continue
            for row, column, channel in np.ndindex(self._patch):
                np.copyto(target[..., row, column, channel], x[self._corners(phase, row, column)][..., channel])

    def _scatter(self, dpatches: Array) -> Array:
        """The sum of all patches' gradients at their places in the input.

        Whole rows of patches are added, of as many patches at once as do not share a column.
        """
        n = dpatches.shape[1]
        dx = self._dx.array(n, *self._padded_shape)
        dx[:] = 0
        kernel_rows, kernel_columns, _ = self._patch
        windows = _windows(dx, 1, kernel_columns)[:, :, :, 0]
        apart = -(-kernel_columns // self._step[1])
        for phase, source in zip(self._phases, dpatches, strict=True):
            for row in range(kernel_rows):
                target = windows[self._corners(phase, row)]
                for first in range(apart):
                    target[:, :, first::apart] += source[:, :, first::apart, row]
        if not self._is_padded:
            return dx
        inner = self._dx_inner.array(n, *self._shape)
        inner[:] = self._inner(dx)
        return inner

    def _corners(self, phase: tuple[int, int], row: int = 0, column: int = 0) -> tuple[slice, slice, slice]:
        """Where in the padded input the phase's patches have their element at `row`, `column`."""
        top = phase[0] * self._conv.stride[0] + row
        left = phase[1] * self._conv.stride[1] + column
        return (
            slice(None),
            slice(top, top + (self._rows - 1) * self._step[0] + 1, self._step[0]),
            slice(left, left + (self._columns - 1) * self._step[1] + 1, self._step[1]),
        )

    def _unpool(self, dy: Array, products: Array, pooled: Array) -> None:
        """Put each gradient where its window's maximum was (the first, if several), zero elsewhere; uses up `dy`."""
        if len(self._phases) == 1:
            products[0] = dy
            return
        is_maximum = self._mask.array(*dy.shape)
        for product in products[:-1]:
            np.equal(product, pooled, out=is_maximum)
            np.multiply(dy, is_maximum, out=product)
            np.subtract(dy, product, out=dy)
        np.copyto(products[-1], dy)


def _windows(x: Array, rows: int, columns: int) -> Array:
    """All windows of x [n, height, width, channels], a writable view: [n, top, left, rows, columns, channels].

    Writing through it at once to windows that share elements is not defined.
    """
    n, height, width, channels = x.shape
    shape = (n, height - rows + 1, width - columns + 1, rows, columns, channels)
    return as_strided(x, shape, (*x.strides[:3], *x.strides[1:]))
