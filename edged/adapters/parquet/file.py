"""One file of the archive: what is in it, and how it is written.

Covers the format: columns, one row group for each block that has samples, and the footer's key-value metadata:

    edged.schema    "archive/2"
    edged.stream, edged.source
    edged.offsets   [first, next]: the offsets that the file covers
    edged.gaps      [[first, next], ...]: offsets in that range that the log had deleted before they were archived
    edged.empty     the parts of the gaps that never held a record, such as a transaction's markers; may be missing
    edged.log       the log that the blocks are from: [the edge's name of it, base, place after the last], see
                    `domain.archive.source_log`
    edged.blocks    {"rows": [...], "bytes": [...], "sha256": [...], "cursors": [...]}, one entry for each offset
                    outside the gaps; sha256 is `pack.digest`; cursors are changes to those of the block before
                    (null: removed)
    edged.cursors   the highest cursors of this file and of all before it
    edged.sha256    SHA-256 of the whole file, taken with these 64 digits as zeros

Any Parquet reader opens these files. See also: `rows` (reading them), `domain.archive.layout` (where they are).
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from edged.domain import format_version
from edged.domain import place as places
from edged.domain.archive import source_log
from edged.domain.archive.coverage import Gap, covered, num_offsets
from edged.domain.archive.source_log import UNKNOWN_LOG, SourceLog
from edged.domain.place import Place
from edged.domain.samples import cursors as cursor_rules
from edged.domain.samples.pack import MAX_SAMPLES, Pack, digest
from edged.errors import FormatError

_SCHEMA_VERSION = "archive/2"
COLUMNS = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("device", pa.string(), nullable=False),
        pa.field("device_partition", pa.int32(), nullable=False),
        pa.field("device_offset", pa.int64(), nullable=False),
        pa.field("device_incarnation", pa.string(), nullable=False),
        pa.field("arrived_ms", pa.int64(), nullable=False),
        pa.field("sampled_ms", pa.int64()),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
    ]
)
DICTIONARIES = ["label", "device", "device_incarnation", "codec"]
_MAX_FOOTER_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_DIGEST_KEY = b"edged.sha256\x18\x40"
"""The key, followed by Thrift's header of a value of 64 bytes."""
_NO_DIGEST = b"0" * 64

CORRUPTION = (
    *(pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, EOFError),
    *(RecursionError, FormatError),
)
"""What pyarrow and this module raise for bytes that are not such a file. (pyarrow also raises OSError.)"""


@dataclass(frozen=True, eq=False)
class Contents:
    """The content of a file's footer. `offsets` int64, `rows` int32, `num_bytes` int64: [blocks] each."""

    stream: str
    source: str
    first: int
    next: int
    gaps: tuple[Gap, ...]
    empty: tuple[Gap, ...]
    log: SourceLog
    offsets: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    num_bytes: npt.NDArray[np.int64]
    digests: tuple[str, ...]
    cursor_changes: tuple[Mapping[str, Place | None], ...] = field(repr=False)
    cursors: Mapping[str, int] = field(repr=False)

    def block_of(self, offset: int) -> int:
        """The index of the block at `offset`. Raises KeyError when there is none."""
        block = int(np.searchsorted(self.offsets, offset))
        if block == len(self.offsets) or self.offsets[block] != offset:
            raise KeyError(offset)
        return block

    def cursors_of(self, block: int) -> dict[str, Place]:
        """The cursors of the block's pack."""
        newest = {
            name: places[bisect_right(blocks, block) - 1]
            for name, (blocks, places) in self._cursor_history.items()
            if blocks[0] <= block
        }
        return {name: place for name, place in newest.items() if place is not None}

    @cached_property
    def _cursor_history(self) -> dict[str, tuple[list[int], list[Place | None]]]:
        """Of each cursor: the blocks that changed it, and what to."""
        history: dict[str, tuple[list[int], list[Place | None]]] = {}
        for block, changes in enumerate(self.cursor_changes):
            for name, place in changes.items():
                blocks, places = history.setdefault(name, ([], []))
                blocks.append(block)
                places.append(place)
        return history


