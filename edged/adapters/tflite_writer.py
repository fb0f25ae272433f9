"""Writes a trained model as a .tflite file, with FlatBuffers and the schema alone, without TensorFlow.

The file computes probabilities: input "samples" float32 [batch, *sample shape], normalised as in training (uint8/255),
output "probabilities" float32 [batch, classes]; the batch is 1 and may be resized. Everything is float32: no
quantisation. Schema: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

import json
from collections.abc import Callable, Mapping, Sequence

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite

from edged.domain.nn.params import Params, bias_name, kernel_name, parameter_shapes
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec, MaxPool2d, Relu, shapes

LABELS = "edged.labels"
"""Name of the metadata that hold the labels, a JSON list in the order of the classes."""

_SCHEMA_VERSION = 3
_FILE_IDENTIFIER = b"TFL3"
_ACTIVATION = {"none": tflite.ActivationFunctionType.NONE, "relu": tflite.ActivationFunctionType.RELU}
_PADDING = {"same": tflite.Padding.SAME, "valid": tflite.Padding.VALID}


def to_tflite(
    sample_shape: tuple[int, ...],
    layers: Sequence[LayerSpec],
    params: Params,
    *,
    labels: Sequence[str],
    description: str = "A classifier trained by edged",
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The file; the same arguments give the same bytes. Raises ValueError when they do not fit each other."""
    before = shapes(sample_shape, layers)
    if {name: value.shape for name, value in params.items()} != parameter_shapes(sample_shape, layers):
        raise ValueError("the weights are not those of the layers")
    if before[-1] != (len(labels),):
        raise ValueError(f"the model's outputs have shape {before[-1]} for {len(labels)} labels")
    graph = _Graph()
    at = first = graph.activation("samples", sample_shape)
    for index, (layer, shape) in enumerate(zip(layers, before[1:], strict=True)):
        at = _add_layer(graph, index, layer, params, at, shape)
    last = graph.activation("probabilities", before[-1])
    graph.operator(tflite.BuiltinOperator.SOFTMAX, [at], last, tflite.BuiltinOptions.SoftmaxOptions, _softmax)
    notes = {"min_runtime_version": "1.5.0", LABELS: json.dumps(list(labels)), **(metadata or {})}
    return graph.finish(first, last, description, notes)


def _add_layer(graph: "_Graph", index: int, layer: LayerSpec, params: Params, at: int, shape: tuple[int, ...]) -> int:
    """Append `layer`, whose output has `shape`, behind tensor `at`; the tensor of its output."""
    operators, options = tflite.BuiltinOperator, tflite.BuiltinOptions
    output = graph.activation(f"{index}.{type(layer).__name__.lower()}", shape)
    match layer:
        case Conv2d():
            name = kernel_name(index, layer)
            kernel = graph.constant(name, params[name].transpose(3, 0, 1, 2))  # OHWI
            bias = graph.constant(bias_name(index, layer), params[bias_name(index, layer)])
            graph.operator(operators.CONV_2D, [at, kernel, bias], output, options.Conv2DOptions, _conv(layer))
        case Dense():
            name = kernel_name(index, layer)
            kernel = graph.constant(name, params[name].T)
            bias = graph.constant(bias_name(index, layer), params[bias_name(index, layer)])
            graph.operator(
                operators.FULLY_CONNECTED, [at, kernel, bias], output, options.FullyConnectedOptions, _dense(layer)
            )
        case MaxPool2d():
            graph.operator(operators.MAX_POOL_2D, [at], output, options.Pool2DOptions, _pool(layer))
        case Flatten():
            target = np.array([-1, *shape], np.int32)
            shape_tensor = graph.constant(f"{index}.flatten.shape", target)
            graph.operator(operators.RESHAPE, [at, shape_tensor], output, options.ReshapeOptions, _reshape(target))
        case Relu():
            graph.operator(operators.RELU, [at], output, options.NONE, None)
    return output


_Options = Callable[[flatbuffers.Builder], int]
"""Writes an operator's options table and returns its offset."""


