"""Writes a Graph as a .tflite file, with FlatBuffers and the schema alone, without TensorFlow.

It can extend a file of another tool, whatever its operators: the existing content is kept byte by byte, and the new
content is put before it, because offsets in FlatBuffers point forward.

Schema: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
import tflite

from edged.adapters.tflite.graph import Constant, Graph, Operator, Options, Quantisation

_SCHEMA_VERSION = 3
_FILE_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16
"""Of the content of buffers, in bytes."""

_OPERATORS = tflite.BuiltinOperator
_TYPES = {
    np.dtype(np.float32): tflite.TensorType.FLOAT32,
    np.dtype(np.int32): tflite.TensorType.INT32,
    np.dtype(np.int8): tflite.TensorType.INT8,
}
_OPTIONS = {
    _OPERATORS.CONV_2D: "Conv2DOptions",
    _OPERATORS.DEPTHWISE_CONV_2D: "DepthwiseConv2DOptions",
    _OPERATORS.FULLY_CONNECTED: "FullyConnectedOptions",
    _OPERATORS.MAX_POOL_2D: "Pool2DOptions",
    _OPERATORS.AVERAGE_POOL_2D: "Pool2DOptions",
    _OPERATORS.MEAN: "ReducerOptions",
    _OPERATORS.ADD: "AddOptions",
    _OPERATORS.SUB: "SubOptions",
    _OPERATORS.MUL: "MulOptions",
    _OPERATORS.SQUARED_DIFFERENCE: "SquaredDifferenceOptions",
    _OPERATORS.QUANTIZE: "QuantizeOptions",
    _OPERATORS.DEQUANTIZE: "DequantizeOptions",
    _OPERATORS.SOFTMAX: "SoftmaxOptions",
}
"""The name of each operator's options table; the others have none."""

_INT8_VERSION = {_OPERATORS.CONV_2D: 3, _OPERATORS.DEPTHWISE_CONV_2D: 3, _OPERATORS.FULLY_CONNECTED: 4}
"""The first version of an operator that supports int8; 2 for those not listed (1 for RESHAPE and QUANTIZE)."""


def encode(
    graph: Graph, *, description: str, metadata: Mapping[str, str], output: str, below: bytes | None = None
) -> bytes:
    """The file; the same arguments give the same bytes.

    `metadata`: texts by name. `output`: the name of the output in the signature, as `graph.input` is the input's.
    `below`: a .tflite file, already validated, with one input and one output: the latter becomes the graph's input.
    Its metadata and signatures are dropped.
    """
    return _File(graph, below).finish(description, metadata, output)


