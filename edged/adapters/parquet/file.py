"""One file of the archive: packs as Parquet, and back.

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

Any Parquet reader opens these files. See also: `folder` (where they are).
"""

import hashlib
import io
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

from edged.adapters.parquet.seekable import Seekable
from edged.domain import format_version
from edged.domain import place as places
from edged.domain.archive import source_log
from edged.domain.archive.coverage import Gap, covered, num_offsets
from edged.domain.archive.source_log import UNKNOWN_LOG, SourceLog
from edged.domain.place import Place
from edged.domain.samples import cursors as cursor_rules
from edged.domain.samples.columns import PackColumns, Texts, renumbered
from edged.domain.samples.pack import MAX_SAMPLES, Pack, columns_digest, digest
from edged.domain.samples.sample import CODECS
from edged.domain.samples.times import UNKNOWN_MS
from edged.errors import FormatError

_SCHEMA_VERSION = "archive/2"
_COLUMNS = pa.schema(
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
_DICTIONARIES = ["label", "device", "device_incarnation", "codec"]
_SAMPLE_COLUMNS = [
    "device",
    "device_partition",
    "device_offset",
    "arrived_ms",
    "label",
    "codec",
    "payload",
    "sampled_ms",
    "device_incarnation",
]
_IDENTITY_COLUMNS = ["device", "device_partition", "device_offset"]
_MAX_FOOTER_BYTES = 64 << 20
_MAX_ROW_GROUP_BYTES = 64 << 20
_MAX_OFFSET_BYTES = 8 * (MAX_SAMPLES + 1)
"""Of a block's payloads as Arrow has them, besides the bytes."""
_MAX_FILE_BYTES = 1 << 50
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


@dataclass(frozen=True, eq=False)
class Footer:
    """Parquet's own metadata and what edged wrote into it; and readers of blocks of the file, to be used again."""

    metadata: Any
    contents: Contents
    idle: "list[_GroupReader]" = field(default_factory=list, repr=False)


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
            _COLUMNS,
            compression=dict.fromkeys(_COLUMNS.names, "zstd") | ({"payload": "none"} if is_compressed else {}),
            use_dictionary=_DICTIONARIES,
            write_statistics=[name for name in _COLUMNS.names if name != "payload"],
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
        schema=_COLUMNS,
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


def read_block(raw: BinaryIO, footer: Footer, block: int) -> PackColumns:
    """The pack at index `block` of the file, by its columns, checked against its digest.

    One exact range is read where edged has written the file. Of a file that another engine wrote again, whatever its
    row groups, the rows are those of the columns `offset` and `row`. Raises one of CORRUPTION, or OSError.
    """
    contents = footer.contents
    cursors, sha256 = contents.cursors_of(block), contents.digests[block]
    for table_of in (_at_position, _gathered):
        table = table_of(raw, footer, block)
        if table is not None:
            columns = _by_columns(contents.stream, table, cursors)
            if columns_digest(columns) == sha256:
                return columns
    raise FormatError("the block's SHA-256 is not the one in the footer")


def _at_position(raw: BinaryIO, footer: Footer, block: int) -> pa.Table | None:
    """The row group in which edged has put the block; None when it cannot be that."""
    metadata, contents = footer.metadata, footer.contents
    if not contents.rows[block]:
        return _COLUMNS.empty_table()
    number = int((contents.rows[:block] > 0).sum())
    if number >= metadata.num_row_groups:
        return None
    group = metadata.row_group(number)
    start, end = _range_of(group)
    if group.num_rows != contents.rows[block] or max(end - start, group.total_byte_size) > _MAX_ROW_GROUP_BYTES:
        return None
    raw.seek(start)
    content = raw.read(end - start)
    try:
        reader = footer.idle.pop()
    except IndexError:
        reader = _GroupReader(metadata)
    table = reader.read(number, start, content)
    footer.idle.append(reader)
    return table


def _range_of(group: Any) -> tuple[int, int]:
    """Where the row group begins and ends in the file, in which its columns follow each other."""
    first, last = group.column(0), group.column(group.num_columns - 1)
    start, last_start = (
        min(filter(None, (each.dictionary_page_offset, each.data_page_offset))) for each in (first, last)
    )
    return start, last_start + last.total_compressed_size


class _GroupReader:
    """Decodes row groups of a file whose bytes it is given. One at a time."""

    def __init__(self, metadata: Any) -> None:
        self._part = _Part()
        self._parquet = _open(self._part, metadata)

    def read(self, number: int, start: int, content: bytes) -> pa.Table:
        """The row group; `content`: its bytes, from `start` on."""
        self._part.put(start, content)
        try:
            return self._parquet.read_row_group(number, columns=_SAMPLE_COLUMNS, use_threads=False)
        finally:
            self._part.put(0, b"")


class _Part(Seekable):
    """A file of which only some bytes are there; it says that it is large."""

    def __init__(self) -> None:
        super().__init__(_MAX_FILE_BYTES)
        self.put(0, b"")

    def put(self, start: int, content: bytes) -> None:
        """Have `content` from `start` on, and nothing else."""
        self._start, self._content = start, memoryview(content)

    def read(self, size: int = -1) -> memoryview:
        start = self._at - self._start
        if start < 0 or size < 0:
            raise FormatError("the footer's row groups overlap")
        found = self._content[start : start + size]
        self._at += len(found)
        return found


def _gathered(raw: BinaryIO, footer: Footer, block: int) -> pa.Table:
    """The rows with the block's offset, in the order of `row`. Holds few other rows at a time."""
    metadata, contents = footer.metadata, footer.contents
    parquet = _open(raw, metadata, _CHUNK_BYTES)
    offset, num_bytes = int(contents.offsets[block]), int(contents.num_bytes[block])
    column = parquet.schema_arrow.get_field_index("offset")
    groups = [n for n in range(metadata.num_row_groups) if _may_hold(metadata.row_group(n).column(column), offset)]
    batches, rows = [], np.zeros(0, np.int64)
    names = [*_SAMPLE_COLUMNS, "offset", "row"]
    for batch in parquet.iter_batches(MAX_SAMPLES, row_groups=groups, columns=names, use_threads=False):
        of_block = np.flatnonzero(_numbers(batch, "offset", np.int64) == offset)
        if len(of_block):
            batches.append(batch.take(pa.array(of_block)))
            rows = np.concatenate([rows, _numbers(batches[-1], "row", np.int64)])
        if sum(each.column("payload").nbytes for each in batches) > num_bytes + _MAX_OFFSET_BYTES:
            raise FormatError(f"more bytes with offset {offset} than the footer says")
    order = np.argsort(rows)
    if (rows[order] != np.arange(len(rows))).any():
        raise FormatError(f"the rows with offset {offset} are not numbered from 0")
    return pa.Table.from_batches(batches).take(pa.array(order)) if batches else _COLUMNS.empty_table()


def _may_hold(column: Any, value: int) -> bool:
    """Whether the column of a row group may hold `value`, by its statistics."""
    known = column.statistics
    return known is None or not known.has_min_max or known.min <= value <= known.max


def _by_columns(stream: str, table: pa.Table, cursors: Mapping[str, Place]) -> PackColumns:
    codec = _texts(table, "codec")
    if not {*codec.values} <= {*CODECS}:
        raise FormatError("a sample's codec is not known")
    payload, bounds = _payloads(table)
    return PackColumns(
        stream,
        payload,
        bounds,
        _texts(table, "label", may_lack=True),
        _texts(table, "device"),
        _numbers(table, "device_partition", np.int32),
        _texts(table, "device_incarnation"),
        _numbers(table, "device_offset", np.int64),
        _numbers(table, "arrived_ms", np.int64),
        _numbers(table, "sampled_ms", np.int64, UNKNOWN_MS),
        np.array([*map(CODECS.index, codec.values)], np.uint8)[codec.numbers],
        cursors,
    )


def _array(table: pa.Table | pa.RecordBatch, name: str) -> pa.Array:
    column = table.column(name)
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies


def _texts(table: pa.Table, name: str, *, may_lack: bool = False) -> Texts:
    column = _array(table, name)
    column = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
    if column.null_count and not may_lack:
        raise FormatError(f"a sample without {name}")
    return renumbered(column.dictionary.to_pylist(), _values(column.indices, -1))


def _numbers(table: pa.Table | pa.RecordBatch, name: str, dtype: Any, missing: int | None = None) -> Any:
    column = _array(table, name)
    if column.null_count and missing is None:
        raise FormatError(f"a sample without {name}")
    values = _values(column, missing)
    if values.dtype != dtype and (values.astype(dtype) != values).any():
        raise FormatError(f"a number in {name} is too large")
    return values.astype(dtype, copy=False)


def _values(column: pa.Array, missing: int | None) -> npt.NDArray[Any]:
    """The whole numbers of the column, `missing` in place of none. Without a copy where none is missing."""
    if not pa.types.is_integer(column.type):
        raise FormatError(f"{column.type} in place of whole numbers")
    dtype = np.dtype(str(column.type))
    valid, data = column.buffers()
    values = (
        np.frombuffer(data, dtype)[column.offset : column.offset + len(column)] if len(column) else np.zeros(0, dtype)
    )
    if not column.null_count:
        return values
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[column.offset : column.offset + len(column)]
    return np.where(bits, values, dtype.type(missing))


def _payloads(table: pa.Table) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All payloads, one after the other, and where each begins and the last ends."""
    column = _array(table, "payload")
    if not len(column):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    if column.null_count:
        raise FormatError("a sample without payload")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        column = column.cast(pa.binary())
    _, offsets, data = column.buffers()
    of_type = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    bounds = np.frombuffer(offsets, of_type)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    payload = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]] if data else np.zeros(0, np.uint8)
    return payload, bounds - bounds[0]


def _open(file: BinaryIO | io.RawIOBase, metadata: Any, buffer_size: int = 0) -> pq.ParquetFile:
    """Open for reading rows; the footer is not read again. Without buffers a column of a row group is read at once."""
    return pq.ParquetFile(
        file,
        metadata=metadata,
        buffer_size=buffer_size,
        page_checksum_verification=True,
        read_dictionary=_DICTIONARIES,
    )


def find(file: BinaryIO, identity: tuple[str, int, int]) -> list[tuple[int, int]]:
    """(block's offset, row) of each sample with this device, partition and device offset.

    Reads only the row groups whose statistics allow it. Raises one of CORRUPTION, or OSError.
    """
    parquet = pq.ParquetFile(file)
    columns = [_COLUMNS.get_field_index(name) for name in _IDENTITY_COLUMNS]
    found: list[tuple[int, int]] = []
    for number in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(number)
        ranges = [group.column(column).statistics for column in columns]
        if all(each is None or each.min <= value <= each.max for each, value in zip(ranges, identity, strict=True)):
            table = parquet.read_row_group(number, columns=[*_IDENTITY_COLUMNS, "offset", "row"], use_threads=False)
            rows = zip(*(table.column(name).to_pylist() for name in [*_IDENTITY_COLUMNS, "offset", "row"]), strict=True)
            found += [(offset, row) for *each, offset, row in rows if tuple(each) == identity]
    return found
