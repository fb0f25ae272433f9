"""The messages between an edge and the archive's epoch server, as tensor blobs.

Edge → `<site>.archive.requests`: a SnapshotRequest or a SamplesRequest. Archive → `<site>.epochs.<edge>`: one or
more SnapshotPart or SamplesPart messages for each request, the last marked so. Messages stay below MAX_PART_BYTES
plus one sample. Decoders raise FormatError for anything malformed, AnotherVersion for what another version of edged
writes; no size is trusted.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edged.domain import format_version, tensors
from edged.domain.archive.snapshot import BlockRef, Ids, Snapshot
from edged.domain.archive.source_log import Origin
from edged.domain.counted import counted
from edged.domain.place import is_name
from edged.domain.samples.columns import PackColumns, Texts, renumbered, texts
from edged.domain.samples.pack import MAX_SAMPLES
from edged.domain.samples.sample import CODECS
from edged.domain.tensors import offset_map, text_list, value_map
from edged.errors import FormatError

MAX_PART_BYTES = 512 * 1024
MAX_BLOCKS_PER_PART = 16_384
MAX_SAMPLES_PER_REQUEST = 1 << 20
_SNAPSHOT_REQUEST, _SAMPLES_REQUEST = "snapshot_request/1", "samples_request/1"
_SNAPSHOT_PART, _SAMPLES_PART = "snapshot_part/2", "samples_part/1"
_BLOCK_BYTES = 32
_NO_LABELS, _NO_BYTES = np.zeros(0, np.int32), np.zeros(0, np.uint8)
_RANGE_BYTES = 24
"""Of a snapshot's part: its columns."""


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """The blocks of `stream`; with `ends`, exactly those below these offsets."""

    request: str
    edge: str
    stream: str
    ends: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class SamplesRequest:
    """Rows of blocks. `rows[i]`: uint16 [k], the wanted rows of `refs[i]`, ascending.

    Each block has at least one: so a request for few samples is little work.
    The position of a wanted sample is its index in the concatenation of all rows, in this order.
    """

    request: str
    edge: str
    stream: str
    refs: tuple[BlockRef, ...]
    rows: tuple[npt.NDArray[np.uint16], ...]

    @property
    def num_samples(self) -> int:
        return sum(len(rows) for rows in self.rows)


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """Some of the snapshot's blocks, in order; the concatenation of all parts is the snapshot."""

    request: str
    part: int
    last: bool
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class SamplesPart:
    """Some of the requested samples. `position` int64 [n]; `labels`: None where unlabelled; `codecs` as in packs.

    `missing`: int64 [m], positions that the archive cannot read (logged there).
    """

    request: str
    part: int
    last: bool
    position: npt.NDArray[np.int64]
    labels: tuple[str | None, ...]
    codecs: tuple[str, ...]
    payloads: tuple[bytes, ...]
    missing: npt.NDArray[np.int64]


Request = SnapshotRequest | SamplesRequest
Part = SnapshotPart | SamplesPart


def encode_request(request: Request) -> bytes:
    """A request as a blob."""
    text = {"request": request.request, "edge": request.edge, "stream": request.stream}
    if isinstance(request, SnapshotRequest):
        ends = {} if request.ends is None else {"ends": json.dumps(dict(sorted(request.ends.items())))}
        return tensors.encode({}, {"edged": _SNAPSHOT_REQUEST, **text, **ends})
    sources = sorted({ref.source for ref in request.refs})
    source_index = {source: i for i, source in enumerate(sources)}
    rows = np.concatenate([np.zeros(0, np.uint16), *request.rows])
    return tensors.encode(
        {
            "source": np.array([source_index[ref.source] for ref in request.refs], np.int32),
            "offset": np.array([ref.offset for ref in request.refs], np.int64),
            "num_rows": np.array([len(rows) for rows in request.rows], np.int32),
            "rows": rows.astype(np.uint16),
        },
        {"edged": _SAMPLES_REQUEST, **text, "sources": json.dumps(sources)},
    )


