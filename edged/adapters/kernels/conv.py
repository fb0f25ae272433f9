"""Convolutions by implicit patches: any kernel, stride and padding, and the pooling fused with them."""

import math

import numpy as np
import numpy.typing as npt

from edged.adapters.kernels.kernel_layer import ACTIVATIONS, KernelLayer
from edged.adapters.kernels.memory import AlignedBuffer
from edged.adapters.kernels.structs import ROWS, Conv, Group
from edged.domain.nn.context import LayerContext
from edged.domain.nn.conv import same_padding
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.spec import Conv1d, Conv2d, MaxPool2d

Offsets = npt.NDArray[np.int64]


class ConvLayer(KernelLayer):
    """A convolution, its activation and the `pool` fused with it, if any."""

    def __init__(self, spec: Conv2d | Conv1d, pool: MaxPool2d | None, context: LayerContext) -> None:
        struct = Conv()
        geometry = _Geometry(spec.as_2d if isinstance(spec, Conv1d) else spec, pool, context)
        output = (geometry.rows, geometry.columns, geometry.filters)
        super().__init__(struct, context, output[3 - len(context.shape) :])
        self._kernel, self._bias = kernel_name(context.index, spec), bias_name(context.index, spec)
        self._shape, self._geometry = spec.weights(context.shape)["kernel"], geometry
        self._transposed = AlignedBuffer(math.prod(self._shape) * context.input_gradient)
        self._places = AlignedBuffer(context.micro_batch * math.prod(output) * (geometry.window > 1), np.uint8)
        self._products = AlignedBuffer(max(ROWS, geometry.window) * geometry.filters * (geometry.window > 1))
        self._padded = AlignedBuffer(geometry.padded_size)
        self._g = AlignedBuffer(0 if geometry.is_in_place else math.prod(geometry.map))
        self._fill(struct, ACTIVATIONS[spec.activation])

    def _fill(self, struct: Conv, activation: int) -> None:
        of, tables = self._geometry, self._tables
        struct.channels, struct.filters, struct.taps = of.channels, of.filters, len(of.tap_x)
        struct.outputs, struct.window, struct.activation = len(of.at_x), of.window, activation
        struct.lines, struct.line = of.height, of.width * of.channels
        struct.padded_line, struct.padded_first = of.padded[1] * of.channels, of.padded_first
        struct.at_x, struct.at_g = tables.add(of.at_x), tables.add(of.at_g)
        struct.tap_x, struct.tap_w = tables.add(of.tap_x), tables.add(np.arange(len(of.tap_x)) * of.filters)
        if self._transposed.address:
            groups = [Group(len(group[0]), len(group[2]), *map(tables.add, group)) for group in of.groups()]
            struct.num_groups, struct.groups = len(groups), tables.add_structs(list(groups), Group)
        struct.wt, struct.places, struct.padded = self._transposed.address, self._places.address, self._padded.address
        struct.g, struct.products = self._g.address, self._products.address

    def begin(self, params: Params) -> None:
        of = self._geometry
        self._read("w", params[self._kernel], self._shape)
        self._read("bias", params[self._bias], (of.filters,))
        if self._transposed.address:
            kernel = params[self._kernel].reshape(-1, of.channels, of.filters)
            np.copyto(self._transposed.array(len(kernel), of.filters, of.channels), kernel.swapaxes(1, 2))

    def take_gradients(self, grads: Params) -> None:
        self._write("dw", grads[self._kernel], self._shape)
        self._write("dbias", grads[self._bias], (self._geometry.filters,))