def encode(
    stream: str,
    source: str,
    packs: Sequence[tuple[int, Pack]],
    gaps: Sequence[Gap],
    cursors: Mapping[str, int],
    log: SourceLog = UNKNOWN_LOG,
    empty: Sequence[Gap] = (),
) -> list[bytes | memoryview]:
    """The file's bytes, in pieces, for (offset, pack) pairs and gaps that cover a range of offsets together.

    `cursors`: the highest ones before this file. `log`, `empty`: as of `ArchiveStore.append`.
    """
    sink = pa.BufferOutputStream()
    writer = FileWriter(sink, stream, source, is_compressed=all(_is_compressed(pack) for _, pack in packs))
    with writer:
        for offset, pack in packs:
            writer.add(offset, pack)
        writer.end(gaps, cursors, log, empty)
    return with_digest(memoryview(sink.getvalue()))


def _is_compressed(pack: Pack) -> bool:
    return all(sample.codec != "raw" for sample in pack.samples)


class FileWriter:
    """Writes a file, block by block; enter it, `add` each, and `end` it. Its digest is then still to be put in.

    `is_compressed`: whether all payloads are, by their own codecs.
    """

    def __init__(self, sink: Any, stream: str, source: str, *, is_compressed: bool) -> None:
        self._stream = stream
        self._source = source
        self._offsets: list[int] = []
        self._rows: list[int] = []
        self._num_bytes: list[int] = []
        self._digests: list[str] = []
        self._changes: list[dict[str, list[int | str] | None]] = []
        self._before: Mapping[str, Place] = {}
        self._highest: Mapping[str, int] = {}
        self._writer = pq.ParquetWriter(
            sink,
            COLUMNS,
            compression=dict.fromkeys(COLUMNS.names, "zstd") | ({"payload": "none"} if is_compressed else {}),
            use_dictionary=DICTIONARIES,
            write_statistics=[name for name in COLUMNS.names if name != "payload"],
            write_page_checksum=True,
            store_schema=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._writer.close()

    def add(self, offset: int, pack: Pack) -> None:
        """Write the next block."""
        if pack.samples:
            self._writer.write_table(_table(offset, pack), row_group_size=MAX_SAMPLES)
        self._offsets.append(offset)
        self._rows.append(len(pack.samples))
        self._num_bytes.append(pack.num_bytes)
        self._digests.append(digest(pack))
        self._changes.append(_changes(self._before, pack.cursors))
        self._before = pack.cursors
        self._highest = cursor_rules.advance(self._highest, pack)

    def end(
        self,
        gaps: Sequence[Gap],
        cursors: Mapping[str, int],
        log: SourceLog = UNKNOWN_LOG,
        empty: Sequence[Gap] = (),
    ) -> None:
        """Write what the footer says; see `encode`."""
        highest = {name: max(cursors.get(name, 0), self._highest.get(name, 0)) for name in [*cursors, *self._highest]}
        blocks = {
            "rows": self._rows,
            "bytes": self._num_bytes,
            "sha256": self._digests,
            "cursors": self._changes,
        }
        metadata = {
            "edged.schema": _SCHEMA_VERSION,
            "edged.stream": self._stream,
            "edged.source": self._source,
            "edged.offsets": _json(covered(self._offsets, gaps)),
            "edged.gaps": _json(sorted(gaps)),
            "edged.log": _json(source_log.to_json(log)),
            "edged.blocks": _json(blocks),
            "edged.cursors": _json(highest),
            "edged.sha256": _NO_DIGEST.decode(),
        }
        self._writer.add_key_value_metadata(metadata | ({"edged.empty": _json(sorted(empty))} if empty else {}))


def _table(offset: int, pack: Pack) -> pa.Table:
    samples = pack.samples
    return pa.table(
        [
            np.full(len(samples), offset, np.int64),
            np.arange(len(samples), dtype=np.int32),
            [sample.label for sample in samples],
            [sample.device for sample in samples],
            [sample.partition for sample in samples],
            [sample.offset for sample in samples],
            [sample.incarnation for sample in samples],
            [sample.arrived_ms for sample in samples],
            [sample.sampled_ms for sample in samples],
            [sample.codec for sample in samples],
            [sample.payload for sample in samples],
        ],
        schema=COLUMNS,
    )


def _changes(before: Mapping[str, Place], after: Mapping[str, Place]) -> dict[str, list[int | str] | None]:
    removed: dict[str, list[int | str] | None] = dict.fromkeys(before.keys() - after.keys())
    return removed | {name: places.to_json(place) for name, place in after.items() if before.get(name) != place}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def with_digest(blob: memoryview) -> list[bytes | memoryview]:
    """The bytes of a file, in pieces, with its digest."""
    footer_start = len(blob) - _footer_bytes(bytes(blob[-8:]))
    start = footer_start + _digest_index(bytes(blob[footer_start:]))
    sha256 = hashlib.sha256(blob).hexdigest().encode()
    return [blob[:start], sha256, blob[start + len(sha256) :]]


def _footer_bytes(tail: bytes) -> int:
    """The footer's length including the length field and the magic word, from the file's last 8 bytes."""
    if len(tail) != 8 or tail[4:] != b"PAR1":
        raise FormatError("the file does not end as a Parquet file does")
    return int.from_bytes(tail[:4], "little") + 8


def _digest_index(footer: bytes) -> int:
    if footer.count(_DIGEST_KEY) != 1:
        raise FormatError("the footer does not hold the file's digest exactly once")
    return footer.index(_DIGEST_KEY) + len(_DIGEST_KEY)


def check_digest(file: BinaryIO) -> None:
    """Raise FormatError unless the whole file is as it was written. Reads it in small chunks."""
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    footer_bytes = _footer_bytes(file.read(8))
    if footer_bytes > min(size, _MAX_FOOTER_BYTES):
        raise FormatError(f"a footer of {footer_bytes} bytes in a file of {size}")
    file.seek(0)
    sha256 = hashlib.sha256()
    left = size - footer_bytes
    while left:
        chunk = file.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise FormatError("the file ends early")
        sha256.update(chunk)
        left -= len(chunk)
    footer = file.read(footer_bytes)
    start = _digest_index(footer)
    end = start + len(_NO_DIGEST)
    sha256.update(footer[:start] + _NO_DIGEST + footer[end:])
    if sha256.hexdigest().encode() != footer[start:end]:
        raise FormatError("the file's SHA-256 is not the one in its footer")


def contents_of(metadata: Any) -> Contents:
    """The content of the footer (pyarrow's FileMetaData), checked for consistency. Raises one of CORRUPTION."""
    texts = {key.decode(): value.decode() for key, value in (metadata.metadata or {}).items()}
    format_version.check(texts.get("edged.schema"), _SCHEMA_VERSION)
    first, end = _naturals(json.loads(texts["edged.offsets"]))
    gaps = tuple((a, b) for a, b in map(_naturals, json.loads(texts["edged.gaps"])))
    empty = tuple((a, b) for a, b in map(_naturals, json.loads(texts.get("edged.empty", "[]"))))
    if any(a > b for a, b in empty) or num_offsets(empty) > num_offsets(gaps):
        raise FormatError("more offsets never held a record than are missing")
    blocks = json.loads(texts["edged.blocks"])
    rows, num_bytes = _naturals(blocks["rows"]), _naturals(blocks["bytes"])
    digests, changes = blocks["sha256"], blocks["cursors"]
    offsets = _offsets_outside(gaps, first, end, len(rows))
    if not len(rows) == len(num_bytes) == len(digests) == len(changes):
        raise FormatError("the footer's columns differ in length")
    if max(rows, default=0) > MAX_SAMPLES or sum(rows) != metadata.num_rows:
        raise FormatError("the footer's blocks are not the file's rows")
    cursors = json.loads(texts["edged.cursors"])
    _naturals([*cursors.values()])
    return Contents(
        texts["edged.stream"],
        texts["edged.source"],
        first,
        end,
        gaps,
        empty,
        source_log.from_json(json.loads(texts["edged.log"])),
        offsets,
        np.array(rows, np.int32),
        np.array(num_bytes, np.int64),
        tuple(map(str, digests)),
        tuple(
            {name: None if values is None else places.from_json(values) for name, values in change.items()}
            for change in changes
        ),
        cursors,
    )


def _naturals(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 1 << 63 for value in values):
        raise FormatError("the footer holds something else than whole numbers")
    return values


def _offsets_outside(gaps: Sequence[Gap], first: int, end: int, num_blocks: int) -> npt.NDArray[np.int64]:
    """The offsets from `first` to `end` that no gap covers; there must be `num_blocks` of them."""
    bounds = [first, *(bound for gap in gaps for bound in gap), end]
    if bounds != sorted(bounds) or end - first - sum(b - a for a, b in gaps) != num_blocks:
        raise FormatError("the footer's offsets, gaps and blocks do not add up")
    return np.concatenate([np.arange(a, b, dtype=np.int64) for a, b in zip(bounds[::2], bounds[1::2], strict=True)])
