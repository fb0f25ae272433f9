"""Depthwise convolution, tap by tap: each element of the kernel adds its product with a shifted input.

Internally samples come after rows and columns: [rows, columns, n, channels]. So a tap's inputs are a slice by rows and
columns, whatever the stride, in blocks of n × channels values, for which the tap's weights are repeated n times.
"""

import math
from functools import partial

import numpy as np

from edged.domain.nn.buffer import Array, Buffer, Steps, run
from edged.domain.nn.context import LayerContext
from edged.domain.nn.conv import same_padding
from edged.domain.nn.epilogue import Epilogue
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.spec import DepthwiseConv2d, Shape


class DepthwiseLayer(Layer):
    """A depthwise convolution and its activation."""

    def __init__(self, conv: DepthwiseConv2d, context: LayerContext) -> None:
        self._kernel, self._bias = kernel_name(context.index, conv), bias_name(context.index, conv)
        self._input_gradient = context.input_gradient
        self._geometry = _Geometry(conv, context.shape)
        self._memory = _Memory(self._geometry, context)
        self._views: dict[int, _Views] = {}

    def forward(self, params: Params, x: Array) -> Array:
        at = self._at(len(x))
        if self._geometry.is_padded:
            at.padded.fill(0)
        np.copyto(at.inner, x)
        np.copyto(at.weights, params[self._kernel][:, :, np.newaxis])
        run(at.correlate)
        at.epilogue.forward(params[self._bias])
        return at.y

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:  # noqa: ARG002 - laid out by forward
        at = self._at(len(dy))
        grads[self._bias] += at.epilogue.backward(dy.transpose(1, 2, 0, 3))
        run(at.sum_products)
        grads[self._kernel] += at.dkernel
        if not self._input_gradient:
            return None
        run(at.scatter)
        return at.dx

    def _at(self, n: int) -> "_Views":
        if n not in self._views:
            self._views[n] = _Views(self._geometry, self._memory, n)
        return self._views[n]


class _Geometry:
    """Sizes, without samples."""

    def __init__(self, conv: DepthwiseConv2d, shape: Shape) -> None:
        self.height, self.width, self.channels = shape
        self.kernel, self.stride, self.activation = conv.kernel, conv.stride, conv.activation
        self.rows, self.columns, _ = conv.output_shape(shape)
        self.top, self.left = (
            same_padding(n, k, s)[0] if conv.padding == "same" else 0
            for n, k, s in zip(shape[:2], conv.kernel, conv.stride, strict=True)
        )
        (down, right), (kernel_rows, kernel_columns) = conv.stride, conv.kernel
        self.padded = (
            max((self.rows - 1) * down + kernel_rows, self.top + self.height),
            max((self.columns - 1) * right + kernel_columns, self.left + self.width),
        )
        self.is_padded = self.padded != (self.height, self.width)


class _Memory:
    """The buffers that micro-batches of all sizes share."""

    def __init__(self, of: _Geometry, context: LayerContext) -> None:
        micro_batch, dtype, input_gradient = context.micro_batch, context.dtype, context.input_gradient
        outputs = micro_batch * of.rows * of.columns
        padded = micro_batch * math.prod(of.padded) * of.channels
        taps = math.prod(of.kernel) * of.channels
        self.x = Buffer(padded, dtype)
        self.weights = Buffer(taps * micro_batch, dtype)
        self.product = Buffer(outputs * of.channels, dtype)
        self.y = Buffer(outputs * of.channels, dtype)
        self.dkernel = Buffer(taps, dtype)
        self.dx = Buffer(padded * input_gradient, dtype)
        self.has_dx = input_gradient
        self.epilogue = Epilogue(1, outputs, of.channels, of.activation, dtype)


class _Views:
    """The buffers as a micro-batch of `n` samples uses them, and the steps on them."""

    def __init__(self, of: _Geometry, memory: _Memory, n: int) -> None:
        self._of = of
        self.padded = memory.x.array(*of.padded, n, of.channels)
        self.inner = self._inside(self.padded)
        self.weights = memory.weights.array(*of.kernel, n, of.channels)
        self.dkernel = memory.dkernel.array(*of.kernel, of.channels)
        y = memory.y.array(of.rows, of.columns, n, of.channels)
        self.y = y.transpose(2, 0, 1, 3)
        self.epilogue = memory.epilogue.of([y], y)
        self._outputs = memory.y.array(of.rows, of.columns, n * of.channels)  # fewer axes: simpler loops
        self._product = memory.product.array(*self._outputs.shape)
        first, *others = np.ndindex(*of.kernel)
        self.correlate: Steps = [
            partial(np.multiply, self._inputs_at(self.padded, first), self._weights_at(first), out=self._outputs),
            *(step for tap in others for step in self._correlate(tap)),
        ]
        ones = memory.epilogue.ones.array(self._product.size // of.channels)
        self.sum_products: Steps = [step for tap in (first, *others) for step in self._sum_products(tap, ones)]
        if memory.has_dx:
            dx = memory.dx.array(*self.padded.shape)
            self.dx = self._inside(dx)
            steps = (step for tap in (first, *others) for step in self._scatter(tap, dx))
            self.scatter: Steps = [partial(dx.fill, 0), *steps]

    def _correlate(self, tap: tuple[int, ...]) -> Steps:
        return [
            partial(np.multiply, self._inputs_at(self.padded, tap), self._weights_at(tap), out=self._product),
            partial(np.add, self._outputs, self._product, out=self._outputs),
        ]

    def _sum_products(self, tap: tuple[int, ...], ones: Array) -> Steps:
        """The gradient of the weights at `tap`. The outputs' memory holds their gradients by then."""
        by_channel = self._product.reshape(len(ones), -1)
        return [
            partial(np.multiply, self._inputs_at(self.padded, tap), self._outputs, out=self._product),
            partial(np.matmul, ones, by_channel, out=self.dkernel[tap]),  # a product sums faster than `sum`
        ]

    def _scatter(self, tap: tuple[int, ...], dx: Array) -> Steps:
        inputs = self._inputs_at(dx, tap)
        return [
            partial(np.multiply, self._outputs, self._weights_at(tap), out=self._product),
            partial(np.add, inputs, self._product, out=inputs),
        ]

    def _weights_at(self, tap: tuple[int, ...]) -> Array:
        along: Array = self.weights[tap].reshape(-1)
        return along

    def _inside(self, padded: Array) -> Array:
        """The part of `padded` that holds the input, as [n, height, width, channels]."""
        of = self._of
        return padded[of.top : of.top + of.height, of.left : of.left + of.width].transpose(2, 0, 1, 3)

    def _inputs_at(self, padded: Array, tap: tuple[int, ...]) -> Array:
        """The inputs that the kernel's element `tap` is multiplied with: [rows, columns, n · channels]."""
        of = self._of
        rows, columns = (
            slice(first, first + (count - 1) * stride + 1, stride)
            for first, count, stride in zip(tap, (of.rows, of.columns), of.stride, strict=True)
        )
        return padded.reshape(*of.padded, -1)[rows, columns]
