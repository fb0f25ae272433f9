"""Requests and replies survive encoding and decoding, and damage is a FormatError, nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain import tensors
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart, SamplesRequest, SnapshotPart, SnapshotRequest
from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.errors import FormatError
from tests.support.properties import examples


def int64(*values):
    return np.array(values, np.int64)


def rows(*values):
    return np.array(values, np.uint16)


def snapshot_of(num_blocks):
    column = np.arange(num_blocks, dtype=np.int64)
    return Snapshot(("pi-a", "pi-b"), column % 2, column, 1 + column % 256, column * 100, {"pi-a": 7, "pi-b": 0})


def columns_of(snapshot):
    return [getattr(snapshot, name).tolist() for name in ("source", "offset", "rows", "num_bytes")]


REQUEST = SamplesRequest(
    "r1", "pi-a", "fashion", (BlockRef("pi-b", 4), BlockRef("pi-a", 0)), (rows(0, 3, 255), rows(7))
)
PART = SamplesPart(
    "r1", 2, True, int64(5, 0, 9), ("shirt", None, "shirt"), ("raw", "jpeg", "raw"), (b"ab", b"", b"c"), int64(4)
)

requests_of_rows = st.lists(
    st.tuples(
        st.sampled_from(["pi-a", "pi-b"]),
        st.integers(0, (1 << 63) - 1),
        st.sets(st.integers(0, 65535), min_size=1, max_size=5),
    ),
    max_size=5,
).map(
    lambda wants: SamplesRequest(
        "r", "pi-a", "s", tuple(BlockRef(s, o) for s, o, _ in wants), tuple(rows(*sorted(w)) for *_, w in wants)
    )
)


@pytest.mark.parametrize("ends", [None, {}, {"pi-a": 12, "pi-b": 0}])
def test_a_snapshot_request_comes_back_with_its_ends(ends):
    request = SnapshotRequest("r1", "pi-a", "fashion", ends)

    assert protocol.decode_request(protocol.encode_request(request)) == request


@examples(150)
@given(requests_of_rows)
def test_a_samples_request_comes_back_block_by_block(request):
    decoded = protocol.decode_request(protocol.encode_request(request))

    assert isinstance(decoded, SamplesRequest)
    assert (decoded.request, decoded.edge, decoded.stream, decoded.refs) == ("r", "pi-a", "s", request.refs)
    assert [r.tolist() for r in decoded.rows] == [r.tolist() for r in request.rows]
    assert decoded.num_samples == request.num_samples


def altered_request(**changes):
    return altered(protocol.encode_request(REQUEST), **changes)


def altered(blob, **changes):
    arrays, metadata = tensors.decode(blob)
    for key, value in changes.items():
        (metadata if key in metadata else arrays)[key] = value
    return tensors.encode(arrays, metadata)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edged": "pack/1"}, "not snapshot_request/1 or samples_request/1 but 'pack/1'"),
        ({"request": ""}, "'request' is missing or longer"),
        ({"edge": "x" * 129}, "'edge' is missing or longer"),
        ({"sources": "{}"}, "'sources' is not a list of texts"),
        ({"source": np.array([0, 2], np.int32)}, "beyond its table"),
        ({"source": np.array([0], np.int32)}, "differ in length"),
        ({"offset": int64(0, -1)}, "do not add up"),
        ({"num_rows": np.array([3, 2], np.int32)}, "do not add up"),
        ({"num_rows": np.array([5, -1], np.int32)}, "do not add up"),
        ({"num_rows": np.array([2**31 - 1, 2**31 - 1], np.int32)}, "do not add up"),
        ({"rows": rows(0, 3, 3, 7)}, "do not rise"),
        ({"rows": rows(9, 3, 4, 7)}, "do not rise"),
    ],
)
def test_a_request_that_cannot_have_been_encoded_is_refused(changes, message):
    with pytest.raises(FormatError, match=message):
        protocol.decode_request(altered_request(**changes))


def test_a_request_for_too_many_samples_is_refused():
    blocks = protocol.MAX_SAMPLES_PER_REQUEST // 65536 + 1
    every_row = np.arange(65536, dtype=np.uint16)
    refs = tuple(BlockRef("pi-a", i) for i in range(blocks))

    with pytest.raises(FormatError, match="samples in one request; at most"):
        protocol.decode_request(protocol.encode_request(SamplesRequest("r", "pi-a", "s", refs, (every_row,) * blocks)))


@pytest.mark.parametrize("num_blocks", [0, 1, protocol.MAX_BLOCKS_PER_PART, protocol.MAX_BLOCKS_PER_PART + 1])
def test_the_parts_of_a_snapshot_join_to_the_snapshot(num_blocks):
    snapshot = snapshot_of(num_blocks)

    decoded = [protocol.decode_part(protocol.encode_part(part)) for part in protocol.snapshot_parts("r1", snapshot)]

    parts = [part for part in decoded if isinstance(part, SnapshotPart)]
    joined = protocol.join_snapshot(parts)
    assert columns_of(joined) == columns_of(snapshot)
    assert (joined.sources, joined.ends) == (snapshot.sources, snapshot.ends)
    assert [part.part for part in parts] == list(range(len(parts)))
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(part.snapshot.num_blocks <= protocol.MAX_BLOCKS_PER_PART for part in parts)


def test_what_is_in_quarantine_comes_with_its_blocks_and_parts_stay_small():
    num_blocks = 3000
    each, offsets = np.ones(num_blocks, np.int64), np.arange(num_blocks, dtype=np.int64)
    every_second_row = np.array([(b, r, r + 1) for b in range(num_blocks) for r in range(0, 256, 2) if b % 3], np.int64)
    snapshot = Snapshot(("pi-a",), 0 * each, offsets, 256 * each, each, {"pi-a": num_blocks}, every_second_row)

    blobs = [protocol.encode_part(part) for part in protocol.snapshot_parts("r1", snapshot)]

    parts = [part for part in map(protocol.decode_part, blobs) if isinstance(part, SnapshotPart)]
    joined = protocol.join_snapshot(parts)
    assert columns_of(joined) == columns_of(snapshot)
    assert joined.quarantined.tolist() == every_second_row.tolist()
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert max(map(len, blobs)) <= protocol.MAX_PART_BYTES + 2048
    assert joined.usable_rows.tolist() == [256 if b % 3 == 0 else 128 for b in range(num_blocks)]


def test_parts_of_different_snapshots_do_not_join():
    other = Snapshot(("pi-a",), int64(0), int64(0), int64(0), int64(0), {"pi-a": 1})
    parts = [SnapshotPart("r1", 0, False, snapshot_of(1)), SnapshotPart("r1", 1, True, other)]

    with pytest.raises(FormatError, match="different snapshots"):
        protocol.join_snapshot(parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": int64(0, 2)}, "beyond its table"),
        ({"rows": int64(1)}, "differ in length"),
        ({"rows": int64(1, -1)}, "no negative numbers"),
        ({"rows": int64(1, 1 << 62)}, "at most 256 samples"),
        ({"ends": '{"pi-a": "7"}'}, "not a map to offsets"),
        ({"quarantined": int64(0, 0, 1)}, "with 1 axis, not int64 with 2"),
        ({"quarantined": int64([0, 1])}, "a first row and an end"),
        ({"quarantined": int64([2, 0, 1])}, "beyond its table"),
        ({"quarantined": int64([0, 0, 0])}, "not rows of their blocks"),
        ({"quarantined": int64([0, 0, 257])}, "not rows of their blocks"),
        ({"quarantined": int64([0, -1, 1])}, "not rows of their blocks"),
        ({"quarantined": int64([1, 0, 1], [0, 0, 1])}, "do not rise"),
        ({"quarantined": int64([1, 0, 1], [1, 1, 1])}, "not rows of their blocks"),
        ({"edged": "snapshot_part/1"}, "but 'snapshot_part/1', of another version"),
        ({"part": "-1"}, "part number"),
        ({"part": "1" * 10}, "part number"),
    ],
)
def test_a_snapshot_part_that_cannot_have_been_encoded_is_refused(changes, message):
    (part,) = protocol.snapshot_parts("r1", snapshot_of(2))

    with pytest.raises(FormatError, match=message):
        protocol.decode_part(altered(protocol.encode_part(part), **changes))


def test_a_samples_part_comes_back():
    decoded = protocol.decode_part(protocol.encode_part(PART))

    assert isinstance(decoded, SamplesPart)
    assert (decoded.request, decoded.part, decoded.last) == ("r1", 2, True)
    assert decoded.position.tolist() == [5, 0, 9]
    assert decoded.missing.tolist() == [4]
    assert (decoded.labels, decoded.codecs, decoded.payloads) == (PART.labels, PART.codecs, PART.payloads)


@pytest.mark.parametrize(("column", "claim"), [("rows", 257), ("rows", 1 << 39), ("num_bytes", 1 << 40)])
def test_a_snapshot_with_blocks_larger_than_any_pack_is_refused(column, claim):
    """A reader draws random numbers for each row; a claim alone must not cost it memory."""
    (part,) = protocol.snapshot_parts("r1", snapshot_of(2))
    with pytest.raises(FormatError, match="at most 256 samples"):
        protocol.decode_part(altered(protocol.encode_part(part), **{column: int64(1, claim)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edged": "x"}, "not snapshot_part/2 or samples_part/1 but 'x'"),
        ({"label": np.array([0, -2, 0], np.int32)}, "beyond its table"),
        ({"label": np.array([0, 2**31 - 1, 0], np.int32)}, "beyond its table"),
        ({"codec": np.array([0, 1, 2], np.int32)}, "beyond its table"),
        ({"codecs": '["raw", "exe"]'}, "codec is not known"),
        ({"position": int64(1)}, "differ in length"),
        ({"end": int64(2, 1, 3)}, "do not rise"),
        ({"end": int64(2, 2, 4)}, "do not rise"),
        ({"end": int64(1 << 62, -(1 << 63), 3)}, "do not rise"),
    ],
)
def test_a_samples_part_that_cannot_have_been_encoded_is_refused(changes, message):
    with pytest.raises(FormatError, match=message):
        protocol.decode_part(altered(protocol.encode_part(PART), **changes))


BLOBS = {
    "request": (protocol.decode_request, protocol.encode_request(REQUEST)),
    "samples": (protocol.decode_part, protocol.encode_part(PART)),
    "snapshot": (protocol.decode_part, protocol.encode_part(next(iter(protocol.snapshot_parts("r1", snapshot_of(3)))))),
}


@pytest.mark.parametrize("kind", BLOBS)
@examples(500)
@given(st.data())
def test_a_flipped_byte_is_refused_or_gives_a_message_of_the_same_kind(kind, data):
    decode, blob = BLOBS[kind]
    damaged = bytearray(blob)
    damaged[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        message = decode(bytes(damaged))
    except FormatError:
        return
    assert type(message) is type(decode(blob))
