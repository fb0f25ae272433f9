"""Reads the .tflite files that `writer` writes, and only those, with the schema package and numpy.

For hosts where no TFLite runtime works. The layers are in the file's metadata, the weights are found by name; operators
are ignored. Weights of an int8 model become float32, rounded as in the file. Unlike the runtimes, it validates what it
reads, so any bytes are safe.
"""

import json
import math
import struct
from dataclasses import dataclass, fields
from types import GenericAlias
from typing import Any, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
import tflite

from edged.adapters.tflite.lowering import from_layout, to_layout
from edged.adapters.tflite.writer import LABELS, LAYERS
from edged.domain.counted import counted
from edged.domain.nn.params import Params, weight_name
from edged.domain.nn.spec import DESCRIBED, Conv1d, Conv2d, DepthwiseConv2d, LayerSpec, Shape, ShapeError, shapes
from edged.errors import FormatError

_MAX_LAYERS = 1024
_MAX_TENSORS = 1 << 14
_MAX_SIZE = 1 << 24
"""Of any whole number in a layer's settings."""
_MAX_VALUES = 1 << 26
"""Values of one sample between two layers, or copied for a convolution; limits what running the model allocates."""

_MAX_METADATA = 1 << 10
_DAMAGE = (
    struct.error, ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError, RecursionError,
    ZeroDivisionError,
)  # fmt: skip
"""The errors that invalid offsets in a damaged file cause."""

_DTYPES = {tflite.TensorType.FLOAT32: "<f4", tflite.TensorType.INT32: "<i4", tflite.TensorType.INT8: "i1"}
_LAYER_OF_KIND: dict[str, type[LayerSpec]] = {layer.kind: layer for layer in get_args(LayerSpec)}


@dataclass(frozen=True, slots=True)
class ReadModel:
    """The arguments that `to_tflite` was called with."""

    sample_shape: tuple[int, ...]
    layers: tuple[LayerSpec, ...]
    params: Params
    labels: tuple[str, ...] | None
    """None: not a classifier."""


def read_tflite(content: bytes) -> ReadModel:
    """The model in `content`. Raises FormatError for anything that `to_tflite` would not have written."""
    try:
        return _Reader(content).read()
    except ShapeError as error:
        raise FormatError(f"the model's layers do not fit: {error}") from error
    except _DAMAGE as error:
        raise FormatError("not a .tflite file of edged's, or a damaged one") from error


def is_own(content: bytes) -> bool:
    """Whether the file claims to be one for `read_tflite`."""
    try:
        model = tflite.Model.GetRootAs(content, 0)
        names = {model.Metadata(index).Name() for index in range(min(model.MetadataLength(), _MAX_METADATA))}
    except _DAMAGE:
        return False
    return LAYERS.encode() in names


class _Reader:
    def __init__(self, content: bytes) -> None:
        if len(content) < 8 or not tflite.Model.ModelBufferHasIdentifier(content, 0):
            raise FormatError("not a .tflite file")
        self._model = tflite.Model.GetRootAs(content, 0)
        if self._model.SubgraphsLength() != 1:
            raise FormatError(f"{counted(self._model.SubgraphsLength(), 'subgraph')}, not 1")
        self._graph = self._model.Subgraphs(0)

    def read(self) -> ReadModel:
        if self._graph.InputsLength() != 1 or not 1 <= self._graph.TensorsLength() <= _MAX_TENSORS:
            raise FormatError("not one input and a moderate number of tensors")
        sample_shape = tuple(int(n) for n in self._graph.Tensors(self._graph.Inputs(0)).ShapeAsNumpy()[1:])
        if min(sample_shape, default=0) < 1:
            raise FormatError(f"samples of shape {sample_shape}")
        layers = _layers(self._metadata(LAYERS))
        before = shapes(sample_shape, layers)
        _check_size(before, layers)
        tensors = {tensor.Name(): tensor for tensor in map(self._graph.Tensors, range(self._graph.TensorsLength()))}
        params: Params = {}
        for index, (layer, shape) in enumerate(zip(layers, before, strict=False)):
            for weight, weight_shape in layer.weights(shape).items():
                name = weight_name(index, layer, weight)
                tensor = tensors.get(name.encode())
                if tensor is None:
                    raise FormatError(f"no weights {name}")
                params[name] = self._weight(tensor, layer, weight, weight_shape)
        return ReadModel(sample_shape, layers, params, self._labels(before[-1]))

    def _labels(self, output_shape: Shape) -> tuple[str, ...] | None:
        labels = self._metadata(LABELS)
        if labels is None:
            return None
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise FormatError("labels that are no list of texts")
        if output_shape != (len(labels),):
            raise FormatError(f"outputs of shape {output_shape} for {counted(len(labels), 'label')}")
        return tuple(labels)

    def _weight(self, tensor: Any, layer: LayerSpec, weight: str, shape: Shape) -> npt.NDArray[np.float32]:
        stored_shape = tuple(int(n) for n in tensor.ShapeAsNumpy())
        if tensor.Type() not in _DTYPES or stored_shape != _stored_shape(layer, weight, shape):
            raise FormatError("weights that do not fit their layer")
        stored = np.frombuffer(self._content(tensor.Buffer()), _DTYPES[tensor.Type()]).reshape(stored_shape)
        values = stored if stored.dtype == np.float32 else _dequantised(stored, tensor.Quantization())
        if not np.isfinite(values).all():
            raise FormatError("weights that are not finite")
        return np.array(from_layout(layer, weight, values), np.float32, order="C")

    def _content(self, buffer: int) -> bytes:
        content = self._model.Buffers(buffer).DataAsNumpy()
        if not isinstance(content, np.ndarray):
            raise FormatError("a buffer without content")
        return content.tobytes()

    def _metadata(self, name: str) -> Any:
        """The metadata `name`, parsed from JSON; None when absent."""
        for index in range(self._model.MetadataLength()):
            entry = self._model.Metadata(index)
            if entry.Name() == name.encode():
                return json.loads(self._content(entry.Buffer()))
        return None


