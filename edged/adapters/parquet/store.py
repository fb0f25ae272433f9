"""The archive's files on any file system that fsspec knows.

Covers where files lie, how they become durable, which of them count, and finding what is wrong with them:

    <url>/edged-archive.json
    <url>/<stream>/<source>/<first offset, 20 digits>-<next offset, 20 digits>.parquet

The first marks the folder as an archive. Without it nothing is read or written: an empty mount point, whose file
system is not mounted, would pass for a new archive and be filled.

Files are immutable, so what was read of one stays true. What is in them is parquet_file's subject.
"""

import contextlib
import errno
import json
import os
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
import numpy as np
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet.file import Contents
from edged.domain.archive import snapshot as dataset
from edged.domain.archive.coverage import Gap, covered
from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.samples.pack import Pack
from edged.domain.topology import NAME_PATTERN
from edged.errors import ArchiveConflict, ArchiveUnavailable, DiskFull, FormatError, StorageError
from edged.log import logger

MARKER = "edged-archive.json"
"""The name of the file that makes a folder an archive."""

_FORMAT = 1
"""Version of the archive's layout, in the marker."""

_FILE_NAME = re.compile(r"(\d{20})-(\d{20})\.parquet")
_LEFTOVER_NAME = re.compile(r"\.\d{20}-\d{20}\.parquet\.tmp")
_NAME = NAME_PATTERN.removeprefix("^").removesuffix("$")
_SOURCE_NAME = re.compile(f"({re.escape(dataset.TRAIN_SOURCE)}|{re.escape(dataset.TEST_SOURCE)})?{_NAME}")
_MAX_FOOTERS = 16
"""Footers kept with their digests; some 0.2 MB each."""
_MAX_OPEN_FILES = 8
"""Of one call of `read`."""


class File(NamedTuple):
    """A file by its name: offsets `first` to `next`, `size` bytes."""

    path: str
    first: int
    next: int
    size: int


class Finding(NamedTuple):
    """Something that `verify` does not like. `kind`: corrupt, hole, overlap or foreign."""

    kind: str
    path: str
    detail: str


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """What the archive holds of a source, with bytes of payloads and of files; `lost`: offsets in known gaps."""

    stream: str
    source: str
    files: int
    blocks: int
    samples: int
    num_bytes: int
    stored_bytes: int
    first: int
    next: int
    lost: int


class _Columns(NamedTuple):
    """What snapshots need of a file, kept for every file: 20 bytes a block."""

    offset: Any
    rows: Any
    num_bytes: Any
    lost: int


class _Footer(NamedTuple):
    """Parquet's own metadata and what edged wrote into it."""

    metadata: Any
    contents: Contents


class _CorruptError(StorageError):
    """The bytes could be read and are not what they should be."""


