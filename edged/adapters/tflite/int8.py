"""Quantises a float32 graph to int8, by TFLite's full-integer scheme.

Kernels are symmetric, with a scale per output channel of a convolution and one per dense layer (which every runtime
supports); biases are int32; activations are asymmetric, by the ranges of calibration samples. Samples are quantised
after the input; group norms stay float32. Scheme:
https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import tflite

from edged.adapters.tflite.graph import Graph, Operator, Quantisation
from edged.domain.nn.ranges import Range

_OPERATORS = tflite.BuiltinOperator
_CHANNEL_AXIS = {_OPERATORS.CONV_2D: 0, _OPERATORS.DEPTHWISE_CONV_2D: 3}
_WEIGHTED = {*_CHANNEL_AXIS, _OPERATORS.FULLY_CONNECTED}
_SCALE_PRESERVING = {_OPERATORS.RESHAPE, _OPERATORS.MAX_POOL_2D, _OPERATORS.AVERAGE_POOL_2D}
"""Operators whose output has the scale of their input."""

_TANH = Quantisation(np.array([1 / 128], np.float32))
_MIN_RATIO = 2.0**-24
"""Of (input scale × kernel scale) to output scale. XNNPACK accepts 2^-32 and above; smaller ones have no effect."""
_MAX_BIAS = 2.0**30


def quantise(graph: Graph, ranges: Mapping[str, Range]) -> Graph:
    """The int8 graph, its output float32 again. `ranges`: of the input, and of each output that is not exact."""
    return _Quantising(graph, ranges).run()


def quantisation_of(lowest: float, highest: float) -> Quantisation:
    """int8 for values from `lowest` to `highest`; 0 is always included, exactly."""
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    scale = np.float32((highest - lowest) / 255 or 1 / 255)
    return Quantisation(np.array([scale], np.float32), zero_point=round(-128 - lowest / float(scale)))


class _Quantising:
    def __init__(self, graph: Graph, ranges: Mapping[str, Range]) -> None:
        self._from, self._ranges = graph, ranges
        self._to = Graph(graph.input, graph.output, {graph.input: graph.activations[graph.input]})
        self._twin: dict[str, str] = {}  # the same tensor in the other type

    def run(self) -> Graph:
        for operator in self._from.operators:
            if operator.exact:
                inputs = [self._exact(name) for name in operator.inputs]
                self._add(operator, inputs, None)
            elif operator.code in _WEIGHTED:
                self._add_weighted(operator)
            else:
                x, *constants = operator.inputs
                x = self._int8(x)
                self._add(operator, [x, *map(self._constant, constants)], self._output(operator, x))
        self._to.output = self._exact(self._from.output)
        return self._to

    def _output(self, operator: Operator, x: str) -> Quantisation:
        if operator.code in _SCALE_PRESERVING:
            return self._to.quantisations[x]
        if operator.code == _OPERATORS.TANH:
            return _TANH  # the only one that the runtimes accept
        return quantisation_of(*self._ranges[operator.output])

    def _add(self, operator: Operator, inputs: list[str], quantisation: Quantisation | None) -> None:
        shape = self._from.activations[operator.output]
        self._to.add(operator.code, inputs, operator.output, shape, operator.options, exact=operator.exact)
        if quantisation is not None:
            self._to.quantisations[operator.output] = quantisation

    def _add_weighted(self, operator: Operator) -> None:
        x, kernel, bias = operator.inputs
        x, output = self._int8(x), quantisation_of(*self._ranges[operator.output])
        x_scale = float(self._to.quantisations[x].scales[0])
        weights, biases = self._from.constants[kernel], self._from.constants[bias]
        axis = _CHANNEL_AXIS.get(operator.code)
        min_scale = float(output.scales[0]) * _MIN_RATIO / x_scale
        scales = np.maximum(
            _largest(weights, axis) / 127, _largest(biases, None if axis is None else 0) / (x_scale * _MAX_BIAS)
        )
        scales = np.maximum(scales, min_scale).astype(np.float32)
        self._keep(kernel, weights, Quantisation(scales, axis=axis or 0), np.int8)
        self._keep(bias, biases, Quantisation((x_scale * scales).astype(np.float32)), np.int32)
        self._add(operator, [x, kernel, bias], output)

    def _keep(
        self, name: str, values: npt.NDArray[np.float32], to: Quantisation, dtype: type[np.int8 | np.int32]
    ) -> None:
        along = [-1 if axis == to.axis else 1 for axis in range(values.ndim)] if len(to.scales) > 1 else 1
        steps = np.rint(values.astype(np.float64) / to.scales.reshape(along))
        if dtype is np.int8:
            steps = np.clip(steps, -127, 127)
        self._to.constant(name, steps.astype(dtype))
        self._to.quantisations[name] = to

    def _constant(self, name: str) -> str:
        return self._to.constant(name, self._from.constants[name])

    def _int8(self, name: str) -> str:
        """The int8 tensor of `name`, converted if necessary."""
        if name in self._to.quantisations:
            return name
        if name not in self._twin:
            self._twin[name] = self._convert(_OPERATORS.QUANTIZE, name, f"{name}.int8")
            self._to.quantisations[self._twin[name]] = quantisation_of(*self._ranges[name])
        return self._twin[name]

    def _exact(self, name: str) -> str:
        """The float32 tensor of `name`, converted if necessary."""
        if name in self._from.constants:
            return self._constant(name)
        if name not in self._to.quantisations:
            return name
        if name not in self._twin:
            self._twin[name] = self._convert(_OPERATORS.DEQUANTIZE, name, f"{name}.float32")
        return self._twin[name]

    def _convert(self, code: int, name: str, twin: str) -> str:
        return self._to.add(code, [name], twin, self._from.activations[name])


def _largest(values: npt.NDArray[np.float32], axis: int | None) -> npt.NDArray[np.float64]:
    """The largest absolute value, [1], or that of each index along `axis`."""
    magnitudes = np.abs(values.astype(np.float64))
    channels = magnitudes[np.newaxis] if axis is None else np.moveaxis(magnitudes, axis, 0)
    return np.asarray(channels.reshape(len(channels), -1).max(axis=1))
