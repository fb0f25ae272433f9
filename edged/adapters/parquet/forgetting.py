"""Forgets the oldest files of a source: its floor rises above them, and after a grace they are deleted.

1. The floor rises, by compare-and-swap: from then on they count no more. 2. After the grace they are deleted; 3. their
segments' indexes go, or name them no more; 4. the floor remembers no longer when it rose. Interrupted, it is begun
again: what is below the floor counts for nothing, whatever is left of it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from edged.adapters.parquet.chain import Chain, Source
from edged.adapters.parquet.damage import CorruptFileError
from edged.adapters.parquet.indexes import Indexes, index_name
from edged.domain.archive import layout
from edged.domain.archive.layout import segment_of
from edged.domain.archive.retention import Kept
from edged.domain.archive.segment_index import SegmentIndex
from edged.ports import ObjectStore

_TRIES = 4


class Removed(NamedTuple):
    """So many files are gone, all from before this offset."""

    before: int
    files: int
    num_bytes: int


class Forgetting:
    """Of one source. Raises StorageError and ArchiveUnavailable."""

    def __init__(self, objects: ObjectStore, indexes: Indexes, source: Source) -> None:
        self._objects = objects
        self._indexes = indexes
        self._source = source

    def files(self, chain: Chain, tail_ms: int | None = None) -> Iterator[Kept]:
        """The files that indexes name, oldest first; never the source's newest, which says how it goes on.

        `tail_ms`: the time of the others, which have none yet; None: without them.
        """
        for segment in chain.segments:
            index = None if segment < segment_of(chain.floor.first) else self._known(segment)
            if index is None:
                continue
            is_newest = not chain.tail and chain.index is not None and chain.index.segment == segment
            rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(index.rows, dtype=np.int64)])
            samples = np.diff(rows[index.first_block])
            for number in range(_below(index, chain.floor.first), len(index) - int(is_newest)):
                end, size, since_ms = (int(each[number]) for each in (index.next, index.size, index.since_ms))
                yield Kept(end, int(samples[number]), size, since_ms)
        if tail_ms is not None:
            for file in chain.tail[:-1]:
                yield Kept(file.next, int(file.rows.sum()), file.size, tail_ms)

    def num_bytes(self, chain: Chain) -> int:
        """Of all files that count."""
        of_tail = sum(file.size for file in chain.tail)
        indexes = self._source.indexes_back(chain)
        return of_tail + sum(int(index.size[_below(index, chain.floor.first) :].sum()) for index in indexes)

    def raise_floor(self, first: int, now_ms: int) -> bool:
        """Forget all below `first`; False if that is so already, or others change the floor all the time."""
        for _ in range(_TRIES):
            floor, version = self._indexes.floor(self._source.folder)
            if floor is None or floor.first >= first:
                return False
            if self._indexes.raise_floor(self._source.folder, floor.raised(first, now_ms), version):
                return True
        return False

    def delete(self, before_ms: int, *, dry_run: bool = False) -> Iterator[Removed]:
        """Delete what counts no more since `before_ms`, segment by segment."""
        floor, version = self._indexes.floor(self._source.folder)
        before = 0 if floor is None else floor.deletable(before_ms)
        if floor is None or not before:
            return
        for segment in layout.segments(self._objects.folders(self._source.folder)):
            removed = Removed(before, 0, 0)
            if segment < segment_of(before):
                removed = self._delete_segment(segment, before, dry_run=dry_run)
            elif segment == segment_of(before):
                removed = self._delete_files(segment, before, dry_run=dry_run)
            if removed.files:
                yield removed
        if not dry_run and floor.forgotten(before) != floor:
            self._indexes.raise_floor(self._source.folder, floor.forgotten(before), version)

    def delete_replaced(self, chain: Chain) -> Iterator[Removed]:
        """Delete at once what compaction has replaced, although somebody may still read it."""
        for segment in chain.segments:
            index, version = self._indexes.read(self._source.folder, segment)
            if index is None or not index.replaced:
                continue
            counted = {layout.text_of(file.name) for file in index.files()}
            paths = [self._path(segment, each.name) for each in index.replaced if each.name not in counted]
            num_bytes = sum(self._objects.size(path) or 0 for path in paths)
            for path in paths:
                self._objects.delete(path)
            self._indexes.replace(self._source.folder, index.without_replaced(index.replaced), version)
            yield Removed((segment + 1) * layout.SEGMENT, len(paths), num_bytes)

    def _delete_segment(self, segment: int, before: int, *, dry_run: bool) -> Removed:
        """All of it. The newest version of its index goes last: until then it is known what there is to delete."""
        index = self._index_if_intact(segment)
        folder = f"{self._source.folder}/{layout.segment_name(segment)}"
        sizes = {f"{folder}/{each.name}": each.size for each in self._objects.list(folder)}
        if index is not None:
            elsewhere = [layout.text_of(file.name) for file in index.files()]
            for name in (name for name in elsewhere if name.startswith(layout.ABOVE)):
                path = self._path(segment, name)
                sizes[path] = self._objects.size(path) or 0
        if dry_run:
            return Removed(before, len(sizes), sum(sizes.values()))
        for path in sizes:
            self._objects.delete(path)
        versions = index_name(self._source.folder, segment)
        for each in list(self._objects.list(versions)):
            self._objects.delete(f"{versions}/{each.name}")
        self._indexes.forget(self._source.folder, segment)
        return Removed(before, len(sizes), sum(sizes.values()))

    def _delete_files(self, segment: int, before: int, *, dry_run: bool) -> Removed:
        """The first files of the segment in which the floor is."""
        index, version = self._indexes.read(self._source.folder, segment)
        number = 0 if index is None else _below(index, before)
        if index is None or not number:
            return Removed(before, 0, 0)
        removed = Removed(before, number, int(index.size[:number].sum()))
        if not dry_run:
            for file in map(index.file, range(number)):
                self._objects.delete(self._path(segment, layout.text_of(file.name)))
            # Where somebody else was first with another index, the next look finds that it still names them.
            self._indexes.replace(self._source.folder, index.behind(before), version)
        return removed

    def _index_if_intact(self, segment: int) -> SegmentIndex | None:
        try:
            return self._indexes.read(self._source.folder, segment)[0]
        except CorruptFileError:
            return None  # what is in the segment's folder goes without it

    def _known(self, segment: int) -> SegmentIndex | None:
        index = self._indexes.known(self._source.folder, segment)
        return index if index is not None and len(index) else None

    def _path(self, segment: int, name: str) -> str:
        return layout.path(self._source.folder, segment, name)


def _below(index: SegmentIndex, offset: int) -> int:
    """How many of the index's files end there or before."""
    return int(np.searchsorted(index.next, offset, side="right"))
