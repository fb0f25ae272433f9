"""The archive's folder on any file system that fsspec knows.

Covers where files are, how they become durable and which of them count:

    <url>/edged-archive.json
    <url>/<stream>/<source>/<first offset, 20 digits>-<next offset, 20 digits>.parquet
    <url>/<stream>/<source>/<…>.parquet.damaged                   a file that was archived again
    <url>/<stream>/<source>/aside/<offset, 20 digits>.<reason>    a record of the log that was not archived

The first marks the folder as an archive. Without it nothing is read or written: an empty mount point, whose file
system is not mounted, would pass for a new archive and be filled. Of a local folder only regular files count, and no
link leads out of it. See also: `file` (the format of a file).
"""

import contextlib
import errno
import itertools
import json
import os
import re
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from edged.access import why_dead, why_refused_in
from edged.adapters.parquet import file as parquet_file
from edged.domain.archive import snapshot as dataset
from edged.domain.archive.snapshot import BlockRef
from edged.domain.topology import NAME_PATTERN
from edged.errors import AnotherVersion, ArchiveUnavailable, BlockAbsent, DiskFull, StorageError
from edged.files import open_regular, read_regular, sync_folder

MARKER = "edged-archive.json"
"""The name of the file that makes a folder an archive."""

_MAX_MARKER_BYTES = 1 << 20

LEADS_OUT = "is a link that leads out of the archive: mount the other folder there instead"

_FORMAT = 2
"""Version of the archive's layout and of its files, in the marker."""

FILE_NAME = re.compile(r"(\d{20})-(\d{20})\.parquet")
ASIDE_NAME = re.compile(r"\d{20}-\d{20}\.parquet\.damaged(-\d+)?")
"""Damaged, and archived again from the log; kept for whoever wants to look."""

ASIDE_FOLDER = "aside"
"""Of a source: records that were not archived, as they came."""

_MAX_ASIDE = 16
"""Damaged files kept of a source."""

LEFTOVER_NAME = re.compile(r"\.\d{20}-\d{20}\.parquet\.tmp")
_NAME = NAME_PATTERN.removeprefix("^").removesuffix("$")
_OVERLAYS = "|".join(map(re.escape, sorted(dataset.OVERLAY_SOURCES)))
_SOURCE_NAME = re.compile(f"({re.escape(dataset.TRAIN_SOURCE)}|{re.escape(dataset.TEST_SOURCE)})?{_NAME}|{_OVERLAYS}")


class File(NamedTuple):
    """A file by its name: offsets `first` to `next`, `size` bytes."""

    path: str
    first: int
    next: int
    size: int


class CorruptFileError(StorageError):
    """The bytes could be read and are not what they should be."""