class _Geometry:
    """Where everything lies in the padded input, and in the map of the outputs' gradients.

    The map has one place per output of the convolution before pooling, with margins of zeros, so that a pixel's taps
    that meet no output find a zero. Its rows and columns are those of the outputs, whatever the stride.
    """

    def __init__(self, conv: Conv2d, pool: MaxPool2d | None, context: LayerContext) -> None:
        self.height, self.width, self.channels = ((1,) * (3 - len(context.shape)) + context.shape)[:3]
        self.kernel, self.stride, self.filters = conv.kernel, conv.stride, conv.filters
        outputs = conv.output_shape((self.height, self.width, self.channels))
        pool = pool or MaxPool2d((1, 1), (1, 1))
        self.rows, self.columns, _ = pool.output_shape(outputs)
        self.window = math.prod(pool.size)
        (self.top, below), (self.left, right) = (
            same_padding(n, k, s) if conv.padding == "same" else (0, 0)
            for n, k, s in zip((self.height, self.width), conv.kernel, conv.stride, strict=True)
        )
        self.padded = (self.top + self.height + below, self.left + self.width + right)
        is_padded = self.padded != (self.height, self.width)
        self.padded_size = math.prod(self.padded) * self.channels * is_padded
        self.padded_first = (self.top * self.padded[1] + self.left) * self.channels

        # Outputs in the order in which they are computed: by window, and within it by row and column
        window_row, window_column, row, column = np.ix_(*map(range, (self.rows, self.columns, *pool.size)))
        zeros = np.zeros((self.rows, self.columns, *pool.size), np.int64)
        out_row = (window_row * pool.stride[0] + row + zeros).ravel()
        out_column = (window_column * pool.stride[1] + column + zeros).ravel()
        self.at_x = (out_row * self.stride[0] * self.padded[1] + out_column * self.stride[1]) * self.channels
        tap_row, tap_column, channel = np.indices((*self.kernel, self.channels)).reshape(3, -1)
        self.tap_x = (tap_row * self.padded[1] + tap_column) * self.channels + channel

        margins = [(k - 1) // s for k, s in zip(self.kernel, self.stride, strict=True)]
        last = ((self.height - 1 + self.top) // self.stride[0], (self.width - 1 + self.left) // self.stride[1])
        self._margins = margins
        self.map = (margins[0] + max(outputs[0], last[0] + 1), margins[1] + max(outputs[1], last[1] + 1), self.filters)
        self.at_g = self._in_map(out_row, out_column)
        self.is_in_place = self.window == 1 and not context.input_gradient
        if self.is_in_place:
            self.at_g = np.arange(len(self.at_x)) * self.filters

    def groups(self) -> list[tuple[Offsets, Offsets, Offsets, Offsets]]:
        """For pixels of each remainder modulo the strides: the tables of `structs.Group`."""
        result = []
        for remainders in np.ndindex(*self.stride):
            rows, columns = (
                np.array([i for i in range(size) if (i + before) % step == remainder], np.int64)
                for size, before, step, remainder in zip(
                    (self.height, self.width), (self.top, self.left), self.stride, remainders, strict=True
                )
            )
            row, column = (each.ravel() for each in np.meshgrid(rows, columns, indexing="ij"))
            at_g = self._in_map((row + self.top) // self.stride[0], (column + self.left) // self.stride[1])
            at_dx = (row * self.width + column) * self.channels
            tap_row, tap_column, tap_filter = (
                each.ravel()
                for each in np.meshgrid(
                    np.arange(remainders[0], self.kernel[0], self.stride[0]),
                    np.arange(remainders[1], self.kernel[1], self.stride[1]),
                    np.arange(self.filters),
                    indexing="ij",
                )
            )
            tap_g = (
                tap_filter - ((tap_row // self.stride[0]) * self.map[1] + tap_column // self.stride[1]) * self.filters
            )
            tap_w = ((tap_row * self.kernel[1] + tap_column) * self.filters + tap_filter) * self.channels
            result.append((at_g, at_dx, tap_g, tap_w))
        return result

    def _in_map(self, row: Offsets, column: Offsets) -> Offsets:
        """The offset of an output's gradient."""
        offsets: Offsets = ((row + self._margins[0]) * self.map[1] + column + self._margins[1]) * self.filters
        return offsets
