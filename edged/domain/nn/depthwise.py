"""Depthwise convolution, tap by tap: each of the kernel's places adds its product with a shifted input.

A row of the input is one run of columns × channels numbers, and a tap's weights are laid out along it, so that numpy
works on long runs however few the channels are. Columns that a stride skips would break the runs; so the input is
first sorted by column phase: phase p holds the columns p, p + stride, p + 2·stride, ….
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.conv import same_padding
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.spec import DepthwiseConv2d, Shape


class DepthwiseLayer:
    """A depthwise convolution and its bias, without its activation."""

    def __init__(
        self,
        index: int,
        conv: DepthwiseConv2d,
        shape: Shape,
        *,
        micro_batch: int,
        dtype: npt.DTypeLike,
        input_gradient: bool,
    ) -> None:
        self._kernel, self._bias = kernel_name(index, conv), bias_name(index, conv)
        self._conv, self._shape, self._input_gradient = conv, shape, input_gradient
        self._rows, columns, self._channels = conv.output_shape(shape)
        self._run = columns * self._channels
        same = conv.padding == "same"
        self._top, self._left = (
            same_padding(n, k, s)[0] if same else 0 for n, k, s in zip(shape[:2], conv.kernel, conv.stride, strict=True)
        )
        (kernel_rows, kernel_columns), (down, right) = conv.kernel, conv.stride
        self._num_phases = min(right, kernel_columns)
        self._padded = (self._rows - 1) * down + kernel_rows, columns + (kernel_columns - 1) // right
        num_padded = self._num_phases * micro_batch * math.prod(self._padded) * self._channels
        num_outputs = micro_batch * self._rows * self._run
        self._x = Buffer(num_padded, dtype)
        self._y = Buffer(num_outputs, dtype)
        self._product = Buffer(num_outputs, dtype)
        self._dx_sorted = Buffer(num_padded * input_gradient, dtype)
        self._dx = Buffer(micro_batch * math.prod(shape) * input_gradient, dtype)

    @property
    def buffer_bytes(self) -> int:
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Buffer))

    def forward(self, params: Params, x: Array) -> Array:
        n = len(x)
        phases = self._phases(self._x, n)
        for phase in range(self._num_phases):
            inside, source = self._overlap(phase)
            phases[inside] = x[source]  # the border stays zero
        y, product = self._outputs(self._y, n), self._outputs(self._product, n)
        y[:] = self._along_run(params[self._bias])
        for place, tap in self._taps(phases):
            y += np.multiply(tap, self._along_run(params[self._kernel][place]), out=product)
        return y.reshape(n, self._rows, -1, self._channels)

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:
        n = len(dy)
        flat, product = dy.reshape(n, self._rows, self._run), self._outputs(self._product, n)
        grads[self._bias] += self._by_channel(flat)
        dkernel = grads[self._kernel]
        for place, tap in self._taps(self._phases(self._x, n)):
            dkernel[place] += self._by_channel(np.multiply(tap, flat, out=product))
        if not self._input_gradient:
            return None
        phases = self._phases(self._dx_sorted, n)
        phases[:] = 0
        for place, tap in self._taps(phases):
            np.add(tap, np.multiply(flat, self._along_run(params[self._kernel][place]), out=product), out=tap)
        dx = self._dx.array(n, *self._shape)
        dx[:] = 0  # there may be places that no window covers
        for phase in range(self._num_phases):
            inside, target = self._overlap(phase)
            dx[target] = phases[inside]
        return dx

    def _phases(self, buffer: Buffer, n: int) -> Array:
        """An input sorted by column phase: [n, phases, rows, columns, channels]."""
        return buffer.array(n, self._num_phases, *self._padded, self._channels)

    def _outputs(self, buffer: Buffer, n: int) -> Array:
        return buffer.array(n, self._rows, self._run)

    def _taps(self, phases: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Each place of the kernel, and the input's values that it meets, a writable view [n, rows, run]."""
        down, right = self._conv.stride
        runs = phases.reshape(*phases.shape[:3], -1)
        for row, column in np.ndindex(*self._conv.kernel):
            rows = slice(row, row + (self._rows - 1) * down + 1, down)
            start = column // right * self._channels
            yield (row, column), runs[:, column % right, rows, start : start + self._run]

    def _along_run(self, weights: Array) -> Array:
        """A number for each channel, repeated for all columns."""
        return np.tile(weights, self._run // self._channels)

    def _by_channel(self, values: Array) -> Array:
        """The sum of [n, rows, run] for each channel."""
        sums: Array = values.reshape(-1, self._run).sum(axis=0).reshape(-1, self._channels).sum(axis=0)
        return sums

    def _overlap(self, phase: int) -> tuple[tuple[int | slice, ...], tuple[slice, ...]]:
        """Where in the sorted input's `phase` the input lies, and which of its values these are."""
        (height, width, _), right = self._shape, self._conv.stride[1]
        rows, columns = self._padded
        behind = min(rows, self._top + height)
        first = max(-(-(self._left - phase) // right), 0)
        last = max(min(columns, -(-(self._left + width - phase) // right)), first)
        source = first * right + phase - self._left
        return (
            (slice(None), phase, slice(self._top, behind), slice(first, last)),
            (slice(None), slice(0, behind - self._top), slice(source, source + (last - first) * right, right)),
        )