class ArchiveFolder:
    """Files of an archive. Raises StorageError and ArchiveUnavailable as `ParquetStore` does; thread-safe."""

    def __init__(self, url: str) -> None:
        with translated(url):
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._root = root.rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._lock = threading.Lock()
        self._files: dict[tuple[str, str], list[File]] = {}

    def create(self, site: str) -> bool:
        """Make the folder if necessary, and mark it as the archive of `site`; False when it is an archive already."""
        with translated(self._root):
            if self._fs.exists(self._marker):
                return False
            self._mark({"format": _FORMAT, "site": site})
        return True

    def _mark(self, content: Mapping[str, Any]) -> None:
        """Write the marker durably, and its folder if necessary."""
        text = json.dumps(content).encode() + b"\n"
        with translated(self._root):
            if self._is_local:
                _make_folders(Path(self._root))
                _write_durably(Path(self._root), MARKER, [text])
            else:
                self._fs.makedirs(self._root, exist_ok=True)
                self._fs.pipe_file(self._marker, text)

    def check(self) -> None:
        """Raise ArchiveUnavailable while the folder is no archive, StorageError for one of another version."""
        if (version := self._format()) == _FORMAT:
            return
        what = "run `edged archive migrate`" if version == _FORMAT - 1 else f"this version of edged knows {_FORMAT}"
        raise StorageError(f"{self._marker} names format {version!r:.20}; {what}")

    def needs_migration(self) -> bool:
        """Whether it is of the format before. Raises as `check` does for any other."""
        if self._format() == _FORMAT - 1:
            return True
        self.check()
        return False

    def mark_migrated(self) -> None:
        """Make the marker name the present format."""
        marker = json.loads(self._read_marker())
        self._mark({**marker, "format": _FORMAT})

    def _format(self) -> Any:
        """What the marker names. Raises ArchiveUnavailable while there is none."""
        try:
            content = self._read_marker()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ArchiveUnavailable(self._absence()) from error
        except OSError as error:
            raise ArchiveUnavailable(why_refused_in(Path(self._root), error)) from error
        try:
            return json.loads(content)["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self._marker} is damaged") from error

    def _read_marker(self) -> bytes:
        if self._is_local:
            return read_regular(Path(self._marker), _MAX_MARKER_BYTES)
        return cast("bytes", self._fs.cat_file(self._marker))

    def streams(self) -> list[str]:
        """The streams with a folder in the archive, sorted."""
        return [name for name in self._names(self._root, re.compile(_NAME)) if not self._leads_out(self.path(name))]

    def streams_elsewhere(self) -> list[str]:
        """The paths of what is named like a stream and is a link that leads out of the archive."""
        paths = map(self.path, self._names(self._root, re.compile(_NAME)))
        return [path for path in paths if self._leads_out(path)]

    def _leads_out(self, path: str) -> bool:
        """Whether a link leads from there, inside the archive, to outside."""
        return self._is_local and not Path(path).resolve().is_relative_to(Path(self._root).resolve())

    def sources(self, stream: str) -> list[str]:
        """The stream's sources with a folder, sorted."""
        return self._names(self.path(stream), _SOURCE_NAME)

    def path(self, stream: str, source: str | None = None) -> str:
        """The path of a stream's or source's folder. Raises StorageError for names that could leave the archive."""
        if not re.fullmatch(_NAME, stream) or not (source is None or _SOURCE_NAME.fullmatch(source)):
            raise StorageError(f"{stream!r}, {source!r}: not names of a stream and a source")
        return f"{self._root}/{stream}" if source is None else f"{self._root}/{stream}/{source}"

    def entries(self, folder: str) -> dict[str, Any]:
        """What is in the folder, by name, as fsspec describes it; empty when it does not exist.

        Raises StorageError, also when a link leads there from inside the archive to outside.
        """
        with translated(folder):
            if self._leads_out(folder):
                raise StorageError(f"{folder} {LEADS_OUT}")
            try:
                entries = self._fs.ls(folder, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        return {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in entries}

    def files(self, stream: str, source: str) -> list[File]:
        """The source's files in order, as they are now.

        A file counts from where the one before it ends, and not at all when it adds nothing: two writers that once
        wrote overlapping ranges wrote the same blocks, so that either file will do.
        """
        folder = self.path(stream, source)
        candidates = [
            File(f"{folder}/{name}", int(match[1]), int(match[2]), entry.get("size") or 0)
            for name, entry in self.entries(folder).items()
            if is_file(entry) and (match := FILE_NAME.fullmatch(name))
        ]
        files: list[File] = []
        for file in sorted(candidates, key=lambda file: (file.first, file.next)):
            if max(file.first, files[-1].next if files else 0) < file.next < 1 << 63:
                files.append(file)
        with self._lock:
            self._files[stream, source] = files
        return files

    def known_files(self, stream: str, source: str) -> list[File]:
        """As `files`, of the last listing if there was one."""
        files = self.last_listing(stream, source)
        return self.files(stream, source) if files is None else files

    def last_listing(self, stream: str, source: str) -> list[File] | None:
        """What `files` gave last; None before its first call."""
        with self._lock:
            return self._files.get((stream, source))

    def open(self, file: File) -> BinaryIO:
        if self._is_local:
            return open_regular(Path(file.path))
        # Blocks are read by exact ranges: read-ahead would fetch bytes that nobody needs.
        return cast("BinaryIO", self._fs.open(file.path, "rb", cache_type="none"))

    def write(self, stream: str, source: str, name: str, pieces: Sequence[bytes | memoryview]) -> None:
        """Write a file of the source durably: whole or not at all."""
        self._write(self.path(stream, source), name, pieces)

    def _write(self, folder: str, name: str, pieces: Sequence[bytes | memoryview]) -> None:
        with translated(f"{folder}/{name}"):
            if self._is_local:
                _make_folders(Path(folder), below=Path(self._root))
                _write_durably(Path(folder), name, pieces)
            else:
                self._fs.makedirs(folder, exist_ok=True)
                self._fs.pipe_file(f"{folder}/{name}", b"".join(pieces))

    def set_aside(self, file: File) -> None:
        """Rename the file, so that it is kept and counts no more. Of _MAX_ASIDE the first ones make room."""
        with translated(file.path):
            folder = file.path.rpartition("/")[0]
            names = self.entries(folder)
            numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
            path = next(f"{file.path}.damaged{n}" for n in numbers if f"{Path(file.path).name}.damaged{n}" not in names)
            self._fs.mv(file.path, path)
            if self._is_local:
                sync_folder(Path(file.path).parent)
            for name in sorted(filter(ASIDE_NAME.fullmatch, names))[: 1 - _MAX_ASIDE]:
                self._fs.rm_file(f"{folder}/{name}")

    def keep_aside(self, stream: str, source: str, name: str, content: bytes, limit: int) -> str:
        """Write a file into the source's ASIDE_FOLDER, durably; its path. "" when `limit` of its suffix are there."""
        folder = f"{self.path(stream, source)}/{ASIDE_FOLDER}"
        suffix = name.rpartition(".")[2]
        if len(set(self._names(folder, re.compile(rf"\d{{20}}\.{suffix}"))) - {name}) >= limit:
            return ""
        self._write(folder, name, [content])
        return f"{folder}/{name}"

    def remove_leftovers(self, stream: str, source: str) -> None:
        """Delete the temporary files of interrupted writes."""
        folder = self.path(stream, source)
        with translated(folder):
            for name in self._names(folder, LEFTOVER_NAME):
                self._fs.rm_file(f"{folder}/{name}")

    @property
    def _marker(self) -> str:
        return f"{self._root}/{MARKER}"

    def _absence(self) -> str:
        """The likely reason why there is no marker."""
        if self._is_local and (reason := why_dead(Path(self._root))):
            return f"the archive's folder {self._root} is not there: {reason}"
        if not self._fs.isdir(self._root):
            return f"the archive's folder {self._root} is not there: is its file system mounted?"
        return (
            f"{self._root} has no {MARKER}: its file system is not mounted, or it is new and"
            " `edged archive init` has not been run"
        )

    def _names(self, folder: str, pattern: re.Pattern[str]) -> list[str]:
        """Names in the folder, sorted; none when it does not exist."""
        return sorted(name for name in self.entries(folder) if pattern.fullmatch(name))


class Search:
    """Finds the files of one stream's blocks. A source is listed again, once, when its last listing lacks a block."""

    def __init__(self, folder: ArchiveFolder, stream: str) -> None:
        self._folder = folder
        self._stream = stream
        self._files: dict[str, list[File]] = {}
        self._is_new: set[str] = set()
        self._sources: frozenset[str] | None = None

    def find(self, ref: BlockRef) -> File:
        """The file that holds the block. Raises BlockAbsent, or what `ArchiveFolder` raises."""
        source = ref.source
        if source not in self._files:
            self._files[source] = self._folder.last_listing(self._stream, source) or []
        file = _holding(ref, self._files[source])
        if file is None and source not in self._is_new:
            self._is_new.add(source)
            self._files[source] = self._folder.files(self._stream, source) if self._exists(source) else []
            file = _holding(ref, self._files[source])
        if file is None:
            raise BlockAbsent(f"{self._stream}/{ref.source}: no file holds block {ref.offset}")
        return file

    def _exists(self, source: str) -> bool:
        if self._sources is None:
            self._folder.check()
            self._sources = frozenset(self._folder.sources(self._stream))
        return source in self._sources


def _holding(ref: BlockRef, files: Sequence[File]) -> File | None:
    index = bisect_right(files, ref.offset, key=lambda file: file.next)
    return files[index] if index < len(files) and files[index].first <= ref.offset else None


def is_file(entry: Any) -> bool:
    """Whether a folder's entry, as fsspec describes it, is a file: no folder, link, named pipe or device."""
    return bool(entry.get("type") == "file")


def _write_durably(folder: Path, name: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a local file so that it is there whole or not at all, whenever the machine stops.

    1. write under a temporary name; 2. fsync; 3. rename; 4. fsync the folder. Raises OSError and leaves nothing behind.
    """
    leftover, final = folder / f".{name}.tmp", folder / name
    try:
        leftover.unlink(missing_ok=True)  # it may be a link or a named pipe
        with leftover.open("xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        leftover.rename(final)
        sync_folder(folder)
    except OSError:
        with contextlib.suppress(OSError):
            leftover.unlink(missing_ok=True)
        raise


def _make_folders(folder: Path, below: Path = Path("/")) -> None:
    """Make `folder` and its missing parents, each durable in its parent; `below` itself must exist."""
    if folder != below and not folder.is_dir():
        _make_folders(folder.parent, below)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Translate foreign exceptions into edged's, with the path."""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise ArchiveUnavailable(f"{path}: {error}") from error
    except OSError as error:
        if error.errno is None:  # how pyarrow reports a file that it cannot parse
            raise CorruptFileError(f"{path}: {error}") from error
        kind = DiskFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else StorageError
        raise kind(why_refused_in(Path(path), error)) from error
    except AnotherVersion as error:  # kept where it is
        raise StorageError(f"{path}: {error}") from error
    except parquet_file.CORRUPTION as error:
        raise CorruptFileError(f"{path}: {error}") from error