def _conv(layer: Conv2d) -> _Options:
    def write(builder: flatbuffers.Builder) -> int:
        tflite.Conv2DOptionsStart(builder)
        tflite.Conv2DOptionsAddPadding(builder, _PADDING[layer.padding])
        tflite.Conv2DOptionsAddStrideH(builder, layer.stride[0])
        tflite.Conv2DOptionsAddStrideW(builder, layer.stride[1])
        tflite.Conv2DOptionsAddFusedActivationFunction(builder, _ACTIVATION[layer.activation])
        return int(tflite.Conv2DOptionsEnd(builder))

    return write


def _pool(layer: MaxPool2d) -> _Options:
    def write(builder: flatbuffers.Builder) -> int:
        tflite.Pool2DOptionsStart(builder)
        tflite.Pool2DOptionsAddPadding(builder, tflite.Padding.VALID)
        tflite.Pool2DOptionsAddStrideH(builder, layer.stride[0])
        tflite.Pool2DOptionsAddStrideW(builder, layer.stride[1])
        tflite.Pool2DOptionsAddFilterHeight(builder, layer.size[0])
        tflite.Pool2DOptionsAddFilterWidth(builder, layer.size[1])
        return int(tflite.Pool2DOptionsEnd(builder))

    return write


def _dense(layer: Dense) -> _Options:
    def write(builder: flatbuffers.Builder) -> int:
        tflite.FullyConnectedOptionsStart(builder)
        tflite.FullyConnectedOptionsAddFusedActivationFunction(builder, _ACTIVATION[layer.activation])
        return int(tflite.FullyConnectedOptionsEnd(builder))

    return write


def _reshape(target: npt.NDArray[np.int32]) -> _Options:
    def write(builder: flatbuffers.Builder) -> int:
        new_shape = builder.CreateNumpyVector(target)
        tflite.ReshapeOptionsStart(builder)
        tflite.ReshapeOptionsAddNewShape(builder, new_shape)
        return int(tflite.ReshapeOptionsEnd(builder))

    return write


def _softmax(builder: flatbuffers.Builder) -> int:
    tflite.SoftmaxOptionsStart(builder)
    tflite.SoftmaxOptionsAddBeta(builder, 1.0)
    return int(tflite.SoftmaxOptionsEnd(builder))