def decode_request(blob: bytes) -> Request:
    """The request in `blob`. Raises FormatError."""
    arrays, metadata = tensors.decode(blob)
    kind = format_version.check(metadata.get("edged"), _SNAPSHOT_REQUEST, _SAMPLES_REQUEST)
    text = {key: _text(metadata, key) for key in ("request", "edge", "stream")}
    if kind == _SNAPSHOT_REQUEST:
        return SnapshotRequest(**text, ends=offset_map(metadata, "ends") if "ends" in metadata else None)
    sources = text_list(metadata, "sources")
    source = tensors.require(arrays, "source", "int32")
    offset = tensors.require(arrays, "offset", "int64")
    num_rows = tensors.require(arrays, "num_rows", "int32")
    rows = tensors.require(arrays, "rows", "uint16")
    _same_length(source, offset, num_rows)
    _check_index(source, len(sources))
    if (offset < 0).any() or (num_rows < 1).any() or num_rows.sum(dtype=np.int64) != len(rows):
        raise FormatError("rows of the request do not add up")
    if len(rows) > MAX_SAMPLES_PER_REQUEST:
        raise FormatError(f"{counted(len(rows), 'sample')} in one request; at most {MAX_SAMPLES_PER_REQUEST}")
    refs = tuple(BlockRef(sources[s], o) for s, o in zip(source.tolist(), offset.tolist(), strict=True))
    ends = np.cumsum(num_rows, dtype=np.int64)
    _check_ascending(rows, ends - num_rows)
    wanted = tuple(rows[end - num : end] for end, num in zip(ends.tolist(), num_rows.tolist(), strict=True))
    return SamplesRequest(**text, refs=refs, rows=wanted)


def snapshot_parts(request: str, snapshot: Snapshot) -> Iterator[SnapshotPart]:
    """The snapshot in parts of at most MAX_BLOCKS_PER_PART blocks and about MAX_PART_BYTES; at least one part.

    A part's quarantine counts its own blocks.
    """
    ranges_before = np.searchsorted(snapshot.quarantined[:, 0], np.arange(snapshot.num_blocks + 1))
    bytes_before = _BLOCK_BYTES * np.arange(snapshot.num_blocks + 1) + _RANGE_BYTES * ranges_before
    starts = [0]
    while starts[-1] < snapshot.num_blocks:
        limit = int(bytes_before[starts[-1]]) + MAX_PART_BYTES
        fitting = int(np.searchsorted(bytes_before, limit, side="right")) - 1
        starts.append(min(max(fitting, starts[-1] + 1), starts[-1] + MAX_BLOCKS_PER_PART, snapshot.num_blocks))
    bounds = starts if snapshot.num_blocks else [0, 0]
    for part, (start, end) in enumerate(pairwise(bounds)):
        cut = slice(start, end)
        ranges = snapshot.quarantined[ranges_before[start] : ranges_before[end]]
        yield SnapshotPart(
            request,
            part,
            end == snapshot.num_blocks,
            Snapshot(
                snapshot.sources,
                snapshot.source[cut],
                snapshot.offset[cut],
                snapshot.rows[cut],
                snapshot.num_bytes[cut],
                snapshot.ends,
                ranges - np.array([start, 0, 0]),
                snapshot.origins,
            ),
        )


def join_snapshot(parts: Sequence[SnapshotPart]) -> Snapshot:
    """The snapshot of these parts, which are in order. Raises FormatError when they are not of one snapshot."""
    first = parts[0].snapshot
    if any(_frame(part.snapshot) != _frame(first) for part in parts):
        raise FormatError("the parts belong to different snapshots")
    columns = {
        name: np.concatenate([getattr(part.snapshot, name) for part in parts])
        for name in ("source", "offset", "rows", "num_bytes")
    }
    before = np.cumsum([0, *(part.snapshot.num_blocks for part in parts)]).tolist()
    ranges = [
        part.snapshot.quarantined + np.array([start, 0, 0]) for start, part in zip(before[:-1], parts, strict=True)
    ]
    return Snapshot(
        sources=first.sources, ends=first.ends, quarantined=np.concatenate(ranges), origins=first.origins, **columns
    )


