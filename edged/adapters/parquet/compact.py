"""Packs a source's small files into large ones, while others read and write them.

1. A packed file is published; 2. the segment's index names it in place of those whose blocks it has; 3. those stay for
a grace, and are deleted. Who reads by the index sees each block once, before and after. Interrupted, it is begun again:
what no index names counts for nothing.

Who packs the same at the same time makes the same file. So one that is not needed is not deleted by who made it: an
index names it as replaced, for the grace, and no file is given such a name again.
"""

import mmap
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet import rows as parquet_rows
from edged.adapters.parquet.chain import Chain, Source
from edged.adapters.parquet.damage import translated
from edged.adapters.parquet.file import Contents, FileWriter
from edged.adapters.parquet.footers import File, Footers, indexed
from edged.adapters.parquet.indexes import Indexes, index_name
from edged.domain.archive import layout, packing
from edged.domain.archive.layout import FileName, segment_of
from edged.domain.archive.segment_index import IndexedFile, SegmentIndex
from edged.domain.samples.pack import of_columns
from edged.errors import BlockAbsent, StorageError
from edged.ports import ObjectStore

_TRIES = 4


class Compacted(NamedTuple):
    """A step: a number of `files` packed into one of `num_bytes`, or `deleted` since no reader needs them.

    `refused`: why the source, or the segment that begins at `first`, is left alone.
    """

    stream: str
    source: str
    first: int
    next: int
    files: int
    num_bytes: int
    deleted: int
    refused: str = ""


