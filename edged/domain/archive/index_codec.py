"""The bytes of a segment's index: a line with the format and the digest of the rest, and compressed columns.

archive_index/1 <SHA-256 of what follows>
<zlib of `tensors`: steps instead of offsets, so that what is regular costs nothing>
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from edged.domain import format_version, tensors
from edged.domain import place as places
from edged.domain.archive import layout
from edged.domain.archive.layout import ABOVE, OF_BEFORE, SEGMENT
from edged.domain.archive.segment_index import Ints, Replaced, SegmentIndex
from edged.errors import FormatError

VERSION = "archive_index/1"
MAX_BYTES = 32 << 20
"""Of an index, as it is kept."""

_MAX_CONTENT_BYTES = 128 << 20
_MAX_BLOCKS = 1 << 20
_MAX_LOGS = 4096
_MAX_REPLACED = 1 << 17
_END = 1 << 63
_MAX = 1 << 61
"""Sums of two stay below 2**63; so do offsets, of which Kafka gives out a million a second for 70,000 years."""
_FILE_TENSORS = ("generation", "named", "skipped", "length", "size", "log", "lost", "since_ms", "damaged", "blocks")
_BLOCK_TENSORS = {"step": "int64", "rows": "uint16", "bytes": "int64"}


def encode(index: SegmentIndex) -> bytes:
    """The index's bytes; the same index gives the same."""
    before = np.concatenate([[index.segment * SEGMENT], index.next[:-1]])
    columns: dict[str, Any] = {
        "generation": index.generation,
        "named": index.first - index.named,
        "skipped": index.first - before[: len(index)],
        "length": index.next - index.first,
        "size": index.size,
        "log": index.log,
        "lost": index.lost,
        "since_ms": index.since_ms,
        "damaged": index.is_damaged.astype(np.int64),
        "blocks": np.diff(index.first_block),
        "step": np.diff(index.offset, prepend=index.segment * SEGMENT),
        "rows": index.rows,
        "bytes": index.num_bytes,
        "replaced_ms": np.array([each.since_ms for each in index.replaced], np.int64),
        "replaced": np.frombuffer("\n".join(each.name for each in index.replaced).encode(), np.uint8),
    }
    metadata = {
        "segment": str(index.segment),
        "logs": json.dumps([name for name, _ in index.logs]),
        "bases": json.dumps([base for _, base in index.logs]),
    }
    content = zlib.compress(tensors.encode(columns, metadata), 6)
    return f"{VERSION} {hashlib.sha256(content).hexdigest()}\n".encode() + content


def decode(encoded: bytes, segment: int) -> SegmentIndex:
    """The index of this segment. Raises FormatError for bytes that are none, or not consistent; AnotherVersion."""
    head, _, content = encoded[:MAX_BYTES].partition(b"\n")
    name, _, sha256 = head[:200].decode("ascii", "replace").partition(" ")
    format_version.check(name, VERSION)
    if len(encoded) > MAX_BYTES or hashlib.sha256(content).hexdigest() != sha256:
        raise FormatError("the index's SHA-256 is not the one in its first line")
    columns, metadata = tensors.decode(_decompressed(content))
    if metadata.get("segment") != str(segment):
        raise FormatError(f"it is the index of segment {metadata.get('segment')!r:.40}")
    files: dict[str, Ints] = {name: tensors.require(columns, name, "int64") for name in _FILE_TENSORS}
    blocks: dict[str, Any] = {name: tensors.require(columns, name, dtype) for name, dtype in _BLOCK_TENSORS.items()}
    _check_sizes(files, blocks)
    end = _running(segment, files["skipped"] + files["length"])
    first = end - files["length"]
    offset = _running(segment, blocks["step"])
    first_block = np.concatenate([np.zeros(1, np.int64), np.cumsum(files["blocks"])])
    index = SegmentIndex(
        segment,
        files["generation"],
        first - files["named"],
        first,
        end,
        files["size"],
        files["log"],
        files["lost"],
        files["since_ms"],
        files["damaged"].astype(np.bool_),
        first_block,
        offset,
        blocks["rows"],
        blocks["bytes"],
        _logs(metadata),
        _replaced(tensors.require(columns, "replaced", "uint8"), tensors.require(columns, "replaced_ms", "int64")),
    )
    _check(index)
    return index