def encode_part(part: Part) -> bytes:
    """A reply part as a blob."""
    if isinstance(part, SnapshotPart):
        snapshot = part.snapshot
        return tensors.encode(
            {
                "source": snapshot.source,
                "offset": snapshot.offset,
                "rows": snapshot.rows,
                "num_bytes": snapshot.num_bytes,
                "quarantined": snapshot.quarantined,
            },
            {
                "edged": _SNAPSHOT_PART,
                "request": part.request,
                "part": str(part.part),
                "last": str(int(part.last)),
                "sources": json.dumps(snapshot.sources),
                "ends": json.dumps(dict(sorted(snapshot.ends.items()))),
                "origins": json.dumps(dict(sorted(snapshot.origins.items()))),
            },
        )
    lengths = np.array([len(payload) for payload in part.payloads], np.int64)
    codec = np.array([CODECS.index(codec) for codec in part.codecs], np.uint8)
    payloads = [np.frombuffer(payload, np.uint8) for payload in part.payloads]
    picked = Picked(texts(part.labels), codec, lengths, payloads)
    return encode_samples(part.request, part.part, part.position, [picked], part.missing, last=part.last)


class Picked(NamedTuple):
    """Samples of one block, as a part has them. `codec` uint8 [n], `lengths` int64 [n]: bytes of each in `payload`.

    `payload`: of all, one after the other, in pieces.
    """

    label: Texts
    codec: npt.NDArray[np.uint8]
    lengths: Ids
    payload: Sequence[npt.NDArray[np.uint8]]


def picked(block: PackColumns, rows: Ids) -> Picked:
    """The samples of `rows`. Holds the block's payloads only where most of them are wanted; else it has a copy."""
    payload, lengths = block.payloads(rows), block.lengths[rows]
    if 2 * lengths.sum() < len(block.payload):
        payload = [np.concatenate([_NO_BYTES, *payload])]
    return Picked(renumbered(block.label.values, block.label.numbers[rows]), block.codec[rows], lengths, payload)


def encode_samples(
    request: str, part: int, position: Ids, samples: Sequence[Picked], missing: Ids, *, last: bool
) -> bytes:
    """A SamplesPart as a blob; `position[i]` is of sample i of all that were picked."""
    labels = sorted({label for each in samples for label in each.label.values})
    number = {label: i for i, label in enumerate(labels)}
    numbers = [np.array([*map(number.__getitem__, each.label.values), -1], np.int32) for each in samples]
    codec = np.concatenate([np.zeros(0, np.uint8), *(each.codec for each in samples)])
    used = np.unique(codec).tolist()
    codecs = sorted(CODECS[i] for i in used)
    codec_numbers = np.zeros(len(CODECS), np.int32)
    codec_numbers[used] = [codecs.index(CODECS[i]) for i in used]
    lengths = np.concatenate([np.zeros(0, np.int64), *(each.lengths for each in samples)])
    blob = tensors.pieces(
        {
            "position": position.astype(np.int64),
            "missing": missing.astype(np.int64),
            "label": [_NO_LABELS, *(table[each.label.numbers] for table, each in zip(numbers, samples, strict=True))],
            "codec": codec_numbers[codec],
            "end": np.cumsum(lengths),
            "payload": [_NO_BYTES, *(piece for each in samples for piece in each.payload)],
        },
        {
            "edged": _SAMPLES_PART,
            "request": request,
            "part": str(part),
            "last": str(int(last)),
            "labels": json.dumps(labels),
            "codecs": json.dumps(codecs),
        },
    )
    return b"".join(blob)