class Compaction:
    """Of one source. Raises ArchiveUnavailable."""

    def __init__(
        self,
        objects: ObjectStore,
        source: Source,
        indexes: Indexes,
        footers: Footers,
        now_ms: Callable[[], int],
        packed_bytes: int = packing.PACKED_BYTES,
    ) -> None:
        self._objects = objects
        self._source = source
        self._indexes = indexes
        self._footers = footers
        self._now_ms = now_ms
        self._packed_bytes = packed_bytes

    def steps(self, chain: Chain, grace_ms: int) -> Iterator[Compacted]:
        """Pack what is to be packed, and delete what has been replaced for longer than the grace.

        A segment with something that cannot be read is left alone.
        """
        for segment in chain.segments:
            if segment < segment_of(chain.floor.first):
                continue  # forgotten
            self._sweep(segment)
            is_complete = segment < segment_of(chain.end)
            try:
                yield from self._packed(segment, is_complete=is_complete)
                yield from self._deleted(segment, grace_ms)
            except StorageError as error:
                end = (segment + 1) * layout.SEGMENT
                yield self._step(segment * layout.SEGMENT, end)._replace(refused=str(error))

    def _sweep(self, segment: int) -> None:
        """What was left half done: a node sweeps its newest segment alone, and a command comes with another name."""
        self._objects.sweep(f"{self._source.folder}/{layout.segment_name(segment)}")
        self._objects.sweep(index_name(self._source.folder, segment))

    def _packed(self, segment: int, *, is_complete: bool) -> Iterator[Compacted]:
        tries = 0
        made: tuple[list[FileName], IndexedFile] | None = None
        while tries < _TRIES:
            index, version = self._indexes.read(self._source.folder, segment)
            floor, _ = self._indexes.floor(self._source.folder)
            first = 0 if floor is None else floor.first
            group = _next_group(index, first, is_complete=is_complete, packed_bytes=self._packed_bytes)
            files = [] if index is None or group is None else [index.file(number) for number in range(*group)]
            names = [file.name for file in files]
            if made is not None and made[0] != names:  # somebody else compacts, or forgets
                self._give_up(made[1])
                made = None
                continue
            if index is None or group is None:
                return
            try:
                made = made or (names, self._pack(files, {each.name for each in index.replaced}))
            except BlockAbsent:  # forgotten meanwhile, to make room, or packed by somebody else; or it is lost
                tries += 1
                if tries == _TRIES:
                    raise
                continue
            packed = made[1]
            if self._indexes.replace(self._source.folder, index.packed(*group, packed, self._now_ms()), version):
                tries, made = 0, None
                yield self._step(files[0].first, packed.next, files=len(files), num_bytes=packed.size)
            else:  # its writer has indexed more files, or somebody else was first
                tries += 1
        if made is not None:
            self._give_up(made[1])

    def _deleted(self, segment: int, grace_ms: int) -> Iterator[Compacted]:
        """1. Delete them; 2. forget them. A name that counts again is not deleted."""
        index, version = self._indexes.read(self._source.folder, segment)
        due = [] if index is None else [each for each in index.replaced if each.since_ms <= self._now_ms() - grace_ms]
        if index is None or not due:
            return
        counted = {layout.text_of(file.name) for file in index.files()}
        gone = [each.name for each in due if each.name not in counted and not self._is_behind(index, each.name)]
        for name in gone:
            self._objects.delete(layout.path(self._source.folder, segment, name))
        self._indexes.replace(self._source.folder, index.without_replaced(due), version)
        yield self._step(segment * layout.SEGMENT, (segment + 1) * layout.SEGMENT, deleted=len(gone))

    @staticmethod
    def _is_behind(index: SegmentIndex, name: str) -> bool:
        parsed = layout.parsed(name)
        return parsed is not None and (not len(index) or parsed.first >= index.end)

    def _pack(self, files: Sequence[IndexedFile], used: Collection[str]) -> IndexedFile:
        """Publish the file that has the blocks of these, under a name that was not `used`."""
        places = [self._source.file(file) for file in files]
        contents = [self._footers.footer(place).contents for place in places]
        with tempfile.TemporaryFile() as spool:
            self._write(spool, files, places, contents)
            spool.flush()
            with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
                pieces = parquet_file.with_digest(view)
                try:
                    return self._published(files, contents[-1], pieces, used)
                finally:
                    for piece in pieces:
                        if isinstance(piece, memoryview):
                            piece.release()

    def _write(
        self, spool: Any, files: Sequence[IndexedFile], places: Sequence[File], contents: Sequence[Contents]
    ) -> None:
        sink = pa.PythonFile(spool, mode="w")
        first, end = files[0].first, files[-1].next
        is_compressed = all(self._is_compressed(place) for place in places)
        offsets: list[int] = []
        with FileWriter(sink, self._source.stream, self._source.name, is_compressed=is_compressed) as writer:
            for file, place, known in zip(files, places, contents, strict=True):
                with translated(self._footers.where(place)), self._footers.open(place) as raw:
                    footer = self._footers.footer(place)
                    for offset in file.offset.tolist():
                        writer.add(offset, of_columns(parquet_rows.read_block(raw, footer, known.block_of(offset))))
                        offsets.append(offset)
            empty = [
                (max(a, file.first), min(b, file.next))
                for file, known in zip(files, contents, strict=True)
                for a, b in known.empty
                if max(a, file.first) < min(b, file.next)
            ]
            writer.end(_gaps(first, end, offsets), contents[-1].cursors, contents[-1].log, empty)

    def _is_compressed(self, place: File) -> bool:
        metadata = self._footers.footer(place).metadata
        if not metadata.num_row_groups:
            return True
        return bool(metadata.row_group(0).column(metadata.num_columns - 1).compression == "UNCOMPRESSED")

    def _published(
        self,
        files: Sequence[IndexedFile],
        newest: Contents,
        pieces: Sequence[bytes | memoryview],
        used: Collection[str],
    ) -> IndexedFile:
        generation = max(0, *(file.generation for file in files)) + 1
        size = sum(memoryview(piece).nbytes for piece in pieces)
        while True:
            name = FileName(files[0].first, files[-1].next, generation)
            path = layout.path(self._source.folder, segment_of(name.first), layout.text_of(name))
            file = File(path, self._source.stream, self._source.name, name, size)
            if layout.text_of(name) not in used and self._objects.publish(path, pieces):
                break
            generation += 1  # given up before, or another version of edged has begun the same
        packed = indexed(file, self._footers.of_new(file, pieces).contents, name.first)
        return packed._replace(since_ms=max(each.since_ms for each in files), log=newest.log.name)

    def _give_up(self, packed: IndexedFile) -> None:
        name = layout.text_of(packed.name)
        for _ in range(_TRIES):
            index, version = self._indexes.read(self._source.folder, segment_of(packed.first))
            if index is None or index.has(packed) or any(each.name == name for each in index.replaced):
                return
            if self._indexes.replace(self._source.folder, index.with_replaced(name, self._now_ms()), version):
                return

    def _step(self, first: int, end: int, *, files: int = 0, num_bytes: int = 0, deleted: int = 0) -> Compacted:
        return Compacted(self._source.stream, self._source.name, first, end, files, num_bytes, deleted)


def _next_group(
    index: SegmentIndex | None, floor: int, *, is_complete: bool, packed_bytes: int
) -> tuple[int, int] | None:
    if index is None:
        return None
    files = list(index.files())
    forgotten = sum(file.first < floor for file in files)
    groups = packing.groups(files[forgotten:], is_complete=is_complete, packed_bytes=packed_bytes)
    return next(((begin + forgotten, end + forgotten) for begin, end in groups), None)


def _gaps(first: int, end: int, offsets: Sequence[int]) -> list[tuple[int, int]]:
    """What of the range has no block."""
    bounds = [first - 1, *offsets, end]
    return [(a + 1, b) for a, b in pairwise(bounds) if a + 1 < b]
