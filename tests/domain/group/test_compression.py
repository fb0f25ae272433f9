"""Compressed gradients: how far they are off, what they weigh, that nothing is lost, and what is refused."""

import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edged.domain import tensors
from edged.domain.group.compression import BLOCK, Residual, Vector, compress, decompress, max_bytes, split
from edged.domain.group.records import MAX_CHUNK_BYTES
from edged.domain.topology import Compression
from edged.errors import FormatError
from tests.support.properties import examples

KINDS: tuple[Compression, ...] = get_args(Compression)

numbers = st.floats(-1e4, 1e4, width=32)
vectors = npst.arrays(np.float32, st.integers(0, 3000), elements=numbers, fill=numbers)
shares = st.floats(0.001, 1.0)


def gradient(n: int, seed: int = 0, scale: float = 1e-2) -> Vector:
    vector: Vector = (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)
    return vector


def round_trip(vector: Vector, kind: Compression, top_k: float = 0.1) -> Vector:
    return decompress(compress(vector, kind, top_k=top_k), len(vector))


@given(vectors)
def test_without_compression_the_vector_survives_a_round_trip(vector):
    assert round_trip(vector, "none").tobytes() == vector.tobytes()


@given(vectors)
@example(np.array([7e4, -1e9, 65504, 1e-8], np.float32))
def test_fp16_errs_by_half_a_unit_in_the_last_place_and_clips_what_is_too_large(vector):
    expected = np.clip(vector, -65504, 65504)
    error = np.abs(round_trip(vector, "fp16").astype(np.float64) - expected)
    assert (error <= np.maximum(np.abs(expected) * 2.0**-11, 2.0**-25)).all()


@given(vectors)
@example(np.full(3, 1e-45, np.float32))
@example(np.array([1e-38, 3e38, -3e38, 0], np.float32))
def test_int8_errs_by_half_a_step_of_its_block(vector):
    back = round_trip(vector, "int8").astype(np.float64)
    for at in range(0, len(vector), BLOCK):
        block = vector[at : at + BLOCK].astype(np.float64)
        most = np.abs(block).max() / 254 * (1 + 1e-5) + 1e-36
        assert (np.abs(back[at : at + BLOCK] - block) <= most).all()


@given(vectors, shares)
@example(np.zeros(500, np.float32), 0.01)
@example(np.ones(5000, np.float32), 0.01)
@example(gradient(5000), 0.5)
def test_top_k_keeps_the_largest_entries_as_int8_and_of_equal_ones_the_first(vector, share):
    k = min(int(np.ceil(share * len(vector))), len(vector))
    kept = np.sort(np.argsort(-np.abs(vector), kind="stable")[:k])
    expected = np.zeros_like(vector)
    expected[kept] = round_trip(vector[kept], "int8")
    assert np.array_equal(round_trip(vector, "top_k", share), expected)


def test_top_k_finds_the_largest_entries_even_if_the_sample_misleads():
    vector = gradient(50_000)
    vector[:: 50_000 // 4096] = 100 + np.arange(len(vector[:: 50_000 // 4096]))  # what is looked at first
    few = gradient(50_000)
    few[:: 50_000 // 4096] = 0
    for each in (vector, few):
        kept = np.flatnonzero(round_trip(each, "top_k", 0.01))
        assert np.array_equal(kept, np.sort(np.argsort(-np.abs(each), kind="stable")[:500]))


@pytest.mark.parametrize(("kind", "num_bytes"), [("none", 400_000), ("fp16", 200_000), ("int8", 100_392)])
def test_dense_kinds_take_four_two_and_one_byte_per_entry(kind, num_bytes):
    assert 0 <= len(compress(gradient(100_000), kind, top_k=0.01)) - num_bytes < 200


@pytest.mark.parametrize("share", [0.1, 0.02])
def test_top_k_takes_two_bytes_per_entry_kept(share):
    blob = compress(gradient(100_000), "top_k", top_k=share)
    assert 0 <= len(blob) - 2 * share * 100_000 < 300


@pytest.mark.parametrize(
    ("n", "positions", "width"),
    [
        (3000, [0, 254, 509, 764, 765, 1531, 1532, 1533, 1534], "uint8"),  # as far as it reaches, and by one more
        (400_000, [65_534, 131_069, 131_070, 200_000, 399_999], "uint16"),
        (4_000_000, [2_999_999, 3_999_999], "uint32"),
    ],
)
def test_top_k_encodes_positions_in_the_width_of_fewest_bytes(n, positions, width):
    sparse = np.zeros(n, np.float32)
    sparse[positions] = 1
    blob = compress(sparse, "top_k", top_k=len(positions) / n)
    assert tensors.decode(blob)[0]["deltas"].dtype == width
    assert np.array_equal(decompress(blob, n), sparse)


@given(st.sampled_from(KINDS), st.integers(1, 5000), shares)
def test_no_blob_is_larger_than_max_bytes(kind, n, share):
    assert len(compress(gradient(n), kind, top_k=share)) <= max_bytes(n)


@examples(40)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(1, 500), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 3000),
)
def test_error_feedback_loses_nothing_whatever_is_left_out_or_late(kind, sent, n):
    residual = Residual(n)
    found, used = np.zeros(n), np.zeros(n)
    for turn, (count, is_late) in enumerate(sent):
        mean = gradient(n, turn, 1.0)
        blob = residual.compress(mean, count, kind, top_k=0.05)
        found += count * mean.astype(np.float64)
        if is_late:
            residual.put_back(blob, count)
        else:
            used += count * decompress(blob, n).astype(np.float64)
    scale = sum(count for count, _ in sent) * 5
    np.testing.assert_allclose(used + residual.sum, found, atol=1e-5 * scale, rtol=0)