def decode_part(blob: bytes) -> Part:
    """The reply part in `blob`. Raises FormatError."""
    arrays, metadata = tensors.decode(blob)
    kind = format_version.check(metadata.get("edged"), _SNAPSHOT_PART, _SAMPLES_PART)
    request, last = _text(metadata, "request"), metadata.get("last") == "1"
    part = metadata.get("part", "")
    if not part.isdecimal() or len(part) > 9:
        raise FormatError("part number is not a number")
    if kind == _SNAPSHOT_PART:
        columns = {name: tensors.require(arrays, name, "int64") for name in ("source", "offset", "rows", "num_bytes")}
        _same_length(*columns.values())
        sources = text_list(metadata, "sources")
        _check_index(columns["source"], len(sources))
        if any((column < 0).any() for column in columns.values()):
            raise FormatError("a snapshot holds no negative numbers")
        if (columns["rows"] > MAX_SAMPLES).any() or (columns["num_bytes"] >= 1 << 40).any():
            raise FormatError(f"a block holds at most {MAX_SAMPLES} samples, of far less than 2^40 bytes")
        quarantined = _quarantined(arrays, columns["rows"])
        ends, origins = offset_map(metadata, "ends"), _origins(metadata)
        snapshot = Snapshot(tuple(sources), **columns, ends=ends, quarantined=quarantined, origins=origins)
        return SnapshotPart(request, int(part), last, snapshot)
    labels, codecs = text_list(metadata, "labels"), text_list(metadata, "codecs")
    if not set(codecs) <= set(CODECS):
        raise FormatError("a sample's codec is not known")
    position, missing = (tensors.require(arrays, name, "int64") for name in ("position", "missing"))
    label, codec = (tensors.require(arrays, name, "int32") for name in ("label", "codec"))
    end = tensors.require(arrays, "end", "int64")
    payload = tensors.require(arrays, "payload", "uint8").tobytes()
    _same_length(position, label, codec, end)
    _check_index(label + 1, len(labels) + 1)
    _check_index(codec, len(codecs))
    bounds = [0, *end.tolist()]
    if bounds[-1] != len(payload) or any(b < a for a, b in pairwise(bounds)):
        raise FormatError("payload ends do not rise to the payload's length")
    return SamplesPart(
        request,
        int(part),
        last,
        position,
        tuple(labels[i] if i >= 0 else None for i in label.tolist()),
        tuple(codecs[i] for i in codec.tolist()),
        tuple(payload[a:b] for a, b in pairwise(bounds)),
        missing,
    )


def _quarantined(arrays: Mapping[str, tensors.Array], rows: Ids) -> Ids:
    ranges = tensors.require(arrays, "quarantined", "int64", ndim=2)
    if ranges.shape[1] != 3:
        raise FormatError("a range of rows in quarantine has a block, a first row and an end")
    block, first, end = ranges.T
    _check_index(block, len(rows))
    if ((first < 0) | (first >= end) | (end > rows[block])).any():
        raise FormatError("rows in quarantine are not rows of their blocks")
    if not ((block[1:] > block[:-1]) | ((block[1:] == block[:-1]) & (first[1:] > end[:-1]))).all():
        raise FormatError("rows in quarantine do not rise")
    return ranges.astype(np.int64)


def _frame(snapshot: Snapshot) -> tuple[Any, ...]:
    """What all parts of a snapshot have in common."""
    return snapshot.sources, snapshot.ends, snapshot.origins


def _origins(metadata: Mapping[str, str]) -> dict[str, tuple[Origin, ...]]:
    try:
        return {
            source: tuple(_origin(*values) for values in each)  # type: ignore[attr-defined]
            for source, each in value_map(metadata, "origins").items()
        }
    except TypeError as error:
        raise FormatError("the origins of the snapshot's blocks are malformed") from error


def _origin(first: object, name: object, base: object) -> Origin:
    match first, name, base:
        case int(first), str(name), int(base) if is_name(name) and max(abs(first), abs(base)) < 1 << 63:
            return Origin(first, name, base)
    raise FormatError("the origins of the snapshot's blocks are malformed")


def _text(metadata: Mapping[str, str], key: str) -> str:
    value = metadata.get(key, "")
    if not 0 < len(value) <= 128:
        raise FormatError(f"{key!r} is missing or longer than 128 characters")
    return value


def _same_length(*columns: tensors.Array) -> None:
    if len({len(column) for column in columns}) != 1:
        raise FormatError("columns differ in length")


def _check_index(column: tensors.Array, limit: int) -> None:
    if len(column) and (column.min() < 0 or column.max() >= limit):
        raise FormatError("an index is beyond its table")


def _check_ascending(rows: npt.NDArray[np.uint16], starts: npt.NDArray[np.int64]) -> None:
    """Raise FormatError unless the rows ascend within each block; `starts`: the blocks' first indices."""
    ascends = rows[1:] > rows[:-1]
    inner = starts[(starts > 0) & (starts < len(rows))]
    ascends[inner - 1] = True  # a block's first row follows another block's last
    if not ascends.all():
        raise FormatError("the rows of a block do not rise")
