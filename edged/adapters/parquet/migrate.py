"""Brings an archive of an earlier layout to the present one.

Blocks keep their offsets and rows, so snapshots, plans and tests of before stay what they were. An interrupted run is
continued by the next one; the marker changes last, and no version of edged reads an archive in between.

    2       files lie in their source's own folder, and are listed to be found: now indexes name them where they are
    1       as 2, with files of archive/1: one time of each sample, `timestamp_ms`, which becomes `arrived_ms`, and
            cursors that are offsets alone: they are written again, into segments
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet import marker
from edged.adapters.parquet.chain import Source
from edged.adapters.parquet.damage import CorruptFileError, translated
from edged.adapters.parquet.footers import File, Footers, indexed
from edged.adapters.parquet.indexes import Indexes
from edged.adapters.parquet.marker import Marker
from edged.domain.archive import layout
from edged.domain.archive.floor import Floor
from edged.domain.archive.layout import ASIDE, MARKER, WRITTEN, FileName, segment_of
from edged.domain.archive.segment_index import IndexedFile, index_of
from edged.domain.counted import counted
from edged.domain.place import Place
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.errors import ArchiveUnavailable, FormatError, StorageError
from edged.ports import ObjectStore

_FIRST = "archive/1"
_SAMPLE_COLUMNS = ["device", "device_partition", "device_offset", "timestamp_ms", "label", "codec", "payload"]
_DAMAGED = ".parquet.damaged"
_NOTHING = np.zeros(0, np.int64)


class Migrated(NamedTuple):
    """A source, and how many of its `files` count; `rewritten`: those that have been written again in this run."""

    stream: str
    source: str
    files: int
    rewritten: int


class _Counted(NamedTuple):
    """A file of before, and the first offset that counts of it: the one before it may have some of them."""

    file: File
    first: int


def migrate(
    objects: ObjectStore,
    clock: Callable[[], float] = time.time,
    on_progress: Callable[[int], object] = lambda _num_files: None,
) -> Iterator[Migrated]:
    """Migrate what is not yet; nothing is yielded for an archive of the present layout.

    `on_progress` gets numbers of files that are done.
    Raises StorageError, of files of the first format also for a damaged one; ArchiveUnavailable.
    """
    found = marker.read(objects)
    if found is None and (pending := objects.manifest(marker.MIGRATION)) is not None:
        objects.publish(MARKER, [pending.content])
        return
    if found is None or found.format not in marker.MIGRATED_FROM:
        marker.check(objects, None)
        return
    for stream, source in _sources(objects):
        yield _Migration(objects, stream, source, clock, on_progress).run(is_first=found.format == 1)
    _mark(objects, found)


def next_offsets(objects: ObjectStore) -> dict[tuple[str, str], int] | None:
    """Where each source (stream, source) of an archive of format 1 ends; None of one of a later format.

    Raises StorageError and ArchiveUnavailable.
    """
    found = marker.read(objects)
    if found is None or found.format != 1:
        return None
    ends = {
        (stream, source): [each.file.name.next for each in _files(objects, stream, source)]
        for stream, source in _sources(objects)
    }
    return {source: int(of_source[-1]) for source, of_source in ends.items() if of_source and of_source[-1]}


def _mark(objects: ObjectStore, before: Marker) -> None:
    """1. Say that the marker is being replaced; 2. delete it; 3. write the new one. `migrate` goes on behind each."""
    pending = objects.manifest(marker.MIGRATION)
    if pending is None:
        content = marker.encode(marker.new(before.site))
        objects.replace(marker.MIGRATION, content, 0)
        pending = objects.manifest(marker.MIGRATION)
    if pending is None:
        raise ArchiveUnavailable(f"{objects.path(marker.MIGRATION)} was written, and is not there")
    objects.delete(MARKER)
    objects.publish(MARKER, [pending.content])


def _sources(objects: ObjectStore) -> list[tuple[str, str]]:
    return [
        (stream, source)
        for stream in filter(layout.is_stream, objects.folders())
        for source in filter(layout.is_source, objects.folders(stream))
    ]


def _files(objects: ObjectStore, stream: str, source: str) -> list[_Counted]:
    """The source's files of before, in order.

    A file counts from where the one before it ends, and not at all when it adds nothing: two writers that once wrote
    overlapping ranges wrote the same blocks, so that either file will do.
    """
    folder = layout.source_folder(stream, source)
    named = ((layout.parsed_of_before(each.name), each) for each in objects.list(folder))
    files: list[_Counted] = []
    end = 0
    for name, each in sorted((name, each) for name, each in named if name is not None):
        if name.next is not None and name.next > end:
            files.append(_Counted(File(f"{folder}/{each.name}", stream, source, name, each.size), max(name.first, end)))
            end = name.next
    return files


class _Migration:
    """Of one source."""

    def __init__(
        self,
        objects: ObjectStore,
        stream: str,
        source: str,
        clock: Callable[[], float],
        on_progress: Callable[[int], object],
    ) -> None:
        self._objects = objects
        self._indexes = Indexes(objects)
        self._footers = Footers(objects)
        self._source = Source(objects, self._indexes, self._footers, stream, source)
        self._since_ms = int(clock() * 1000)
        self._on_progress = on_progress

    def run(self, *, is_first: bool) -> Migrated:
        """1. The floor; 2. of the first format each file again; 3. the indexes; 4. then the files of before go."""
        objects, folder = self._objects, self._source.folder
        files = _files(objects, self._source.stream, self._source.name)
        if files:
            self._indexes.raise_floor(folder, Floor(files[0].first), 0)
        rewritten = 0
        for segment, group in groupby(files, lambda each: segment_of(each.first)):
            of_segment = list(group)
            olds = [each for each in of_segment if is_first and self._is_first_format(each)]
            for each in olds:
                self._rewrite(each)
            rewritten += len(olds)
            self._index(segment, [self._entry(each, is_rewritten=is_first) for each in of_segment])
            for each in of_segment if is_first else ():
                objects.delete(each.file.path)
        for name in [each.name for each in objects.list(folder) if _DAMAGED in each.name]:
            self._put_aside(name)
        chain = self._source.chain()
        count = 0 if chain is None else sum(len(index) for index in self._source.indexes_back(chain))
        return Migrated(self._source.stream, self._source.name, count, rewritten)

    def _index(self, segment: int, files: Sequence[IndexedFile]) -> None:
        index, version = self._indexes.read(self._source.folder, segment)
        known = [] if index is None else [file for file in index.files() if file.first < files[0].first]
        new = index_of(segment, [*known, *files])
        if index is not None and len(index) and (len(index), index.end) == (len(new), new.end):
            return
        if not self._indexes.replace(self._source.folder, new, version):
            raise StorageError(f"{self._source.folder} is being migrated by somebody else")

    def _entry(self, counted: _Counted, *, is_rewritten: bool) -> IndexedFile:
        file = _new(counted.file, self._size(counted.file)) if is_rewritten else counted.file
        self._on_progress(1)
        try:
            return indexed(file, self._footers.footer(file).contents, counted.first)._replace(since_ms=self._since_ms)
        except CorruptFileError:
            name, nothing = file.name, (_NOTHING, _NOTHING, _NOTHING)
            end = counted.file.name.next or counted.first + 1
            return IndexedFile(
                name.generation, name.first, counted.first, end, file.size, "", 0, 0, self._since_ms, True, *nothing
            )

    def _size(self, file: File) -> int:
        return self._objects.size(_new(file, 0).path) or 0

    def _is_first_format(self, counted: _Counted) -> bool:
        """Whether it has to be written again. An interrupted run has perhaps done so."""
        return self._objects.size(_new(counted.file, 0).path) is None

    def _rewrite(self, counted: _Counted) -> None:
        """Write the file again into its segment, in the present format."""
        file = counted.file
        with translated(self._footers.where(file)), self._footers.open(file) as raw:
            parquet = pq.ParquetFile(raw, page_checksum_verification=True)
            texts = {key.decode(): value.decode() for key, value in (parquet.metadata.metadata or {}).items()}
            if texts.get("edged.schema") != _FIRST:
                parquet_file.contents_of(parquet.metadata)  # by an interrupted run of the version before
                raw.seek(0)
                pieces: Sequence[bytes | memoryview] = [raw.read()]
            else:
                parquet_file.check_digest(raw)
                packs = list(_packs(parquet, texts))
                gaps = [(first, end) for first, end in json.loads(texts["edged.gaps"])]
                # What the file's own packs add is added again, and what was before it is among the highest of them all.
                pieces = parquet_file.encode(texts["edged.stream"], texts["edged.source"], packs, gaps, _cursors(texts))
        self._objects.publish(_new(file, 0).path, pieces)

    def _put_aside(self, name: str) -> None:
        """A file that the layout before kept beside those that count."""
        folder = self._source.folder
        size = self._objects.size(f"{folder}/{name}")
        content = None if size is None else self._objects.read(f"{folder}/{name}", 0, size)
        if content is not None:
            self._objects.publish(f"{folder}/{ASIDE}/{name}", [content])
            self._objects.delete(f"{folder}/{name}")


def _new(file: File, size: int) -> File:
    """The file in its segment, as the archiver would write it now."""
    name = FileName(file.name.first, None, WRITTEN)
    folder = layout.source_folder(file.stream, file.source)
    path = layout.path(folder, segment_of(name.first), layout.text_of(name))
    return file._replace(path=path, name=name, size=size)


def _packs(parquet: pq.ParquetFile, texts: Mapping[str, str]) -> Iterator[tuple[int, Pack]]:
    """The blocks by offset."""
    blocks, (first, end) = json.loads(texts["edged.blocks"]), json.loads(texts["edged.offsets"])
    gaps = [range(a, b) for a, b in json.loads(texts["edged.gaps"])]
    offsets = [offset for offset in range(first, end) if not any(offset in gap for gap in gaps)]
    cursors: dict[str, int] = {}
    row_group = 0
    for offset, rows, changes in zip(offsets, blocks["rows"], blocks["cursors"], strict=True):
        cursors |= changes
        cursors = {key: value for key, value in cursors.items() if value is not None}
        samples: tuple[Sample, ...] = ()
        if rows:
            samples = tuple(_samples(parquet.read_row_group(row_group, columns=_SAMPLE_COLUMNS, use_threads=False)))
            row_group += 1
        if len(samples) != rows:
            raise FormatError(f"block {offset} has {counted(len(samples), 'sample')}, not {rows}")
        yield offset, Pack(texts["edged.stream"], samples, _places(cursors))


def _samples(table: Any) -> Iterator[Sample]:
    return map(Sample, *(table.column(name).to_pylist() for name in _SAMPLE_COLUMNS))


def _cursors(texts: Mapping[str, str]) -> dict[str, int]:
    return dict(json.loads(texts["edged.cursors"]))


def _places(cursors: Mapping[str, int]) -> dict[str, Place]:
    return {key: Place(offset) for key, offset in cursors.items()}
