"""Footers of the archive's files, read once: the newest few whole, and of every file what snapshots need.

Files are immutable, so what was read of one stays valid. See also: `file` (what is in a footer).
"""

import threading
from collections import OrderedDict
from typing import Any, BinaryIO, NamedTuple

import pyarrow.parquet as pq

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet.file import Footer
from edged.adapters.parquet.folder import ArchiveFolder, CorruptFileError, File, translated
from edged.domain.archive.coverage import num_offsets
from edged.domain.archive.source_log import Origin
from edged.errors import FormatError, StorageError
from edged.log import ThrottledLog

MAX_FOOTERS = 16
"""Footers kept with their digests; about 0.2 MB each."""


class Columns(NamedTuple):
    """What snapshots need of a file, kept for every file: 20 bytes per block.

    `lost`: offsets of records in its gaps. `origin`: of its blocks.
    """

    offset: Any
    rows: Any
    num_bytes: Any
    lost: int
    origin: Origin


class Footers:
    """A cache of footers; thread-safe."""

    def __init__(self, folder: ArchiveFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._lines = ThrottledLog()
        self._columns: dict[File, Columns | None] = {}
        self._footers: OrderedDict[File, Footer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._footers)

    def footer(self, file: File) -> Footer:
        """The file's footer. Raises StorageError, ArchiveUnavailable."""
        with self._lock:
            if file in self._footers:
                self._footers.move_to_end(file)
                return self._footers[file]
        with translated(file.path), self._folder.open(file) as raw:
            footer = read_footer(raw, file)
        with self._lock:
            self._footers[file] = footer
            while len(self._footers) > MAX_FOOTERS:
                self._footers.popitem(last=False)
        return footer

    def forget(self, file: File) -> None:
        """The file is there no more; another may come under its name."""
        with self._lock:
            self._columns.pop(file, None)
            self._footers.pop(file, None)

    def columns(self, stream: str, file: File) -> Columns | None:
        """The file's columns; None, and a line, when its footer cannot be read: for good when it is corrupt."""
        with self._lock:
            if file in self._columns:
                return self._columns[file]
        columns = None
        try:
            contents = self.footer(file).contents
            lost = num_offsets(contents.gaps) - num_offsets(contents.empty)
            origin = Origin(contents.first, contents.log.name, contents.log.base)
            columns = Columns(contents.offsets, contents.rows, contents.num_bytes, lost, origin)
        except StorageError as error:
            self._folder.check()  # no file is left out while the whole archive is away
            *_, source, _ = file.path.split("/")
            self._lines.error("archive.unreadable", (stream, source), stream=stream, source=source, reason=str(error))
            if not isinstance(error, CorruptFileError):
                return None
        with self._lock:
            self._columns[file] = columns
        return columns


def read_footer(raw: BinaryIO, file: File) -> Footer:
    """The file's footer. Raises FormatError unless it agrees with the names of the file and its folders."""
    metadata = pq.read_metadata(raw)
    contents = parquet_file.contents_of(metadata)
    *_, stream, source, _ = file.path.split("/")
    if (contents.stream, contents.source, contents.first, contents.next) != (stream, source, file.first, file.next):
        raise FormatError("the file's content belongs under another name")
    return Footer(metadata, contents)
