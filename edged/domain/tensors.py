"""Tensors and text metadata as one blob in the safetensors format, and checked access to both.

A blob is an 8-byte header length, a JSON header with the metadata, and little-endian data. Decoding is strict, because
blobs come from the network or a disk. Metadata values are texts, some of them JSON: a list of texts or a map of log
offsets. Nothing here compresses or hashes.

Format: https://huggingface.co/docs/safetensors (any safetensors reader opens these blobs).
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.domain.counted import counted
from edged.errors import FormatError

Array = npt.NDArray[Any]

_NAME_OF_DTYPE = {
    "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "float32": "F32", "float64": "F64", "bool": "BOOL",
}  # fmt: skip
_DTYPE_OF_NAME = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in _NAME_OF_DTYPE.items()}
_NAME_OF_CODE = {np.dtype(dtype).str[1:]: name for dtype, name in _NAME_OF_DTYPE.items()}
"""By kind and size; NumPy takes 10 µs to tell a dtype's name."""
_MAX_HEADER_BYTES = 1 << 20
_MAX_TENSORS = 4096
_MAX_AXES = 8


def encode(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """The blob of `tensors` and text `metadata`; the same input gives the same bytes."""
    return b"".join(pieces(tensors, metadata))


def pieces(
    tensors: Mapping[str, Array | Sequence[Array]], metadata: Mapping[str, str] | None = None
) -> list[bytes | memoryview]:
    """The blob in pieces, without a copy of the arrays. Several arrays of one axis and dtype make one tensor."""
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    data: list[memoryview] = []
    end = 0
    for name, tensor in tensors.items():
        arrays = [tensor] if isinstance(tensor, np.ndarray) else tensor
        begin, end = end, end + sum(array.nbytes for array in arrays)
        first = arrays[0]
        header[name] = {
            "dtype": _NAME_OF_CODE[first.dtype.str[1:]],
            "shape": list(first.shape) if len(arrays) == 1 else [sum(map(len, arrays))],
            "data_offsets": [begin, end],
        }
        data += [np.ascontiguousarray(each, dtype=each.dtype.newbyteorder("<")).data for each in arrays]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the data, as the format advises
    return [struct.pack("<Q", len(text)), text, *data]


def decode(blob: bytes) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors (read-only views into `blob`) and metadata.

    Raises FormatError unless header, dtypes, shapes and sizes agree with each other and cover the blob exactly;
    nothing is allocated on the strength of a size that the blob claims.
    """
    header, begin = _header(blob)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) and _is_unicode(v) for v in metadata.values()):
        raise FormatError("tensor metadata is not a map of texts")
    if len(header) > _MAX_TENSORS:
        raise FormatError(f"{len(header)} tensors in one blob; at most {_MAX_TENSORS}")
    data = memoryview(blob)[begin:]
    spans: list[tuple[int, int]] = []
    tensors: dict[str, Array] = {}
    for name, entry in header.items():
        dtype, shape, start, stop = _entry(name, entry, len(data))
        spans.append((start, stop))
        tensors[name] = np.frombuffer(data[start:stop], dtype).reshape(shape)
    _check_coverage(spans, len(data))
    return tensors, metadata


def require(tensors: Mapping[str, Array], name: str, dtype: str, ndim: int = 1) -> Array:
    """The decoded tensor `name`, checked for dtype and number of axes. Raises FormatError."""
    array = tensors.get(name)
    if array is None:
        raise FormatError(f"tensor {name!r:.80} is missing")
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        raise FormatError(
            f"tensor {name!r:.80} is {array.dtype} with {counted(array.ndim, 'axis')}, not {dtype} with {ndim}"
        )
    return array


def text_list(metadata: Mapping[str, str], key: str) -> list[str]:
    """The list of texts in the metadata `key`. Raises FormatError."""
    values = _json(metadata, key)
    if not isinstance(values, list) or not all(isinstance(value, str) and _is_unicode(value) for value in values):
        raise FormatError(f"metadata {key!r} is not a list of texts")
    return values


def value_map(metadata: Mapping[str, str], key: str) -> dict[str, object]:
    """The map from texts to any JSON values in the metadata `key`. Raises FormatError."""
    values = _json(metadata, key)
    if not isinstance(values, dict) or not all(map(_is_unicode, values)):
        raise FormatError(f"metadata {key!r} is not a map")
    return values


def offset_map(metadata: Mapping[str, str], key: str) -> dict[str, int]:
    """The map from texts to log offsets in the metadata `key`. Raises FormatError."""
    values = _json(metadata, key)
    if not isinstance(values, dict) or not all(
        _is_unicode(name) and type(value) is int and 0 <= value < 1 << 63 for name, value in values.items()
    ):
        raise FormatError(f"metadata {key!r} is not a map to offsets")
    return values


def _header(blob: bytes) -> tuple[dict[str, Any], int]:
    if len(blob) < 8:
        raise FormatError(f"a tensor blob has at least 8 bytes, not {len(blob)}")
    (length,) = struct.unpack_from("<Q", blob)
    if length > min(_MAX_HEADER_BYTES, len(blob) - 8):
        raise FormatError(f"tensor header of {length} bytes in a blob of {len(blob)}")
    try:
        header = json.loads(blob[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise FormatError("tensor header is not JSON") from error
    if not isinstance(header, dict):
        raise FormatError("tensor header is not a JSON object")
    return header, 8 + length


def _entry(name: str, entry: Any, num_bytes: int) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    try:
        dtype = _DTYPE_OF_NAME[entry["dtype"]]
        shape = tuple(entry["shape"])
        start, stop = entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"tensor {name!r:.80}: malformed header entry") from error
    if len(shape) > _MAX_AXES or not all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, start, stop)):
        raise FormatError(f"tensor {name!r:.80}: sizes are not small whole numbers")
    if math.prod(n or 1 for n in shape) > 1 << 48:  # NumPy refuses these even when another axis is 0
        raise FormatError(f"tensor {name!r:.80}: shape {shape} is too large")
    if not start <= stop <= num_bytes or math.prod(shape) * dtype.itemsize != stop - start:
        raise FormatError(f"tensor {name!r:.80}: shape {shape} of {dtype} does not fill bytes {start} to {stop}")
    return dtype, shape, start, stop


def _check_coverage(spans: list[tuple[int, int]], num_bytes: int) -> None:
    at = 0
    for start, stop in sorted(spans):
        if start != at:
            raise FormatError("tensors overlap or leave a hole")
        at = stop
    if at != num_bytes:
        raise FormatError(f"{num_bytes - at} bytes after the last tensor")


def _json(metadata: Mapping[str, str], key: str) -> object:
    try:
        return json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise FormatError(f"metadata {key!r} is missing or not JSON") from error


def _is_unicode(text: str) -> bool:
    """JSON can encode half of a surrogate pair, which no file name, key or log line can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
