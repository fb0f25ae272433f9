"""A model's layers as TFLite operators, all float32.

Layers along a series become those of an image of height 1: the series is reshaped once, before the first of them. An
activation that TFLite cannot fuse into an operator becomes a step of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tflite

from edged.adapters.tflite.graph import Constant, Graph, Options
from edged.domain.nn.params import Params, weight_name
from edged.domain.nn.spec import (
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    LayerSpec,
    MaxPool1d,
    MaxPool2d,
    Relu,
    Relu6,
    Shape,
    Tanh,
)

SAMPLES = "samples"
"""The name of the input."""

_OPERATORS = tflite.BuiltinOperator
_ACTIVATION = {
    "none": tflite.ActivationFunctionType.NONE,
    "relu": tflite.ActivationFunctionType.RELU,
    "relu6": tflite.ActivationFunctionType.RELU6,
}
_PADDING = {"same": tflite.Padding.SAME, "valid": tflite.Padding.VALID}
_ELEMENTWISE = {Relu: _OPERATORS.RELU, Relu6: _OPERATORS.RELU6, Tanh: _OPERATORS.TANH}

_Weighted = Conv2d | DepthwiseConv2d | Conv1d | Dense


@dataclass(frozen=True, slots=True)
class Step:
    """A layer, or the part of layer `index` that TFLite has an operator for, and the name of its output."""

    index: int
    layer: LayerSpec
    name: str


def steps(layers: Sequence[LayerSpec]) -> list[Step]:
    """The layers; one with the activation tanh becomes two steps: its linear part, then a Tanh."""
    result: list[Step] = []
    for index, layer in enumerate(layers):
        name = f"{index}.{layer.kind}"
        if isinstance(layer, _Weighted) and layer.activation == "tanh":
            linear = replace(layer, activation="none")
            result += [Step(index, linear, f"{name}.linear"), Step(index, Tanh(), name)]
        else:
            result.append(Step(index, layer, name))
    return result


def lower(sample_shape: Shape, layers: Sequence[LayerSpec], params: Params) -> Graph:
    """The graph from samples to the last layer's output."""
    lowering = _Lowering(sample_shape, params)
    for step in steps(layers):
        lowering.add(step)
    return lowering.graph


def to_layout(layer: LayerSpec, weight: str, values: Constant) -> Constant:
    """A weight of `layer` in TFLite's order of axes, output channels first (depthwise: last)."""
    if weight != "kernel":
        return values
    match layer:
        case Conv2d():
            return values.transpose(3, 0, 1, 2)
        case Conv1d():
            return values.transpose(2, 0, 1)[:, np.newaxis]
        case DepthwiseConv2d():
            return values[np.newaxis]
        case _:
            return values.T


def from_layout(layer: LayerSpec, weight: str, values: Constant) -> Constant:
    """The inverse of `to_layout`. Raises ValueError for another number of axes."""
    if weight != "kernel":
        return values
    match layer:
        case Conv2d():
            return values.transpose(1, 2, 3, 0)
        case Conv1d():
            return values.squeeze(1).transpose(1, 2, 0)
        case DepthwiseConv2d():
            return values.squeeze(0)
        case _:
            return values.T


