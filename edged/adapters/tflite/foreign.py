"""Reads the shapes of a .tflite file that another tool made, and checks that it can compute features.

Reads nothing else and trusts nothing in the file: any bytes are safe. See also: `runtime.load_foreign_features`, which
runs such a file.
"""

import struct
from typing import Any

import numpy as np
import tflite

from edged.domain.counted import counted
from edged.domain.nn.spec import Shape
from edged.errors import FormatError

_TYPE_NAMES = {number: name.lower() for name, number in vars(tflite.TensorType).items() if isinstance(number, int)}
_MAX_AXES = 8
_MAX_TABLES = 1 << 16
"""Tensors, operators or buffers."""


def read_foreign(content: bytes) -> tuple[Shape, Shape]:
    """The shapes of a sample and of its features, without the batch.

    Raises FormatError unless it has one input and one output of fixed shape, both float32.
    """
    try:
        return _read(content)
    except (struct.error, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise FormatError("not a .tflite file, or a damaged one") from error  # invalid offsets


def _read(content: bytes) -> tuple[Shape, Shape]:
    if len(content) < 8 or not tflite.Model.ModelBufferHasIdentifier(content, 0):
        raise FormatError("not a .tflite file")
    model = tflite.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    num_tables = (graph.TensorsLength(), graph.OperatorsLength(), model.BuffersLength(), model.OperatorCodesLength())
    if max(num_tables) > _MAX_TABLES:
        raise FormatError("more parts than any model has")
    if (graph.InputsLength(), graph.OutputsLength()) != (1, 1):
        inputs, outputs = counted(graph.InputsLength(), "input"), counted(graph.OutputsLength(), "output")
        raise FormatError(f"it has {inputs} and {outputs}, not one of each")
    if any(model.Buffers(index).Offset() > 1 for index in range(model.BuffersLength())):
        raise FormatError("its weights are outside the model's table, as in files larger than 2 GiB")
    return (
        _shape(graph.Tensors(graph.Inputs(0)), "input"),
        _shape(graph.Tensors(graph.Outputs(0)), "output"),
    )


def _shape(tensor: Any, which: str) -> Shape:
    if tensor.Type() != tflite.TensorType.FLOAT32:
        raise FormatError(f"its {which} is {_TYPE_NAMES.get(tensor.Type(), 'unknown')}, not float32")
    shape = [int(n) for n in np.atleast_1d(tensor.ShapeAsNumpy())]
    signature = [int(n) for n in np.atleast_1d(tensor.ShapeSignatureAsNumpy())] if tensor.ShapeSignatureLength() else []
    if not 2 <= len(shape) <= _MAX_AXES or shape[0] != 1 or min(shape[1:]) < 1 or min(signature[1:], default=1) < 1:
        raise FormatError(f"its {which} is not a sample of fixed shape after an axis for the batch")
    return tuple(shape[1:])
