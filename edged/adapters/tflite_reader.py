"""Reads back the .tflite files that `tflite_writer` writes, and only those, with the schema package and numpy.

For hosts where no TFLite runtime works. Unlike the runtimes it checks what it reads, so any bytes are safe to give it.
"""

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tflite

from edged.adapters.tflite_writer import LABELS
from edged.domain.nn.params import Params, bias_name, kernel_name, parameter_shapes
from edged.domain.nn.spec import (
    Activation,
    Conv2d,
    Dense,
    Flatten,
    LayerSpec,
    MaxPool2d,
    Padding,
    Relu,
    ShapeError,
    shapes,
)
from edged.errors import FormatError

_MOST_OPERATORS = 1024
_MOST_VALUES = 1 << 26
"""Values of one sample between two layers, or copied for a convolution; bounds what running the model allocates."""

_ACTIVATION: dict[int, Activation] = {
    tflite.ActivationFunctionType.NONE: "none",
    tflite.ActivationFunctionType.RELU: "relu",
}


@dataclass(frozen=True, slots=True)
class ReadModel:
    """What `to_tflite` was given."""

    sample_shape: tuple[int, ...]
    layers: tuple[LayerSpec, ...]
    params: Params
    labels: tuple[str, ...]


def read_tflite(content: bytes) -> ReadModel:
    """The model in `content`. Raises FormatError for anything that `to_tflite` would not have written."""
    try:
        return _Reader(content).read()
    except ShapeError as error:
        raise FormatError(f"the model's layers do not fit: {error}") from error
    except (struct.error, ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise FormatError("not a .tflite file, or a damaged one") from error  # offsets that lead nowhere


class _Reader:
    def __init__(self, content: bytes) -> None:
        if len(content) < 8 or not tflite.Model.ModelBufferHasIdentifier(content, 0):
            raise FormatError("not a .tflite file")
        self._model = tflite.Model.GetRootAs(content, 0)
        if self._model.SubgraphsLength() != 1:
            raise FormatError(f"{self._model.SubgraphsLength()} subgraphs, not 1")
        self._graph = self._model.Subgraphs(0)

    def read(self) -> ReadModel:
        if self._graph.InputsLength() != 1 or not 1 <= self._graph.OperatorsLength() <= _MOST_OPERATORS:
            raise FormatError("not one input and a moderate number of operators")
        at = self._graph.Inputs(0)
        sample_shape = tuple(int(n) for n in self._graph.Tensors(at).ShapeAsNumpy()[1:])
        if min(sample_shape, default=0) < 1:
            raise FormatError(f"samples of shape {sample_shape}")
        layers: list[LayerSpec] = []
        params: Params = {}
        *operators, last = (self._graph.Operators(i) for i in range(self._graph.OperatorsLength()))
        for operator in operators:
            at = self._follow(operator, at)
            layer, weights = self._layer(operator, len(layers))
            layers.append(layer)
            params |= weights
        if self._code(last) != tflite.BuiltinOperator.SOFTMAX or self._follow(last, at) != self._graph.Outputs(0):
            raise FormatError("the model does not end in a softmax")
        self._check(sample_shape, layers, params)
        return ReadModel(sample_shape, tuple(layers), params, self._labels())

    def _check(self, sample_shape: tuple[int, ...], layers: list[LayerSpec], params: Params) -> None:
        if {name: value.shape for name, value in params.items()} != parameter_shapes(sample_shape, layers):
            raise FormatError("weights do not fit their layers")
        before = shapes(sample_shape, layers)
        num_values = [math.prod(shape) for shape in before]
        for layer, shape in zip(layers, before, strict=False):
            if isinstance(layer, Conv2d):
                num_values.append(math.prod((*layer.output_shape(shape)[:2], *layer.kernel, shape[2])))
        if max(num_values) > _MOST_VALUES:
            raise FormatError(f"a layer of more than {_MOST_VALUES} values")

    def _follow(self, operator: Any, at: int) -> int:
        if operator.InputsLength() < 1 or operator.OutputsLength() != 1 or operator.Inputs(0) != at:
            raise FormatError("the operators are not one chain")
        return int(operator.Outputs(0))

    def _code(self, operator: Any) -> int:
        return int(self._model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode())

    def _layer(self, operator: Any, index: int) -> tuple[LayerSpec, Params]:
        operators = tflite.BuiltinOperator
        match self._code(operator):
            case operators.CONV_2D:
                options = _options(operator, tflite.Conv2DOptions)
                kernel, bias = self._weights(operator, (1, 2, 3, 0))
                stride = _positive(options.StrideH(), options.StrideW())
                padding: Padding = "same" if options.Padding() == tflite.Padding.SAME else "valid"
                if (options.DilationHFactor(), options.DilationWFactor()) != (1, 1):
                    raise FormatError("a dilated convolution")
                height, width = kernel.shape[:2]
                conv = Conv2d(kernel.shape[3], (height, width), stride, padding, _activation(options))
                return conv, {kernel_name(index, conv): kernel, bias_name(index, conv): bias}
            case operators.FULLY_CONNECTED:
                options = _options(operator, tflite.FullyConnectedOptions)
                kernel, bias = self._weights(operator, (1, 0))
                dense = Dense(kernel.shape[1], _activation(options))
                return dense, {kernel_name(index, dense): kernel, bias_name(index, dense): bias}
            case operators.MAX_POOL_2D:
                options = _options(operator, tflite.Pool2DOptions)
                if options.Padding() != tflite.Padding.VALID or _activation(options) != "none":
                    raise FormatError("a pooling with padding or activation")
                size = _positive(options.FilterHeight(), options.FilterWidth())
                return MaxPool2d(size, _positive(options.StrideH(), options.StrideW())), {}
            case operators.RESHAPE:
                if self._graph.Tensors(operator.Outputs(0)).ShapeLength() != 2:
                    raise FormatError("a reshape that does not flatten")
                return Flatten(), {}
            case operators.RELU:
                return Relu(), {}
            case other:
                raise FormatError(f"operator {other} is not one that edged writes")

    def _weights(self, operator: Any, axes: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Kernel, its axes put in the order `axes`, and bias."""
        kernel, bias = self._constant(operator.Inputs(1)), self._constant(operator.Inputs(2))
        if kernel.ndim != len(axes) or bias.ndim != 1:
            raise FormatError("weights with the wrong number of axes")
        return np.ascontiguousarray(kernel.transpose(axes)), bias

    def _constant(self, index: int) -> npt.NDArray[np.float32]:
        tensor = self._graph.Tensors(index)
        if tensor.Type() != tflite.TensorType.FLOAT32:
            raise FormatError("weights that are not float32")
        return np.frombuffer(self._content(tensor.Buffer()), "<f4").reshape(tensor.ShapeAsNumpy())

    def _content(self, buffer: int) -> bytes:
        content = self._model.Buffers(buffer).DataAsNumpy()
        if not isinstance(content, np.ndarray):
            raise FormatError("a buffer without content")
        return content.tobytes()

    def _labels(self) -> tuple[str, ...]:
        for index in range(self._model.MetadataLength()):
            note = self._model.Metadata(index)
            if note.Name() == LABELS.encode():
                labels = json.loads(self._content(note.Buffer()))
                if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
                    return tuple(labels)
        raise FormatError("no labels")


def _options(operator: Any, kind: Any) -> Any:
    table, options = operator.BuiltinOptions(), kind()
    options.Init(table.Bytes, table.Pos)
    return options


def _positive(*numbers: int) -> tuple[int, int]:
    if min(numbers) < 1:
        raise FormatError("a window or stride below 1")
    rows, columns = numbers
    return rows, columns


def _activation(options: Any) -> Activation:
    activation = _ACTIVATION.get(options.FusedActivationFunction())
    if activation is None:
        raise FormatError("an activation that edged does not write")
    return activation
