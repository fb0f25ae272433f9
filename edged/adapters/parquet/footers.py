"""Footers of the archive's files: the newest few that were read are kept whole.

Files are immutable, so what was read of one stays valid. See also: `file` (what is in a footer).
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, cast

import pyarrow.parquet as pq

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet.damage import CorruptFileError, translated
from edged.adapters.parquet.file import Contents
from edged.adapters.parquet.object_file import ObjectFile
from edged.adapters.parquet.rows import Footer
from edged.domain.archive.coverage import num_offsets
from edged.domain.archive.layout import FileName
from edged.domain.archive.segment_index import IndexedFile
from edged.errors import FormatError
from edged.ports import ObjectStore

MAX_FOOTERS = 16
"""Footers kept with their digests; about 0.2 MB each."""


_MAX_SIZES = 4096


class File(NamedTuple):
    """A file: the object's name, whose it is, what its own name says, and its bytes."""

    path: str
    stream: str
    source: str
    name: FileName
    size: int


class Footers:
    """A cache of footers; thread-safe."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._footers: OrderedDict[File, Footer] = OrderedDict()
        self._sizes: dict[str, int] = {}
        """Of files that have another one than an index says."""

    def __len__(self) -> int:
        return len(self._footers)

    def where(self, file: File) -> str:
        """The file, for messages."""
        return self._objects.path(file.path)

    def open(self, file: File) -> BinaryIO:
        """The file's bytes."""
        return cast("BinaryIO", ObjectFile(self._objects, file.path, self._sizes.get(file.path, file.size)))

    def footer(self, file: File) -> Footer:
        """The file's footer. Raises StorageError (BlockAbsent when it is gone), ArchiveUnavailable."""
        with self._lock:
            if file in self._footers:
                self._footers.move_to_end(file)
                return self._footers[file]
        try:
            footer = self._read(file)
        except CorruptFileError:
            if not self._has_another_size(file):
                raise
            footer = self._read(file)
        self._keep(file, footer)
        return footer

    def _read(self, file: File) -> Footer:
        with translated(self.where(file)), self.open(file) as raw:
            return read_footer(raw, file)

    def _has_another_size(self, file: File) -> bool:
        """Whether it has by now: another engine wrote it again, or it was restored."""
        size = self._objects.size(file.path)
        if size is None or size == self._sizes.get(file.path, file.size):
            return False
        with self._lock:
            if len(self._sizes) >= _MAX_SIZES:
                self._sizes.clear()
            self._sizes[file.path] = size
        return True

    def of_new(self, file: File, pieces: Sequence[bytes | memoryview]) -> Footer:
        """The footer of a file that is about to be written."""
        with translated(file.path), io.BytesIO(_tail(pieces, file.size)) as raw:
            footer = read_footer(raw, file)
        self._keep(file, footer)
        return footer

    def forget(self, file: File) -> None:
        """The file is there no more; another may come under its name."""
        with self._lock:
            self._footers.pop(file, None)

    def _keep(self, file: File, footer: Footer) -> None:
        with self._lock:
            self._footers[file] = footer
            while len(self._footers) > MAX_FOOTERS:
                self._footers.popitem(last=False)


def read_footer(raw: BinaryIO, file: File) -> Footer:
    """The file's footer. Raises FormatError unless it agrees with the names of the file and its folders."""
    metadata = pq.read_metadata(raw)
    contents = parquet_file.contents_of(metadata)
    end = contents.next if file.name.next is None else file.name.next
    said = contents.stream, contents.source, contents.first, contents.next
    if said != (file.stream, file.source, file.name.first, end):
        raise FormatError("the file's content belongs under another name")
    return Footer(metadata, contents)


def indexed(file: File, contents: Contents, first: int) -> IndexedFile:
    """The file as an index names it, which counts from `first` on."""
    blocks = slice(int(contents.offsets.searchsorted(first)), None)
    return IndexedFile(
        file.name.generation,
        file.name.first,
        first,
        contents.next,
        file.size,
        contents.log.name,
        contents.log.base,
        num_offsets(contents.gaps) - num_offsets(contents.empty),
        0,
        False,
        contents.offsets[blocks],
        contents.rows[blocks].astype("int64"),
        contents.num_bytes[blocks],
    )


def _tail(pieces: Sequence[bytes | memoryview], size: int) -> bytes:
    """The last bytes of a file of these pieces, with its footer; Parquet readers need no others for it."""
    last = b"".join(memoryview(piece)[-8:] for piece in pieces)[-8:]
    wanted = min(size, int.from_bytes(last[:4], "little") + 8)
    kept: list[bytes | memoryview] = []
    for piece in reversed(pieces):
        if wanted <= 0:
            break
        kept.insert(0, memoryview(piece)[-wanted:])
        wanted -= len(kept[0])
    return b"PAR1" + b"".join(kept)