def test_with_error_feedback_even_the_smallest_entries_arrive():
    n, steps = 1000, 400
    mean, residual, used = np.linspace(0.1, 1, n, dtype=np.float32), Residual(n), np.zeros(n)
    for _ in range(steps):
        used += decompress(residual.compress(mean, 10, "top_k", top_k=0.02), n)
    assert np.abs(used / steps - mean).max() < 0.1
    assert used.min() > 0


def test_a_cleared_residual_adds_nothing():
    residual = Residual(100)
    residual.compress(gradient(100), 8, "int8", top_k=0.01)
    assert np.abs(residual.sum).max() > 0
    residual.clear()
    assert not residual.sum.any()
    with pytest.raises(ValueError, match="read-only"):
        residual.sum[0] = 1


@given(st.integers(0, 3), st.integers(-1, 1))
def test_chunks_are_at_most_512_kib_and_join_to_the_payload(whole, more):
    payload = bytes(max(whole * MAX_CHUNK_BYTES + more, 0))
    chunks = split(payload)
    assert b"".join(chunks) == payload
    assert max(map(len, chunks)) <= MAX_CHUNK_BYTES
    assert len(chunks) == max(-(-len(payload) // MAX_CHUNK_BYTES), 1)


def sparse(*values, deltas, scale=(1,)):
    return {"int8": np.array(values, np.int8), "scale": np.array(scale, np.float32), "deltas": deltas}


def narrow(*values):
    return np.array(values, np.uint8)


HOSTILE = {
    "nothing in it": {},
    "another name": {"gradient": np.zeros(10, np.float32)},
    "two kinds at once": {"float32": np.zeros(10, np.float32), "float16": np.zeros(10, np.float16)},
    "too few numbers": {"float32": np.zeros(9, np.float32)},
    "too many numbers": {"float16": np.zeros(11, np.float16)},
    "another dtype": {"float32": np.zeros(10, np.float64)},
    "two axes": {"float32": np.zeros((5, 2), np.float32)},
    "not a number": {"float32": np.full(10, np.nan, np.float32)},
    "an infinite number": {"float16": np.full(10, np.inf, np.float16)},
    "no scale": {"int8": np.zeros(10, np.int8)},
    "too many scales": {"int8": np.zeros(10, np.int8), "scale": np.ones(2, np.float32)},
    "a negative scale": {"int8": np.zeros(10, np.int8), "scale": -np.ones(1, np.float32)},
    "a scale that is not a number": {"int8": np.zeros(10, np.int8), "scale": np.full(1, np.nan, np.float32)},
    "a scale that overflows": {"int8": np.full(10, 127, np.int8), "scale": np.full(1, 3e38, np.float32)},
    "a position after the last": sparse(1, deltas=narrow(10)),
    "a place twice": sparse(1, 2, deltas=narrow(3, 0)),
    "fewer positions than values": sparse(1, 2, deltas=narrow(3)),
    "more positions than values": sparse(1, deltas=narrow(3, 1)),
    "an escape at the end": sparse(1, deltas=narrow(3, 0xFF)),
    "a long escape at the end": sparse(1, deltas=np.array([3, 0xFFFF], np.uint16)),
    "positions far away": sparse(1, deltas=np.array([1 << 31], np.uint32)),
    "deltas of another dtype": sparse(1, deltas=np.array([-1], np.int64)),
    "deltas with two axes": sparse(1, 1, deltas=np.ones((2, 1), np.uint8)),
    "values of another dtype": {**sparse(deltas=narrow(1)), "int8": np.ones(1, np.float32)},
    "values without a scale": sparse(1, deltas=narrow(1), scale=()),
    "values with a scale that is not finite": sparse(1, deltas=narrow(1), scale=(np.inf,)),
    "more bytes than any blob has": {"float32": np.zeros(10, np.float32), "x": np.zeros(2000, np.uint8)},
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_blob_is_refused(hostile):
    with pytest.raises(FormatError):
        decompress(tensors.encode(hostile), 10)


@examples(200)
@given(st.sampled_from(KINDS), st.integers(0, 400), st.integers(0, 255), st.integers(0, 400))
def test_a_damaged_blob_is_refused_or_gives_finite_numbers(kind, at, byte, cut):
    blob = bytearray(compress(gradient(300), kind, top_k=0.1))
    blob[at % len(blob)] = byte
    for damaged in (bytes(blob), bytes(blob[: cut % len(blob)])):
        try:
            vector = decompress(damaged, 300)
        except FormatError:
            continue
        assert vector.shape == (300,)
        assert vector.dtype == np.float32
        assert np.isfinite(vector).all()


@pytest.mark.parametrize("text", ["[]", "null", json.dumps({"float32": 3}), "{" * 2000])
def test_a_blob_that_is_not_safetensors_is_refused(text):
    with pytest.raises(FormatError):
        decompress(len(text).to_bytes(8, "little") + text.encode(), 1000)