class _File:
    """A file under construction: parts are written as they are added; their offsets are kept by index."""

    def __init__(self, graph: Graph, below: bytes | None) -> None:
        self._graph = graph
        self._builder = flatbuffers.Builder(1 << 16)
        self._index: dict[str, int] = {}
        self._buffers: list[int] = []
        self._tensors: list[int] = []
        self._operators: list[int] = []
        self._other_subgraphs: list[int] = []
        self._codes_below: list[int] = []
        self._codes: list[tuple[int, int]] = []
        if below is None:
            self._buffer(b"")  # number 0 means "no content"
        else:
            self._extend(below)
        for name, shape in graph.activations.items():
            if name in self._index:
                continue
            kind = tflite.TensorType.INT8 if name in graph.quantisations else tflite.TensorType.FLOAT32
            self._tensor(name, (1, *shape), (-1, *shape), kind, 0)
        for name, values in graph.constants.items():
            self._tensor(name, values.shape, None, _TYPES[values.dtype], self._buffer(_content(values)))
        self._operators += [self._operator(operator) for operator in graph.operators]
        if below is None:
            self._input = self._index[graph.input]

    def _extend(self, below: bytes) -> None:
        """Make `below` the end of the file, from which the builder counts offsets."""
        content = below + bytes(-len(below) % _ALIGNMENT)
        builder, model = self._builder, tflite.Model.GetRootAs(content, 0)
        builder.Bytes, builder.head = bytearray(content), 0
        builder.minalign = _ALIGNMENT

        def tables(get: Callable[[int], Any], number: int) -> list[int]:
            return [len(content) - get(index)._tab.Pos for index in range(number)]  # noqa: SLF001 - there is no public name

        main = model.Subgraphs(0)
        self._buffers = tables(model.Buffers, model.BuffersLength())
        self._codes_below = tables(model.OperatorCodes, model.OperatorCodesLength())
        self._other_subgraphs = tables(model.Subgraphs, model.SubgraphsLength())[1:]
        self._tensors = tables(main.Tensors, main.TensorsLength())
        self._operators = tables(main.Operators, main.OperatorsLength())
        self._input, self._index[self._graph.input] = main.Inputs(0), main.Outputs(0)

    def finish(self, description: str, metadata: Mapping[str, str], output: str) -> bytes:
        builder = self._builder
        entries = self._tables([self._metadata(name, text) for name, text in metadata.items()])
        signatures = self._tables([self._signature(output)])
        subgraphs = self._tables([self._subgraph(), *self._other_subgraphs])
        codes = self._tables([*self._codes_below, *(self._operator_code(*code) for code in self._codes)])
        buffers = self._tables(self._buffers)
        text = builder.CreateString(description)
        tflite.ModelStart(builder)
        tflite.ModelAddVersion(builder, _SCHEMA_VERSION)
        tflite.ModelAddOperatorCodes(builder, codes)
        tflite.ModelAddSubgraphs(builder, subgraphs)
        tflite.ModelAddDescription(builder, text)
        tflite.ModelAddBuffers(builder, buffers)
        tflite.ModelAddMetadata(builder, entries)
        tflite.ModelAddSignatureDefs(builder, signatures)
        builder.Finish(tflite.ModelEnd(builder), _FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _operator(self, operator: Operator) -> int:
        builder = self._builder
        kind = _OPTIONS.get(operator.code)
        options = self._options(kind, operator.options) if kind else None
        inputs = self._integers([self._index[name] for name in operator.inputs])
        outputs = self._integers([self._index[operator.output]])
        tflite.OperatorStart(builder)
        tflite.OperatorAddOpcodeIndex(builder, self._code(operator))
        tflite.OperatorAddInputs(builder, inputs)
        tflite.OperatorAddOutputs(builder, outputs)
        if options is not None:
            tflite.OperatorAddBuiltinOptionsType(builder, getattr(tflite.BuiltinOptions, str(kind)))
            tflite.OperatorAddBuiltinOptions(builder, options)
        return int(tflite.OperatorEnd(builder))

    def _options(self, kind: str, fields: Options) -> int:
        """The table `kind`, by the schema package's functions for the table and its fields."""
        getattr(tflite, f"{kind}Start")(self._builder)
        for name, value in fields.items():
            getattr(tflite, f"{kind}Add{name}")(self._builder, value)
        return int(getattr(tflite, f"{kind}End")(self._builder))

    def _code(self, operator: Operator) -> int:
        """The index of the operator's code and version among those used, after those of the file below."""
        quantised = {operator.inputs[0], operator.output} <= self._graph.quantisations.keys()
        version = 1
        if operator.code == _OPERATORS.DEQUANTIZE or (quantised and operator.code != _OPERATORS.RESHAPE):
            version = _INT8_VERSION.get(operator.code, 2)
        if (operator.code, version) not in self._codes:
            self._codes.append((operator.code, version))
        return len(self._codes_below) + self._codes.index((operator.code, version))

    def _operator_code(self, code: int, version: int) -> int:
        tflite.OperatorCodeStart(self._builder)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(self._builder, code)
        tflite.OperatorCodeAddBuiltinCode(self._builder, code)
        tflite.OperatorCodeAddVersion(self._builder, version)
        return int(tflite.OperatorCodeEnd(self._builder))

    def _tensor(
        self, name: str, shape: tuple[int, ...], signature: tuple[int, ...] | None, kind: int, buffer: int
    ) -> None:
        builder = self._builder
        quantisation = self._graph.quantisations.get(name)
        quantised = None if quantisation is None else self._quantisation(quantisation)
        name_text, shape_vector = builder.CreateString(name), self._integers(shape)
        signature_vector = self._integers(signature) if signature else None
        tflite.TensorStart(builder)
        tflite.TensorAddName(builder, name_text)
        tflite.TensorAddShape(builder, shape_vector)
        tflite.TensorAddType(builder, kind)
        tflite.TensorAddBuffer(builder, buffer)
        if quantised is not None:
            tflite.TensorAddQuantization(builder, quantised)
        if signature_vector is not None:
            tflite.TensorAddShapeSignature(builder, signature_vector)
        self._index[name] = len(self._tensors)
        self._tensors.append(tflite.TensorEnd(builder))

    def _quantisation(self, quantisation: Quantisation) -> int:
        builder = self._builder
        scales = int(builder.CreateNumpyVector(quantisation.scales.astype("<f4")))
        zero_points = np.full(len(quantisation.scales), quantisation.zero_point, "<i8")
        zero_point_vector = int(builder.CreateNumpyVector(zero_points))
        tflite.QuantizationParametersStart(builder)
        tflite.QuantizationParametersAddScale(builder, scales)
        tflite.QuantizationParametersAddZeroPoint(builder, zero_point_vector)
        tflite.QuantizationParametersAddQuantizedDimension(builder, quantisation.axis)
        return int(tflite.QuantizationParametersEnd(builder))

    def _buffer(self, content: bytes) -> int:
        builder = self._builder
        vector = None
        if content:
            builder.StartVector(
                1, len(content), _ALIGNMENT
            )  # the schema's force_align, for which the class has no method
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            vector = builder.EndVector()
        tflite.BufferStart(builder)
        if vector is not None:
            tflite.BufferAddData(builder, vector)
        self._buffers.append(tflite.BufferEnd(builder))
        return len(self._buffers) - 1

    def _metadata(self, name: str, text: str) -> int:
        buffer, name_text = self._buffer(text.encode()), self._builder.CreateString(name)
        tflite.MetadataStart(self._builder)
        tflite.MetadataAddName(self._builder, name_text)
        tflite.MetadataAddBuffer(self._builder, buffer)
        return int(tflite.MetadataEnd(self._builder))

    def _signature(self, output: str) -> int:
        builder, graph = self._builder, self._graph
        inputs = self._tables([self._tensor_map(graph.input, self._input)])
        outputs = self._tables([self._tensor_map(output, self._index[graph.output])])
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

    def _subgraph(self) -> int:
        builder, graph = self._builder, self._graph
        tensors, operators = self._tables(self._tensors), self._tables(self._operators)
        inputs, outputs = self._integers([self._input]), self._integers([self._index[graph.output]])
        name = builder.CreateString("main")
        tflite.SubGraphStart(builder)
        tflite.SubGraphAddTensors(builder, tensors)
        tflite.SubGraphAddInputs(builder, inputs)
        tflite.SubGraphAddOutputs(builder, outputs)
        tflite.SubGraphAddOperators(builder, operators)
        tflite.SubGraphAddName(builder, name)
        return int(tflite.SubGraphEnd(builder))

    def _integers(self, values: Sequence[int]) -> int:
        return int(self._builder.CreateNumpyVector(np.array(values, np.int32)))

    def _tables(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())


def _content(values: Constant) -> bytes:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