def _decompressed(content: bytes) -> bytes:
    try:
        inflating = zlib.decompressobj()
        inflated = inflating.decompress(content, _MAX_CONTENT_BYTES)
    except zlib.error as error:
        raise FormatError(f"the index cannot be decompressed: {error}") from error
    if not inflating.eof or inflating.unused_data:
        raise FormatError("the index's content is not as long as it says")
    return inflated


def _check_sizes(files: Mapping[str, Ints], blocks: Mapping[str, Any]) -> None:
    if len({len(column) for column in files.values()}) != 1 or len(files["size"]) > SEGMENT:
        raise FormatError("the index's columns of files differ in length, or are too long")
    if len({len(column) for column in blocks.values()}) != 1 or len(blocks["rows"]) > _MAX_BLOCKS:
        raise FormatError("the index's columns of blocks differ in length, or are too long")
    numbers = [files[name] for name in _FILE_TENSORS if name != "generation"] + [blocks["step"], blocks["bytes"]]
    if any(((column < 0) | (column > _MAX)).any() for column in numbers):
        raise FormatError("the index has negative numbers, or such as are too large")
    if (files["length"] < 1).any() or (files["blocks"] > _MAX_BLOCKS).any():
        raise FormatError("the index has files of no offset, or of too many blocks")
    if files["blocks"].sum() != len(blocks["rows"]):
        raise FormatError("the index's files have more or fewer blocks than it lists")


def _running(segment: int, steps: Ints) -> Ints:
    """The offsets that such steps lead to."""
    if segment * SEGMENT + float(steps.sum(dtype=np.float64)) >= _MAX:
        raise FormatError("the index's offsets are too large")
    return segment * SEGMENT + np.cumsum(steps)


def _logs(metadata: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    names = tensors.text_list(metadata, "logs")
    bases = _json_list(metadata, "bases")
    if len(names) != len(bases) or len(names) > _MAX_LOGS:
        raise FormatError("the index's logs have more or fewer names than bases, or are too many")
    if not all(places.is_name(name) for name in names) or not all(
        type(base) is int and abs(base) < _END for base in bases
    ):
        raise FormatError("the index's logs are none")
    return tuple(zip(names, bases, strict=True))


def _json_list(metadata: Mapping[str, str], key: str) -> list[Any]:
    try:
        values = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise FormatError(f"the index's {key} are missing, or not JSON") from error
    if not isinstance(values, list):
        raise FormatError(f"the index's {key} are no list")
    return values


def _replaced(text: Any, since_ms: Ints) -> tuple[Replaced, ...]:
    names = bytes(text).decode("ascii", "replace").split("\n") if len(text) else []
    if len(names) != len(since_ms) or len(names) > _MAX_REPLACED:
        raise FormatError("the index's replaced files are not as many as their times, or too many")
    if not all(_is_file(name) for name in names):
        raise FormatError("the index's replaced files are none")
    return tuple(map(Replaced, names, since_ms.tolist()))


def _is_file(name: str) -> bool:
    if name.startswith(ABOVE):
        return layout.parsed_of_before(name.removeprefix(ABOVE)) is not None
    return layout.parsed(name) is not None


def _check(index: SegmentIndex) -> None:
    if (index.first // SEGMENT != index.segment).any():
        raise FormatError("the index names files of another segment")
    if (index.named < 0).any() or ((index.named != index.first) & (index.generation != OF_BEFORE)).any():
        raise FormatError("the index names files by another offset than their first")
    if (index.generation < OF_BEFORE).any() or (index.generation >= 1_000_000_000).any():
        raise FormatError("the index has files of no generation")
    if (index.log >= len(index.logs)).any():
        raise FormatError("the index has files of a log that it does not name")
    if (np.diff(index.offset) < 1).any():
        raise FormatError("the index's blocks have the same offset twice")
    owner = np.repeat(np.arange(len(index)), np.diff(index.first_block))
    if ((index.offset < index.first[owner]) | (index.offset >= index.next[owner])).any():
        raise FormatError("the index has blocks outside of their files")
    if (np.diff(index.first_block)[index.is_damaged] > 0).any():
        raise FormatError("the index knows blocks of a damaged file")
