"""What one epoch leaves to the next, as it is stored."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain import tensors
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart
from edged.domain.archive.snapshot import Snapshot
from edged.domain.epochs import sampler_state
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.importance import Gate
from edged.domain.epochs.sampler_state import SamplerState
from edged.domain.epochs.scores import ScoreTable
from edged.errors import FormatError
from tests.domain.epochs.test_plan import even, scores_of, some_cached
from tests.support.properties import examples

SCORE_BYTES = 1 << 20
SNAPSHOT = even(3)
STATE = SamplerState(4, SNAPSHOT, some_cached(SNAPSHOT, 20, 5), scores_of(SNAPSHOT), Gate(1.0 + 2**-40))
BLOB = sampler_state.encode(STATE)


def decode(blob: bytes) -> SamplerState:
    return sampler_state.decode(blob, score_bytes=SCORE_BYTES)


def altered(**parts: bytes) -> bytes:
    """The state's blob with other parts."""
    arrays, metadata = tensors.decode(BLOB)
    changed = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
    return tensors.encode(arrays | changed, metadata)


def memo_over(snapshot: Snapshot) -> bytes:
    """A state whose parts agree with each other, over any snapshot."""
    return sampler_state.encode(
        SamplerState(4, snapshot, EpochStart(np.zeros(0, np.int64)), ScoreTable(snapshot, SCORE_BYTES))
    )


def test_a_state_is_encoded_and_decoded():
    again = decode(BLOB)
    assert again.epoch == STATE.epoch
    assert again.snapshot.sources == SNAPSHOT.sources
    assert again.snapshot.ends == SNAPSHOT.ends
    for column in ("source", "offset", "rows", "num_bytes"):
        assert getattr(again.snapshot, column).tolist() == getattr(SNAPSHOT, column).tolist()
    assert again.start.encode() == STATE.start.encode()
    assert again.scores.encode() == STATE.scores.encode()
    assert again.gate == STATE.gate
    assert sampler_state.encode(again) == BLOB


@pytest.mark.parametrize("gate", ["", "open", "nan", "inf", "-0x1p0", "0x1p99999"])
def test_a_malformed_gate_is_refused(gate: str):
    arrays, metadata = tensors.decode(BLOB)
    with pytest.raises(FormatError, match="no gate"):
        decode(tensors.encode(arrays, {**metadata, "gate": gate}))


def test_a_state_without_cache_or_scores_is_decoded():
    again = decode(memo_over(even(0)))
    assert again.snapshot.num_blocks == 0
    assert again.scores.is_empty


def test_scores_by_block_are_decoded():
    state = replace(STATE, scores=ScoreTable(SNAPSHOT, 0))
    assert sampler_state.decode(sampler_state.encode(state), score_bytes=0).scores.is_by_block
    with pytest.raises(FormatError, match="another snapshot"):
        decode(sampler_state.encode(state))


@given(st.integers(0, len(BLOB) - 1))
def test_any_truncation_is_refused(length):
    with pytest.raises(FormatError):
        decode(BLOB[:length])


@examples(500)
@given(st.integers(0, len(BLOB) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_gives_a_consistent_state(at, flip):
    blob = bytearray(BLOB)
    blob[at] ^= flip
    try:
        state = decode(bytes(blob))
    except FormatError:
        return
    cached = state.start.cached
    assert len(cached) == 0 or 0 <= cached.min() <= cached.max() < state.snapshot.num_samples
    assert np.isfinite(state.scores.of(cached)).all()


@pytest.mark.parametrize("name", ["snapshot", "boundary", "scores"])
def test_a_missing_part_or_one_of_another_kind_is_refused(name):
    arrays, metadata = tensors.decode(BLOB)
    lacking = {key: array for key, array in arrays.items() if key != name}
    for blob in (tensors.encode(lacking, metadata), altered(**{name: b""}), altered(**{name: b"x" * 100})):
        with pytest.raises(FormatError):
            decode(blob)


def test_samples_in_place_of_the_snapshot_are_refused():
    none = np.zeros(0, np.int64)
    part = SamplesPart("memo", 4, last=True, position=none, labels=(), codecs=(), payloads=(), missing=none)
    with pytest.raises(FormatError, match="snapshot"):
        decode(altered(snapshot=protocol.encode_part(part)))


@pytest.mark.parametrize("blob", [b"", b"\xff" * 8, b"\0" * 64, tensors.encode({}), tensors.encode({}, {"edged": "x"})])
def test_a_blob_that_is_not_a_state_is_refused(blob):
    with pytest.raises(FormatError):
        decode(blob)


def test_cached_ids_that_the_snapshot_lacks_are_refused():
    with pytest.raises(FormatError, match="cached ids"):
        decode(altered(boundary=EpochStart(np.array([SNAPSHOT.num_samples])).encode()))


def test_scores_of_another_snapshot_are_refused():
    with pytest.raises(FormatError, match="another snapshot"):
        decode(altered(scores=scores_of(even(4)).encode()))


def test_repeated_blocks_or_blocks_out_of_order_are_refused():
    """Ids are found by bisection, and no sample has two."""
    for offset in ([0, 0, 1], [1, 0, 2]):
        with pytest.raises(FormatError, match="order"):
            decode(memo_over(replace(SNAPSHOT, offset=np.array(offset))))
