"""Depthwise convolutions, in runs of places that meet the same elements of the kernel: no padding is ever copied."""

import ctypes
import math
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from edged.adapters.kernels.kernel_layer import ACTIVATIONS, KernelLayer
from edged.adapters.kernels.structs import Depthwise, Meeting, Run
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
        geometry = _Geometry(spec, context.shape)
        forward = geometry.forward()
        struct.num_meetings, struct.meetings, struct.runs, struct.tap_x, struct.tap_w = self._add(forward, channels)
        if context.input_gradient:
            back = geometry.backward()
            (struct.num_meetings_back, struct.meetings_back, struct.runs_back, struct.tap_g, struct.tap_w_back) = (
                self._add(back, channels)
            )

    def _add(self, places: Iterator["_Place"], channels: int) -> tuple[int, int, int, int, int]:
        """How many meetings the places are in; the addresses of these, of their runs, taps and taps' weights."""
        found = _Meetings(places, channels)
        tables = self._tables
        meetings, runs = tables.add_structs(found.meetings, Meeting), tables.add_structs(found.runs, Run)
        return len(found.meetings), meetings, runs, tables.add(found.taps), tables.add(found.weights)

    def begin(self, params: Params) -> None:
        self._read("w", params[self._kernel], self._shape)
        self._read("bias", params[self._bias], self._shape[2:])

    def take_gradients(self, grads: Params) -> None:
        self._write("dw", grads[self._kernel], self._shape)
        self._write("dbias", grads[self._bias], self._shape[2:])


class _Place(NamedTuple):
    """A place that is written, and the first that it reads, by row and column; what it meets, from there.

    `taps`: (row, column) of each place that is read, relative to the first, and the number of the kernel's element.
    """

    row: int
    column: int
    target: int
    source: int
    taps: tuple[tuple[int, int], ...]


class _Geometry:
    def __init__(self, conv: DepthwiseConv2d, shape: Shape) -> None:
        self._shape, self._output = shape[:2], conv.output_shape(shape)[:2]
        self._kernel, self._stride = conv.kernel, conv.stride
        self._before = [
            same_padding(n, k, s)[0] if conv.padding == "same" else 0
            for n, k, s in zip(self._shape, conv.kernel, conv.stride, strict=True)
        ]

    def forward(self) -> Iterator[_Place]:
        """The outputs, and the inputs that they are made of."""
        rows, columns = ([self._read(axis, i) for i in range(self._output[axis])] for axis in (0, 1))
        return self._places(rows, columns, self._shape[1])

    def backward(self) -> Iterator[_Place]:
        """The inputs, and the outputs that they were part of."""
        rows, columns = ([self._read_back(axis, i) for i in range(self._shape[axis])] for axis in (0, 1))
        return self._places(rows, columns, self._output[1])

    def _places(self, rows: list["_Axis"], columns: list["_Axis"], width: int) -> Iterator[_Place]:
        """Those of all rows and columns, that read rows of `width`."""
        for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
            reads = [(place * width + at, k * self._kernel[1] + m) for k, place in row for m, at in column]
            first = min((at for at, _ in reads), default=0)
            taps = tuple((at - first, k) for at, k in reads)
            yield _Place(i, j, i * len(columns) + j, first, taps)

    def _read(self, axis: int, output: int) -> "_Axis":
        """The kernel's elements and inputs that an output is made of."""
        first = output * self._stride[axis] - self._before[axis]
        return [(k, first + k) for k in range(self._kernel[axis]) if 0 <= first + k < self._shape[axis]]

    def _read_back(self, axis: int, place: int) -> "_Axis":
        """The kernel's elements and outputs that an input was part of."""
        found = [(k, *divmod(place + self._before[axis] - k, self._stride[axis])) for k in range(self._kernel[axis])]
        return [(k, output) for k, output, rest in found if not rest and 0 <= output < self._output[axis]]


_Axis = list[tuple[int, int]]
"""Along one axis: the numbers of the kernel's elements that a place meets, and what it reads there."""


class _Meetings:
    """Places by the taps that they meet, and of each the runs, by row or by column, whatever makes fewer."""

    def __init__(self, places: Iterator[_Place], channels: int) -> None:
        self.meetings: list[ctypes.Structure] = []
        self.runs: list[ctypes.Structure] = []
        self.taps: list[int] = []
        self.weights: list[int] = []
        by_taps: dict[tuple[tuple[int, int], ...], list[_Place]] = {}
        for place in places:
            by_taps.setdefault(place.taps, []).append(place)
        for taps, group in by_taps.items():
            by_column = sorted(group, key=lambda place: (place.column, place.row))
            runs = min((_runs_of(each) for each in (group, by_column)), key=len)
            first, second = next((run[:2] for run in runs if len(run) > 1), (group[0], group[0]))
            step = second.source - first.source
            self.meetings.append(
                Meeting(
                    len(self.runs),
                    len(runs),
                    len(self.taps),
                    len(taps),
                    step * channels,
                    (second.target - first.target) * channels,
                    _across([at for at, _ in taps], step),
                )
            )
            self.runs += [Run(run[0].source * channels, run[0].target * channels, len(run)) for run in runs]
            self.taps += [at * channels for at, _ in taps]
            self.weights += [number * channels for _, number in taps]


def _runs_of(places: list[_Place]) -> list[list[_Place]]:
    """Parts of `places` in order, each of places at one distance from the next, in what they read and write."""
    runs: list[list[_Place]] = []
    steps: tuple[int, int] | None = None
    for place in places:
        before = runs[-1][-1] if runs else None
        between = before and (place.source - before.source, place.target - before.target)
        is_next = between is not None and between[0] > 0 and between[1] > 0 and between == (steps or between)
        is_near = before is not None and (place.row == before.row or place.column == before.column)
        if is_next and is_near:
            steps = between
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _across(taps: list[int], step: int) -> int:
    """How many rows of three neighbours the taps are, of which the next place has two in common; 0: they are none."""
    rows, rest = divmod(len(taps), 3)
    is_so = (
        not rest
        and 1 <= rows <= 3
        and all(
            taps[3 * row + 1] - taps[3 * row] == taps[3 * row + 2] - taps[3 * row + 1] == step for row in range(rows)
        )
    )
    return rows if is_so else 0
