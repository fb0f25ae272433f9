"""Packs survive encoding and decoding, and no damage passes for a pack."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain import tensors
from edged.domain.place import Place
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import MAX_SAMPLES, Pack
from edged.domain.samples.sample import Sample
from edged.errors import FormatError
from tests.support.archive_samples import any_places
from tests.support.by_samples import encoded
from tests.support.properties import examples

samples = st.builds(
    Sample,
    device=st.sampled_from(["cam-01", "esp-07"]),
    partition=st.integers(0, (1 << 31) - 1),
    offset=st.integers(0, (1 << 63) - 1),
    arrived_ms=st.integers(-1, (1 << 63) - 1),
    sampled_ms=st.none() | st.integers(0, (1 << 63) - 1),
    label=st.none() | st.text(max_size=5),
    codec=st.sampled_from(["raw", "jpeg", "png"]),
    payload=st.binary(max_size=20),
)
some_packs = st.builds(
    Pack,
    stream=st.sampled_from(["fashion", "birds"]),
    samples=st.lists(samples, max_size=5).map(tuple),
    cursors=st.dictionaries(st.sampled_from(["cam-01/0", "esp-07/0"]), any_places),
)

TWO = Pack(
    "fashion",
    (
        Sample("cam-01", 0, 7, 1_700_000_000_000, "shirt", "jpeg", b"\xff\xd8pixels"),
        Sample("esp-07", 0, 9, -1, None, "raw", b""),
    ),
    {"cam-01/0": Place(8, "id-1", "id-2", "7:ab"), "esp-07/0": Place(10)},
)


def altered(**changes):
    """The blob of TWO with some tensors (arrays) or metadata (texts) replaced, or dropped where None."""
    arrays, metadata = tensors.decode(packs.encode(TWO))
    for key, value in changes.items():
        table = metadata if key in metadata else arrays
        if value is None:
            del table[key]
        else:
            table[key] = value
    return tensors.encode(arrays, metadata)


@examples(150)
@given(some_packs)
def test_decoding_gives_back_the_pack(pack):
    assert packs.decode(packs.encode(pack)) == pack


@examples(150)
@given(some_packs)
def test_a_pack_by_its_columns_is_the_pack_and_encoded_as_sample_by_sample(pack):
    columns = packs.by_columns(pack)

    assert packs.of_columns(columns) == pack
    assert tuple(map(columns.sample, range(len(columns)))) == pack.samples
    assert packs.encode(pack) == encoded(pack)
    assert packs.columns_digest(columns) == hashlib.sha256(encoded(pack)).hexdigest()


@examples(50)
@given(some_packs)
def test_equal_packs_have_equal_digests_wherever_their_cursors_came_from(pack):
    again = Pack(pack.stream, pack.samples, dict(reversed(pack.cursors.items())))

    assert packs.digest(again) == packs.digest(pack)


def test_different_packs_have_different_digests():
    other = Pack(TWO.stream, TWO.samples[::-1], TWO.cursors)

    assert packs.digest(other) != packs.digest(TWO)


def test_num_bytes_counts_the_payloads():
    assert TWO.num_bytes == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edged": "pack/1"}, "not pack/2 but 'pack/1'"),
        ({"devices": "["}, "'devices' is missing or not JSON"),
        ({"devices": "[1]"}, "'devices' is not a list of texts"),
        ({"devices": None}, "'devices' is missing"),
        ({"devices": '["cam-01", "\\ud800"]'}, "'devices' is not a list of texts"),
        ({"cursors": '{"cam-01/0": 1}'}, "not a place"),
        ({"cursors": '{"cam-01/0": [-1, "", "", ""]}'}, "not a place"),
        ({"cursors": '{"cam-01/0": [1.5, "", "", ""]}'}, "not a place"),
        ({"cursors": '{"cam-01/0": [9223372036854775808, "", "", ""]}'}, "not a place"),
        ({"cursors": "[]"}, "'cursors' is not a map"),
        ({"incarnations": '["é"]'}, "incarnation"),
        ({"incarnation": np.array([0, 1], np.int32)}, "'incarnation'"),
        ({"label": np.array([0, 1], np.int32)}, "'label' does not hold 2 values from -1 to 0"),
        ({"label": np.array([0, -2], np.int32)}, "'label'"),
        ({"device": np.array([0, 2], np.int32)}, "'device'"),
        ({"device": np.array([0], np.int32)}, "'device' does not hold 2 values"),
        ({"device": np.array([0, 1], np.int64)}, "'device' is int64"),
        ({"codec": np.array([0, 3], np.uint8)}, "'codec'"),
        ({"partition": np.array([0, -1], np.int32)}, "'partition'"),
        ({"offset": np.array([-1, 0], np.int64)}, "'offset'"),
        ({"offset": None}, "'offset' is missing"),
        ({"end": np.array([9, 8], np.int64)}, "do not rise"),
        ({"end": np.array([0, 7], np.int64)}, "do not rise"),
        ({"payload": np.zeros(9, np.uint8)}, "do not rise"),
        ({"end": np.zeros(257, np.int64)}, f"257 samples in one pack; at most {MAX_SAMPLES}"),
    ],
)
def test_what_cannot_have_been_encoded_is_refused(changes, message):
    with pytest.raises(FormatError, match=message):
        packs.decode(altered(**changes))


def test_ends_whose_differences_overflow_are_refused():
    arrays, metadata = tensors.decode(packs.encode(Pack("s", (TWO.samples[0],) * 4)))
    arrays["end"] = np.array([1 << 62, -(1 << 63), -1, 32], np.int64)

    with pytest.raises(FormatError, match="do not rise"):
        packs.decode(tensors.encode(arrays, metadata))


BLOB = packs.encode(TWO)


@examples(1000)
@given(st.integers(0, len(BLOB) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_gives_another_pack_no_larger_than_the_blob(at, flip):
    damaged = bytearray(BLOB)
    damaged[at] ^= flip
    try:
        pack = packs.decode(bytes(damaged))
    except FormatError:
        return
    assert pack.num_bytes <= len(BLOB)
    assert packs.decode(packs.encode(pack)) == pack  # usable like any other


def test_a_pack_is_cut_into_its_samples_with_one_copy():
    pack = Pack("images", tuple(Sample("cam", 0, i, 0, None, "raw", bytes(3000)) for i in range(MAX_SAMPLES)))
    blob = packs.encode(pack)
    packs.decode(blob)
    tracemalloc.start()
    packs.decode(blob)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * len(blob)
