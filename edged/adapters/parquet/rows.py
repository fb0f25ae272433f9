"""Reads the rows of one file of the archive: a block by its columns, or where a sample is.

Covers files of edged's own, of which one exact range is read, and those that another engine wrote again. See also:
`file` (the format), `block_reader` (several blocks at once).
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from edged.adapters.parquet.file import COLUMNS, DICTIONARIES, Contents
from edged.adapters.parquet.seekable import Seekable
from edged.domain.place import Place
from edged.domain.samples.columns import PackColumns, Texts, renumbered
from edged.domain.samples.pack import MAX_SAMPLES, columns_digest
from edged.domain.samples.sample import CODECS
from edged.domain.samples.times import UNKNOWN_MS
from edged.errors import FormatError

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
_MAX_ROW_GROUP_BYTES = 64 << 20
_MAX_OFFSET_BYTES = 8 * (MAX_SAMPLES + 1)
"""Of a block's payloads as Arrow has them, besides the bytes."""
_MAX_FILE_BYTES = 1 << 50
_READ_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Footer:
    """Parquet's own metadata and what edged wrote into it; and readers of blocks of the file, to be used again."""

    metadata: Any
    contents: Contents
    idle: "list[_GroupReader]" = field(default_factory=list, repr=False)


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
        return COLUMNS.empty_table()
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
    parquet = _open(raw, metadata, _READ_BYTES)
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
    return pa.Table.from_batches(batches).take(pa.array(order)) if batches else COLUMNS.empty_table()


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
        read_dictionary=DICTIONARIES,
    )


def find(file: BinaryIO, identity: tuple[str, int, int]) -> list[tuple[int, int]]:
    """(block's offset, row) of each sample with this device, partition and device offset.

    Reads only the row groups whose statistics allow it. Raises one of CORRUPTION, or OSError.
    """
    parquet = pq.ParquetFile(file)
    columns = [COLUMNS.get_field_index(name) for name in _IDENTITY_COLUMNS]
    found: list[tuple[int, int]] = []
    for number in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(number)
        ranges = [group.column(column).statistics for column in columns]
        if all(each is None or each.min <= value <= each.max for each, value in zip(ranges, identity, strict=True)):
            table = parquet.read_row_group(number, columns=[*_IDENTITY_COLUMNS, "offset", "row"], use_threads=False)
            rows = zip(*(table.column(name).to_pylist() for name in [*_IDENTITY_COLUMNS, "offset", "row"]), strict=True)
            found += [(offset, row) for *each, offset, row in rows if tuple(each) == identity]
    return found