def _stored_shape(layer: LayerSpec, weight: str, shape: Shape) -> Shape:
    return to_layout(layer, weight, np.broadcast_to(np.float32(0), shape)).shape


def _dequantised(stored: npt.NDArray[Any], quantisation: Any) -> npt.NDArray[np.float32]:
    """The real values of weights; their zero points are 0."""
    scales = quantisation.ScaleAsNumpy().astype("<f4")
    along = quantisation.QuantizedDimension() if len(scales) > 1 else 0
    with np.errstate(over="ignore", invalid="ignore"):  # in a damaged file; the caller checks for non-finite values
        values = stored * scales.reshape([-1 if axis == along else 1 for axis in range(stored.ndim)])
        return np.asarray(values, np.float32)


def _layers(described: Any) -> tuple[LayerSpec, ...]:
    if not isinstance(described, list) or not 1 <= len(described) <= _MAX_LAYERS:
        raise FormatError("no layers that edged knows, or too many")
    return tuple(_layer(*each) for each in described)


def _layer(kind: str, settings: dict[str, Any]) -> LayerSpec:
    layer = _LAYER_OF_KIND.get(kind)
    if layer is None or settings.keys() != set(DESCRIBED[layer][1]):
        raise FormatError(f"a layer that edged does not have: {kind!r:.40}")
    hints = get_type_hints(layer)
    named_fields = zip(fields(layer), DESCRIBED[layer][1], strict=True)
    return layer(*(_setting(settings[name], hints[field.name]) for field, name in named_fields))


def _setting(value: Any, hint: Any) -> Any:
    """`value` from JSON as a layer's field of the type `hint`."""
    if hint is int and type(value) is int and 1 <= value <= _MAX_SIZE:
        return value
    if hint is float and type(value) in {int, float} and 0 <= value < math.inf:
        return float(value)
    if isinstance(hint, GenericAlias) and isinstance(value, list) and len(value) == len(get_args(hint)):
        return tuple(_setting(each, kind) for each, kind in zip(value, get_args(hint), strict=True))
    if isinstance(value, str) and value in get_args(hint):
        return value
    raise FormatError(f"a layer's setting {value!r:.40}")


def _check_size(before: list[Shape], layers: tuple[LayerSpec, ...]) -> None:
    num_values = [math.prod(shape) for shape in before]
    for layer, shape in zip(layers, before, strict=False):
        if isinstance(layer, Conv2d | DepthwiseConv2d | Conv1d):
            kernel = (layer.kernel,) if isinstance(layer, Conv1d) else layer.kernel
            num_values.append(math.prod((*layer.output_shape(shape)[:-1], *kernel, shape[-1])))
        num_values += [math.prod(weight) for weight in layer.weights(shape).values()]
    if max(num_values) > _MAX_VALUES:
        raise FormatError(f"a layer of more than {_MAX_VALUES} values")