class ParquetStore:
    """The archive under `url` (file:///srv/edged, s3://bucket/edged, hdfs://…, memory://…).

    Safe to use from several threads. One writer for each source. Foreign file systems must put a file atomically
    under its name, as object stores and HDFS clients do; a local one gets a temporary name, fsync and rename.
    Raises StorageError (DiskFull when that is the reason), and ArchiveUnavailable for a broken connection or while the
    folder is not there or is not marked as an archive. `create` is what marks it.
    """

    def __init__(self, url: str) -> None:
        with _translated(url):
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._root = root.rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._lock = threading.Lock()
        self._files: dict[tuple[str, str], list[File]] = {}
        self._columns: dict[File, _Columns | None] = {}
        self._footers: OrderedDict[File, _Footer] = OrderedDict()

    def create(self, site: str) -> bool:
        """Make the folder, if need be, and mark it as the archive of `site`; False when it is an archive already."""
        with _translated(self._root):
            if self._fs.exists(self._marker):
                return False
            content = json.dumps({"format": _FORMAT, "site": site}).encode() + b"\n"
            if self._is_local:
                _make_folders(Path(self._root))
                _write_durably(Path(self._root), MARKER, [content])
            else:
                self._fs.makedirs(self._root, exist_ok=True)
                self._fs.pipe_file(self._marker, content)
        return True

    def check(self) -> None:
        """Raise ArchiveUnavailable while the folder is no archive, StorageError for one of another version."""
        try:
            content = self._fs.cat_file(self._marker)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ArchiveUnavailable(self._absence()) from error
        except OSError as error:
            raise ArchiveUnavailable(f"{self._root}: {error}") from error
        try:
            found = json.loads(content)["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self._marker} is damaged") from error
        if found != _FORMAT:
            raise StorageError(f"{self._marker} names format {found!r:.20}; this version of edged knows {_FORMAT}")

    def ends(self, stream: str) -> dict[str, int]:
        self.check()
        found = {source: self._list(stream, source) for source in self._names(self._folder(stream), _SOURCE_NAME)}
        return {source: files[-1].next for source, files in found.items() if files}

    def cursors(self, stream: str, source: str) -> dict[str, int]:
        self.check()
        files = self._list(stream, source)
        return dict(self._footer(files[-1]).contents.cursors) if files else {}

    def append(self, stream: str, source: str, packs: Sequence[tuple[int, Pack]], gaps: Sequence[Gap] = ()) -> None:
        first, end = covered([offset for offset, _ in packs], gaps)
        self.check()
        files = self._list(stream, source)
        if files and (files[-1].first, files[-1].next) == (first, end):
            files = files[:-1]
        if files and files[-1].next != first:
            raise ArchiveConflict(f"{stream}/{source} goes on at offset {files[-1].next}, not at {first}")
        before = self._footer(files[-1]).contents.cursors if files else {}
        pieces = parquet_file.encode(stream, source, packs, gaps, before)
        name = f"{first:020d}-{end:020d}.parquet"
        with _translated(f"{stream}/{source}/{name}"):
            if self._is_local:
                folder = Path(self._folder(stream, source))
                _make_folders(folder, below=Path(self._root))
                _write_durably(folder, name, pieces)
            else:
                self._fs.makedirs(self._folder(stream, source), exist_ok=True)
                self._fs.pipe_file(f"{self._folder(stream, source)}/{name}", b"".join(pieces))

    def snapshot(self, stream: str, ends: Mapping[str, int] | None = None) -> Snapshot:
        wanted = self.ends(stream)
        if ends is not None:
            wanted = {name: min(ends[name], end) for name, end in wanted.items() if name in ends}
        sources = tuple(sorted(wanted))
        columns: list[list[Any]] = [[np.zeros(0, np.int64)] for _ in range(4)]
        for number, name in enumerate(sources):
            start = 0
            for file in self._known(stream, name):
                held = self._columns_of(stream, file)
                if held is not None:
                    cut = slice(*np.searchsorted(held.offset, [max(start, file.first), wanted[name]]).tolist())
                    part = (np.full(len(held.offset), number), held.offset, held.rows, held.num_bytes)
                    for column, values in zip(columns, part, strict=True):
                        column.append(values[cut])
                start = file.next
        numbers, offsets, rows, num_bytes = (np.concatenate(column, dtype=np.int64) for column in columns)
        return Snapshot(sources, numbers, offsets, rows, num_bytes, wanted)

    def read(self, stream: str, refs: Sequence[BlockRef]) -> Iterator[tuple[BlockRef, Pack]]:
        with contextlib.closing(_OpenFiles(self._open)) as open_files:
            for ref in refs:
                try:
                    pack = self._read_block(stream, ref, open_files)
                except StorageError:
                    self.check()  # no block is lost while the whole archive is away
                    raise
                yield ref, pack

    def remove_leftovers(self, stream: str, source: str) -> None:
        folder = self._folder(stream, source)
        with _translated(folder):
            for name in self._names(folder, _LEFTOVER_NAME):
                self._fs.rm_file(f"{folder}/{name}")

    def summaries(self, stream: str | None = None) -> list[SourceSummary]:
        """What each source holds, sorted by stream and source."""
        self.check()
        return [self._summary(name, source) for name in self._streams(stream) for source in sorted(self.ends(name))]

    def verify(self, stream: str | None = None) -> Iterator[Finding]:
        """Read everything again, block by block, and give what is wrong. Known gaps are not: summaries count them."""
        self.check()
        for name in self._streams(stream):
            for source in self._names(self._folder(name), _SOURCE_NAME):
                yield from self._verify_source(name, source)

    @property
    def _marker(self) -> str:
        return f"{self._root}/{MARKER}"

    def _absence(self) -> str:
        """Why there is no marker, as far as one can tell."""
        if not self._fs.isdir(self._root):
            return f"the archive's folder {self._root} is not there: is its file system mounted?"
        return (
            f"{self._root} has no {MARKER}: its file system is not mounted, or it is new and"
            " `edged archive init` has not been run"
        )

    def _read_block(self, stream: str, ref: BlockRef, open_files: "_OpenFiles") -> Pack:
        file = self._find(stream, ref)
        footer = self._footer(file)
        with _translated(f"{file.path}, block {ref.offset}"):
            block = footer.contents.block_of(ref.offset)
            return parquet_file.read_block(open_files.get(file, footer), footer.contents, block)

    def _folder(self, stream: str, source: str | None = None) -> str:
        if not re.fullmatch(_NAME, stream) or not (source is None or _SOURCE_NAME.fullmatch(source)):
            raise StorageError(f"{stream!r}, {source!r}: not names of a stream and a source")
        return f"{self._root}/{stream}" if source is None else f"{self._root}/{stream}/{source}"

    def _streams(self, stream: str | None) -> list[str]:
        return [stream] if stream is not None else self._names(self._root, re.compile(_NAME))

    def _names(self, folder: str, pattern: re.Pattern[str]) -> list[str]:
        """Names in the folder, sorted; none when it does not exist."""
        return sorted(name for name in self._entries(folder) if pattern.fullmatch(name))

    def _entries(self, folder: str) -> dict[str, int]:
        """The sizes of what is in the folder, by name; none when it does not exist."""
        return {name: entry.get("size") or 0 for name, entry in self._look(folder).items()}

    def _files_in(self, folder: str) -> dict[str, int]:
        """As `_entries`, without folders."""
        entries = self._look(folder).items()
        return {name: entry.get("size") or 0 for name, entry in entries if entry.get("type") != "directory"}

    def _look(self, folder: str) -> dict[str, Any]:
        with _translated(folder):
            try:
                entries = self._fs.ls(folder, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        return {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in entries}

    def _list(self, stream: str, source: str) -> list[File]:
        """The source's files in order, as they are now.

        A file counts from where the one before it ends, and not at all when it adds nothing: two writers that once
        wrote overlapping ranges wrote the same blocks, so that either file will do.
        """
        folder = self._folder(stream, source)
        found = [
            File(f"{folder}/{name}", int(match[1]), int(match[2]), size)
            for name, size in self._files_in(folder).items()
            if (match := _FILE_NAME.fullmatch(name))
        ]
        files: list[File] = []
        for file in sorted(found, key=lambda file: (file.first, file.next)):
            if max(file.first, files[-1].next if files else 0) < file.next < 1 << 63:
                files.append(file)
        with self._lock:
            self._files[stream, source] = files
        return files

    def _known(self, stream: str, source: str) -> list[File]:
        """As listed last."""
        with self._lock:
            files = self._files.get((stream, source))
        return self._list(stream, source) if files is None else files

    def _find(self, stream: str, ref: BlockRef) -> File:
        for look in (self._known, self._list):
            files = look(stream, ref.source)
            at = bisect_right(files, ref.offset, key=lambda file: file.next)
            if at < len(files) and files[at].first <= ref.offset:
                return files[at]
        raise StorageError(f"{stream}/{ref.source}: no file holds block {ref.offset}")

    def _columns_of(self, stream: str, file: File) -> _Columns | None:
        """The file's columns; None, logged once, when its footer is corrupt."""
        with self._lock:
            if file in self._columns:
                return self._columns[file]
        columns = None
        try:
            contents = self._footer(file).contents
            lost = sum(end - first for first, end in contents.gaps)
            columns = _Columns(contents.offsets, contents.rows, contents.num_bytes, lost)
        except _CorruptError as error:
            logger().error("archive.unreadable", stream=stream, reason=str(error))
        with self._lock:
            self._columns[file] = columns
        return columns

    def _footer(self, file: File) -> _Footer:
        with self._lock:
            if file in self._footers:
                self._footers.move_to_end(file)
                return self._footers[file]
        with _translated(file.path), self._open(file) as raw:
            footer = _footer_of(raw, file)
        with self._lock:
            self._footers[file] = footer
            while len(self._footers) > _MAX_FOOTERS:
                self._footers.popitem(last=False)
        return footer

    def _open(self, file: File) -> BinaryIO:
        # Blocks are asked for by exact ranges: read-ahead would fetch what nobody wants.
        options = {} if self._is_local else {"cache_type": "none"}
        return cast("BinaryIO", self._fs.open(file.path, "rb", **options))

    def _summary(self, stream: str, source: str) -> SourceSummary:
        files = self._known(stream, source)
        held = [columns for file in files if (columns := self._columns_of(stream, file)) is not None]
        return SourceSummary(
            stream,
            source,
            len(files),
            sum(len(columns.rows) for columns in held),
            sum(int(columns.rows.sum()) for columns in held),
            sum(int(columns.num_bytes.sum()) for columns in held),
            sum(file.size for file in files),
            files[0].first,
            files[-1].next,
            sum(columns.lost for columns in held),
        )

    def _verify_source(self, stream: str, source: str) -> Iterator[Finding]:
        folder = self._folder(stream, source)
        files_here = self._files_in(folder)
        for name in sorted(self._entries(folder)):
            is_ours = _FILE_NAME.fullmatch(name) and name in files_here
            if not is_ours and not _LEFTOVER_NAME.fullmatch(name):
                yield Finding("foreign", f"{folder}/{name}", "not a file of the archive")
        files = self._list(stream, source)
        end = files[0].first if files else 0
        for file in files:
            if file.first > end:
                yield Finding("hole", file.path, f"offsets {end} to {file.first - 1} are in no file")
            if file.first < end:
                yield Finding("overlap", file.path, f"offsets {file.first} to {end - 1} are in the file before, too")
            end = file.next
            yield from self._verify_file(file)
        counted = {file.path for file in files}
        for name in sorted(filter(_FILE_NAME.fullmatch, files_here)):
            if f"{folder}/{name}" not in counted:
                yield Finding("overlap", f"{folder}/{name}", "all its offsets are in other files, too")

    def _verify_file(self, file: File) -> Iterator[Finding]:
        try:
            with _translated(file.path), self._open(file) as raw:
                parquet_file.check_digest(raw)
                raw.seek(0)
                footer = _footer_of(raw, file)
                raw.seek(0)
                parquet, contents = parquet_file.open_parquet(raw, footer.metadata), footer.contents
                for block in range(len(contents.offsets)):
                    pack = parquet_file.read_block(parquet, contents, block)
                    if (len(pack.samples), pack.num_bytes) != (contents.rows[block], contents.num_bytes[block]):
                        raise FormatError(f"block {contents.offsets[block]} is not as large as the footer says")
        except StorageError as error:
            yield Finding("corrupt", file.path, str(error).removeprefix(f"{file.path}: "))


class _OpenFiles:
    """The few files that one call of `read` has open, those used last."""

    def __init__(self, open_file: Callable[[File], BinaryIO]) -> None:
        self._open_file = open_file
        self._open: OrderedDict[File, tuple[pq.ParquetFile, BinaryIO]] = OrderedDict()

    def get(self, file: File, footer: _Footer) -> pq.ParquetFile:
        if file not in self._open:
            raw = self._open_file(file)
            self._open[file] = parquet_file.open_parquet(raw, footer.metadata), raw
        self._open.move_to_end(file)
        if len(self._open) > _MAX_OPEN_FILES:
            self._close(self._open.popitem(last=False)[1])
        return self._open[file][0]

    def close(self) -> None:
        for opened in self._open.values():
            self._close(opened)

    @staticmethod
    def _close(opened: tuple[pq.ParquetFile, BinaryIO]) -> None:
        for part in opened:
            part.close()


def _footer_of(raw: BinaryIO, file: File) -> _Footer:
    """The file's footer, which must be what its name and its folders say."""
    metadata = pq.read_metadata(raw)
    contents = parquet_file.contents_of(metadata)
    *_, stream, source, _ = file.path.split("/")
    if (contents.stream, contents.source, contents.first, contents.next) != (stream, source, file.first, file.next):
        raise FormatError("the file's content belongs under another name")
    return _Footer(metadata, contents)


def _write_durably(folder: Path, name: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a local file so that it is there whole or not at all, whenever the machine stops.

    1. write under a temporary name; 2. fsync; 3. rename; 4. fsync the folder. Raises OSError with nothing left behind.
    """
    leftover, final = folder / f".{name}.tmp", folder / name
    try:
        with leftover.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        leftover.rename(final)
        _fsync_folder(folder)
    except OSError:
        with contextlib.suppress(OSError):
            leftover.unlink(missing_ok=True)
        raise


def _make_folders(folder: Path, below: Path = Path("/")) -> None:
    """Make `folder` and those above it, each durable in its parent; `below` itself must be there."""
    if folder != below and not folder.is_dir():
        _make_folders(folder.parent, below)
        folder.mkdir(exist_ok=True)
        _fsync_folder(folder.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(place: str) -> Iterator[None]:
    """Foreign exceptions as edged's, with their place."""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise ArchiveUnavailable(f"{place}: {error}") from error
    except OSError as error:
        if error.errno is None:  # pyarrow's word for a file that it cannot parse
            raise _CorruptError(f"{place}: {error}") from error
        kind = DiskFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else StorageError
        raise kind(f"{place}: {error}") from error
    except parquet_file.CORRUPTION as error:
        raise _CorruptError(f"{place}: {error}") from error
