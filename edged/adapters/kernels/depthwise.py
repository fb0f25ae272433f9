"""Depthwise convolutions, in runs of places that meet the same elements of the kernel: no padding is ever copied."""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from edged.adapters.kernels.kernel_layer import ACTIVATIONS, KernelLayer
from edged.adapters.kernels.structs import Depthwise, Run
from edged.domain.nn.context import LayerContext
from edged.domain.nn.conv import same_padding
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.spec import DepthwiseConv2d, Shape


class DepthwiseLayer(KernelLayer):
    """A depthwise convolution and its activation."""

    def __init__(self, spec: DepthwiseConv2d, context: LayerContext) -> None:
        struct = Depthwise()
        super().__init__(struct, context, spec.output_shape(context.shape))
        self._kernel, self._bias = kernel_name(context.index, spec), bias_name(context.index, spec)
        self._shape = spec.weights(context.shape)["kernel"]
        channels = context.shape[2]
        struct.channels, struct.activation = channels, ACTIVATIONS[spec.activation]
        struct.inputs, struct.results = math.prod(context.shape), math.prod(self.output_shape)
        struct.step = spec.stride[1] * channels
        geometry = _Geometry(spec, context.shape)
        runs = _Runs(geometry.forward(), width=context.shape[1], channels=channels, kernel_columns=spec.kernel[1])
        struct.num_runs, struct.runs = len(runs.runs), self._tables.add_structs(list(runs.runs), Run)
        struct.tap_x, struct.tap_w = self._tables.add(runs.taps), self._tables.add(runs.weights)
        if context.input_gradient:
            runs = _Runs(geometry.backward(), self.output_shape[1], channels=channels, kernel_columns=spec.kernel[1])
            struct.num_runs_back, struct.runs_back = len(runs.runs), self._tables.add_structs(list(runs.runs), Run)
            struct.tap_g, struct.tap_w_back = self._tables.add(runs.taps), self._tables.add(runs.weights)

    def begin(self, params: Params) -> None:
        self._read("w", params[self._kernel], self._shape)
        self._read("bias", params[self._bias], self._shape[2:])

    def take_gradients(self, grads: Params) -> None:
        self._write("dw", grads[self._kernel], self._shape)
        self._write("dbias", grads[self._bias], self._shape[2:])


class _Place(NamedTuple):
    """A place that is written, and what it meets: [(kernel's row, row that is read), …], and the same for columns."""

    target: int
    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]

    def kernel_columns(self) -> list[int]:
        """Those of the kernel's columns that it meets."""
        return [column for column, _ in self.columns]


class _Geometry:
    def __init__(self, conv: DepthwiseConv2d, shape: Shape) -> None:
        self._shape, self._output = shape[:2], conv.output_shape(shape)[:2]
        self._kernel, self._stride = conv.kernel, conv.stride
        self._before = [
            same_padding(n, k, s)[0] if conv.padding == "same" else 0
            for n, k, s in zip(self._shape, conv.kernel, conv.stride, strict=True)
        ]

    def forward(self) -> Iterator[list[_Place]]:
        """The outputs in lines of which each place's neighbour reads `stride` columns further."""
        for row in range(self._output[0]):
            yield [
                _Place(row * self._output[1] + column, self._read(0, row), self._read(1, column))
                for column in range(self._output[1])
            ]

    def backward(self) -> Iterator[list[_Place]]:
        """The inputs in lines of which each place's neighbour reads one column further."""
        for row in range(self._shape[0]):
            for remainder in range(self._stride[1]):
                yield [
                    _Place(row * self._shape[1] + column, self._read_back(0, row), self._read_back(1, column))
                    for column in range(self._shape[1])
                    if (column + self._before[1]) % self._stride[1] == remainder
                ]

    def _read(self, axis: int, output: int) -> tuple[tuple[int, int], ...]:
        """The kernel's elements and inputs that an output is made of."""
        first = output * self._stride[axis] - self._before[axis]
        return tuple((k, first + k) for k in range(self._kernel[axis]) if 0 <= first + k < self._shape[axis])

    def _read_back(self, axis: int, place: int) -> tuple[tuple[int, int], ...]:
        """The kernel's elements and outputs that an input was part of."""
        found = [(k, *divmod(place + self._before[axis] - k, self._stride[axis])) for k in range(self._kernel[axis])]
        return tuple((k, output) for k, output, rest in found if not rest and 0 <= output < self._output[axis])


class _Runs:
    """The runs of lines of places, and their lists of taps, each list once."""

    def __init__(self, lines: Iterator[list[_Place]], width: int, channels: int, kernel_columns: int) -> None:
        self.runs: list[Run] = []
        self.taps: list[int] = []
        self.weights: list[int] = []
        known: dict[tuple[tuple[int, int], ...], int] = {}
        for line in lines:
            for _, group in groupby(line, key=_Place.kernel_columns):
                places = list(group)
                rows, columns = places[0].rows, places[0].columns
                reads = [(k, i, m, j) for k, i in rows for m, j in columns]
                first = min((i * width + j for _, i, _, j in reads), default=0)
                taps = tuple(
                    ((i * width + j - first) * channels, (k * kernel_columns + m) * channels) for k, i, m, j in reads
                )
                if taps not in known:
                    known[taps] = len(self.taps)
                    self.taps += [at for at, _ in taps]
                    self.weights += [weight for _, weight in taps]
                target = places[0].target * channels
                self.runs.append(Run(first * channels, target, len(places), known[taps], len(taps)))
