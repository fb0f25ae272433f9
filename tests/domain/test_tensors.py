"""Tensor blobs: they survive a round trip, other readers agree, and any damage is a FormatError."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edged.domain import tensors
from edged.errors import FormatError
from tests.support.properties import examples

DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64", "bool",
)  # fmt: skip

arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: npst.arrays(np.dtype(dtype), npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
blobs_of = st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda s: s != "__metadata__"), arrays, max_size=4)
texts = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)


def blob_with(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="U8", shape=(2,), offsets=(0, 2)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@examples(100)
@given(blobs_of, texts)
def test_decoding_gives_back_what_was_encoded(given_tensors, metadata):
    decoded, text = tensors.decode(tensors.encode(given_tensors, metadata))

    assert text == metadata
    assert decoded.keys() == given_tensors.keys()
    for name, array in given_tensors.items():
        assert (decoded[name].dtype, decoded[name].shape) == (array.dtype, array.shape)
        assert decoded[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_safetensors_library_reads_our_blobs_and_we_read_its(dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)

    theirs = safetensors.numpy.load(tensors.encode({"x": array}, {"edged": "test"}))["x"]
    ours = tensors.decode(safetensors.numpy.save({"x": array}))[0]["x"]

    assert (theirs.dtype, ours.dtype) == (array.dtype, array.dtype)
    np.testing.assert_array_equal(theirs, array)
    np.testing.assert_array_equal(ours, array)


def test_big_endian_arrays_are_written_little_endian():
    decoded = tensors.decode(tensors.encode({"x": np.array([1, 2], ">i4")}))[0]["x"]

    assert decoded.tolist() == [1, 2]
    assert decoded.dtype == np.dtype("<i4")


def test_equal_input_gives_equal_bytes_in_any_order_of_the_metadata():
    x = {"x": np.zeros(3, np.uint8)}

    assert tensors.encode(x, {"a": "1", "b": "2"}) == tensors.encode(x, {"b": "2", "a": "1"})


def test_decoded_tensors_cannot_be_written_to():
    decoded, _ = tensors.decode(tensors.encode({"x": np.zeros(3, np.uint8)}))

    with pytest.raises(ValueError, match="read-only"):
        decoded["x"][0] = 1


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "at least 8 bytes"),
        (struct.pack("<Q", 1 << 62), "tensor header of"),
        (struct.pack("<Q", (1 << 20) + 1) + b" " * (2 << 20), "tensor header of"),
        (blob_with(b"{"), "not JSON"),
        (blob_with(b"\xff\xff"), "not JSON"),
        (blob_with(b"[" * 100_000), "not JSON"),
        (blob_with(b'{"x":' + b"9" * 5000 + b"}"), "not JSON"),
        (blob_with([]), "not a JSON object"),
        (blob_with({"__metadata__": {"a": 1}}), "not a map of texts"),
        (blob_with({"__metadata__": {"a": "\ud800"}}), "not a map of texts"),
        (blob_with({str(i): 0 for i in range(5000)}), "5000 tensors"),
        (blob_with({"x": {}}), "malformed"),
        (blob_with({"x": None}), "malformed"),
        (blob_with({"x": entry(dtype=["U8"])}, b"ab"), "malformed"),
        (blob_with({"x": entry(dtype="BF16")}, b"ab"), "malformed"),
        (blob_with({"x": entry(offsets=(0, 1, 2))}, b"ab"), "malformed"),
        (blob_with({"x": entry(shape=[1] * 9, offsets=(0, 1))}, b"a"), "small whole numbers"),
        (blob_with({"x": entry(shape=[2.0])}, b"ab"), "small whole numbers"),
        (blob_with({"x": entry(shape=[True, 2])}, b"ab"), "small whole numbers"),
        (blob_with({"x": entry(shape=[-1])}, b"ab"), "small whole numbers"),
        (blob_with({"x": entry(shape=[3])}, b"ab"), "does not fill"),
        (blob_with({"x": entry(offsets=(2, 0))}, b"ab"), "does not fill"),
        (blob_with({"x": entry(offsets=(0, 9))}, b"ab"), "does not fill"),
        (blob_with({"x": entry(shape=[0, 1 << 47, 1 << 47], offsets=(0, 0))}), "too large"),
        (blob_with({"x": entry(), "y": entry()}, b"ab"), "overlap"),
        (blob_with({"x": entry(offsets=(1, 3))}, b"abc"), "hole"),
        (blob_with({"x": entry()}, b"abc"), "after the last tensor"),
    ],
)
def test_a_malformed_blob_is_refused_with_its_reason(blob, message):
    with pytest.raises(FormatError, match=message):
        tensors.decode(blob)


SAMPLE = tensors.encode(
    {"payload": np.arange(40, dtype=np.uint8), "w": np.ones((2, 3), np.float32), "none": np.zeros((0, 4), np.int64)},
    {"edged": "pack/1", "names": json.dumps(["a", "b"])},
)


@examples(1000)
@given(st.integers(0, len(SAMPLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_values_only(at, flip):
    damaged = bytearray(SAMPLE)
    damaged[at] ^= flip
    try:
        decoded, metadata = tensors.decode(bytes(damaged))
    except FormatError:
        return
    assert sum(array.nbytes for array in decoded.values()) < len(SAMPLE)
    assert all(isinstance(array, np.ndarray) for array in decoded.values())
    assert all(isinstance(text, str) for text in metadata.values())


@examples(300)
@given(st.integers(0, len(SAMPLE) - 1))
def test_a_blob_cut_short_is_refused(length):
    with pytest.raises(FormatError):
        tensors.decode(SAMPLE[:length])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["U8", "F32", "I64"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), inner)
    ),
    max_leaves=10,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F32", "BOOL"]) | json_values,
        "shape": st.lists(st.sampled_from([0, 1, 2, 4, 1 << 31, (1 << 48) - 1]), max_size=8) | json_values,
        "data_offsets": st.lists(st.integers(0, 8), min_size=2, max_size=2) | json_values,
    }
)


@examples(500)
@given(st.dictionaries(st.sampled_from(["x", "y", "__metadata__"]), entries | json_values), st.binary(max_size=8))
def test_any_header_gives_tensors_within_the_blob_or_a_format_error(header, data):
    try:
        decoded, _ = tensors.decode(blob_with(header, data))
    except FormatError:
        return
    assert sum(array.nbytes for array in decoded.values()) == len(data)


def test_require_reports_a_missing_tensor_or_another_type():
    blob = {"x": np.zeros((2, 2), np.int32)}

    with pytest.raises(FormatError, match="'y' is missing"):
        tensors.require(blob, "y", "int32")
    with pytest.raises(FormatError, match="'x' is int32 with 2 axes, not int32 with 1"):
        tensors.require(blob, "x", "int32")
    assert tensors.require(blob, "x", "int32", ndim=2) is blob["x"]