class _Graph:
    """A file in the making. Its parts are written as they come, and kept as offsets in the order of their indices."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1 << 16)
        self._buffers: list[int] = []
        self._tensors: list[int] = []
        self._operators: list[int] = []
        self._codes: list[int] = []
        self._buffer(b"")  # number 0 stands for "no content"

    def activation(self, name: str, shape: tuple[int, ...]) -> int:
        """A tensor that is computed, for a batch of samples of `shape`."""
        return self._tensor(name, (1, *shape), (-1, *shape), tflite.TensorType.FLOAT32, 0)

    def constant(self, name: str, values: npt.NDArray[np.float32] | npt.NDArray[np.int32]) -> int:
        """A tensor with content, float32 or int32."""
        kind = tflite.TensorType.INT32 if values.dtype == np.int32 else tflite.TensorType.FLOAT32
        content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
        return self._tensor(name, values.shape, None, kind, self._buffer(content))

    def operator(self, code: int, inputs: list[int], output: int, kind: int, options: _Options | None) -> None:
        """Compute tensor `output` from the tensors `inputs`."""
        builder = self._builder
        written = options(builder) if options else None
        input_vector, output_vector = self._integers(inputs), self._integers([output])
        tflite.OperatorStart(builder)
        tflite.OperatorAddOpcodeIndex(builder, self._code(code))
        tflite.OperatorAddInputs(builder, input_vector)
        tflite.OperatorAddOutputs(builder, output_vector)
        if written is not None:
            tflite.OperatorAddBuiltinOptionsType(builder, kind)
            tflite.OperatorAddBuiltinOptions(builder, written)
        self._operators.append(tflite.OperatorEnd(builder))

    def finish(self, first: int, last: int, description: str, notes: Mapping[str, str]) -> bytes:
        """The file that computes tensor `last` from tensor `first`."""
        builder = self._builder
        metadata = self._tables([self._note(name, text) for name, text in notes.items()])
        signatures = self._tables([self._signature(first, last)])
        subgraphs = self._tables([self._subgraph(first, last)])
        codes = self._tables([self._operator_code(code) for code in self._codes])
        buffers = self._tables(self._buffers)
        text = builder.CreateString(description)
        tflite.ModelStart(builder)
        tflite.ModelAddVersion(builder, _SCHEMA_VERSION)
        tflite.ModelAddOperatorCodes(builder, codes)
        tflite.ModelAddSubgraphs(builder, subgraphs)
        tflite.ModelAddDescription(builder, text)
        tflite.ModelAddBuffers(builder, buffers)
        tflite.ModelAddMetadata(builder, metadata)
        tflite.ModelAddSignatureDefs(builder, signatures)
        builder.Finish(tflite.ModelEnd(builder), _FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _tensor(
        self, name: str, shape: tuple[int, ...], signature: tuple[int, ...] | None, kind: int, buffer: int
    ) -> int:
        builder = self._builder
        name_text, shape_vector = builder.CreateString(name), self._integers(shape)
        signature_vector = self._integers(signature) if signature else None
        tflite.TensorStart(builder)
        tflite.TensorAddName(builder, name_text)
        tflite.TensorAddShape(builder, shape_vector)
        tflite.TensorAddType(builder, kind)
        tflite.TensorAddBuffer(builder, buffer)
        if signature_vector is not None:
            tflite.TensorAddShapeSignature(builder, signature_vector)
        self._tensors.append(tflite.TensorEnd(builder))
        return len(self._tensors) - 1

    def _buffer(self, content: bytes) -> int:
        builder = self._builder
        vector = None
        if content:
            builder.StartVector(1, len(content), 16)  # the schema's force_align, for which the class has no call
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            vector = builder.EndVector()
        tflite.BufferStart(builder)
        if vector is not None:
            tflite.BufferAddData(builder, vector)
        self._buffers.append(tflite.BufferEnd(builder))
        return len(self._buffers) - 1

    def _note(self, name: str, text: str) -> int:
        buffer, name_text = self._buffer(text.encode()), self._builder.CreateString(name)
        tflite.MetadataStart(self._builder)
        tflite.MetadataAddName(self._builder, name_text)
        tflite.MetadataAddBuffer(self._builder, buffer)
        return int(tflite.MetadataEnd(self._builder))

    def _signature(self, first: int, last: int) -> int:
        builder = self._builder
        inputs = self._tables([self._tensor_map("samples", first)])
        outputs = self._tables([self._tensor_map("probabilities", last)])
        key = builder.CreateString("serving_default")
        tflite.SignatureDefStart(builder)
        tflite.SignatureDefAddInputs(builder, inputs)
        tflite.SignatureDefAddOutputs(builder, outputs)
        tflite.SignatureDefAddSignatureKey(builder, key)
        return int(tflite.SignatureDefEnd(builder))

    def _tensor_map(self, name: str, tensor: int) -> int:
        name_text = self._builder.CreateString(name)
        tflite.TensorMapStart(self._builder)
        tflite.TensorMapAddName(self._builder, name_text)
        tflite.TensorMapAddTensorIndex(self._builder, tensor)
        return int(tflite.TensorMapEnd(self._builder))

    def _subgraph(self, first: int, last: int) -> int:
        builder = self._builder
        tensors, operators = self._tables(self._tensors), self._tables(self._operators)
        inputs, outputs = self._integers([first]), self._integers([last])
        name = builder.CreateString("main")
        tflite.SubGraphStart(builder)
        tflite.SubGraphAddTensors(builder, tensors)
        tflite.SubGraphAddInputs(builder, inputs)
        tflite.SubGraphAddOutputs(builder, outputs)
        tflite.SubGraphAddOperators(builder, operators)
        tflite.SubGraphAddName(builder, name)
        return int(tflite.SubGraphEnd(builder))

    def _code(self, code: int) -> int:
        if code not in self._codes:
            self._codes.append(code)
        return self._codes.index(code)

    def _operator_code(self, code: int) -> int:
        tflite.OperatorCodeStart(self._builder)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(self._builder, code)
        tflite.OperatorCodeAddBuiltinCode(self._builder, code)
        tflite.OperatorCodeAddVersion(self._builder, 1)
        return int(tflite.OperatorCodeEnd(self._builder))

    def _integers(self, values: Sequence[int]) -> int:
        return int(self._builder.CreateNumpyVector(np.array(values, np.int32)))

    def _tables(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())