class _Lowering:
    """The graph so far; its output is the last tensor."""

    def __init__(self, sample_shape: Shape, params: Params) -> None:
        self.graph = Graph(SAMPLES, SAMPLES, {SAMPLES: sample_shape})
        self._params = params

    def add(self, step: Step) -> None:
        """Append what `step` computes."""
        layer = step.layer
        if isinstance(layer, Conv1d | MaxPool1d | AvgPool1d | GlobalAvgPool):
            self._to_image(step)
        match layer.as_2d if isinstance(layer, Conv1d | MaxPool1d | AvgPool1d) else layer:
            case (Conv2d() | DepthwiseConv2d()) as conv:
                self._conv(step, conv)
            case (MaxPool2d() | AvgPool2d()) as pool:
                self._pool(step, pool)
            case GlobalAvgPool():
                axes = self.graph.constant(f"{step.name}.axes", np.array([1, 2], np.int32))
                self._append(step, _OPERATORS.MEAN, [axes], self._output_shape[-1:], {"KeepDims": False})
            case GroupNorm() as norm:
                self._group_norm(step, norm)
            case Flatten():
                self._reshape(step.name, (math.prod(self._output_shape),))
            case Dense(units, activation):
                options = {"FusedActivationFunction": _ACTIVATION[activation]}
                self._append(step, _OPERATORS.FULLY_CONNECTED, self._weights(step), (units,), options)
            case (Relu() | Relu6() | Tanh()) as function:
                self._append(step, _ELEMENTWISE[type(function)], [], self._output_shape)
            case Dropout():
                pass  # active in training only

    @property
    def _output_shape(self) -> Shape:
        return self.graph.activations[self.graph.output]

    def _append(
        self, step: Step, code: int, constants: list[str], shape: Shape, options: Options | None = None
    ) -> None:
        at = self.graph.output
        self.graph.output = self.graph.add(code, [at, *constants], step.name, shape, options)

    def _reshape(self, name: str, shape: Shape, *, exact: bool = False) -> None:
        target = self.graph.constant(f"{name}.shape", np.array([-1, *shape], np.int32))
        inputs = [self.graph.output, target]
        self.graph.output = self.graph.add(_OPERATORS.RESHAPE, inputs, name, shape, exact=exact)

    def _to_image(self, step: Step) -> None:
        """Reshape [length, channels] to [1, length, channels], unless that is done."""
        if len(self._output_shape) == 2:
            self._reshape(f"{step.name}.raised", (1, *self._output_shape))

    def _weights(self, step: Step) -> list[str]:
        """Kernel and bias."""
        return [self._weight(step, weight) for weight in ("kernel", "bias")]

    def _weight(self, step: Step, weight: str) -> str:
        name = weight_name(step.index, step.layer, weight)
        return self.graph.constant(name, to_layout(step.layer, weight, self._params[name]))

    def _conv(self, step: Step, layer: Conv2d | DepthwiseConv2d) -> None:
        is_depthwise = isinstance(layer, DepthwiseConv2d)
        self._append(
            step,
            _OPERATORS.DEPTHWISE_CONV_2D if is_depthwise else _OPERATORS.CONV_2D,
            self._weights(step),
            layer.output_shape(self._output_shape),
            {
                "Padding": _PADDING[layer.padding],
                "StrideH": layer.stride[0],
                "StrideW": layer.stride[1],
                "FusedActivationFunction": _ACTIVATION[layer.activation],
                **({"DepthMultiplier": 1} if is_depthwise else {}),
            },
        )

    def _pool(self, step: Step, layer: MaxPool2d | AvgPool2d) -> None:
        self._append(
            step,
            _OPERATORS.MAX_POOL_2D if isinstance(layer, MaxPool2d) else _OPERATORS.AVERAGE_POOL_2D,
            [],
            layer.output_shape(self._output_shape),
            {
                "Padding": tflite.Padding.VALID,
                "StrideH": layer.stride[0],
                "StrideW": layer.stride[1],
                "FilterHeight": layer.size[0],
                "FilterWidth": layer.size[1],
            },
        )

    def _group_norm(self, step: Step, layer: GroupNorm) -> None:
        """(x - mean) / sqrt(variance + ε) over groups laid out as [positions, groups, channels of a group]."""
        graph, shape, name = self.graph, self._output_shape, step.name
        grouped = (math.prod(shape[:-1]), layer.groups, shape[-1] // layer.groups)
        self._reshape(f"{name}.groups", grouped, exact=True)
        x, moment = graph.output, (1, layer.groups, 1)
        axes = graph.constant(f"{name}.axes", np.array([1, 3], np.int32))
        epsilon = graph.constant(f"{name}.epsilon", np.array([layer.epsilon], np.float32))

        def compute(code: int, inputs: list[str], what: str, shape: Shape, options: Options | None = None) -> str:
            return graph.add(code, inputs, f"{name}.{what}", shape, options, exact=True)

        mean = compute(_OPERATORS.MEAN, [x, axes], "mean", moment, {"KeepDims": True})
        squares = compute(_OPERATORS.SQUARED_DIFFERENCE, [x, mean], "squares", grouped)
        variance = compute(_OPERATORS.MEAN, [squares, axes], "variance", moment, {"KeepDims": True})
        padded = compute(_OPERATORS.ADD, [variance, epsilon], "padded", moment)
        inverse = compute(_OPERATORS.RSQRT, [padded], "inverse", moment)
        centred = compute(_OPERATORS.SUB, [x, mean], "centred", grouped)
        graph.output = compute(_OPERATORS.MUL, [centred, inverse], "normal", grouped)
        self._reshape(f"{name}.normalised", shape, exact=True)
        scaled = compute(_OPERATORS.MUL, [graph.output, self._weight(step, "scale")], "scaled", shape)
        graph.output = graph.add(_OPERATORS.ADD, [scaled, self._weight(step, "bias")], name, shape, exact=True)
