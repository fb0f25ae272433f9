"""What counts of one source, as it is now: the files that its indexes name, and the unbroken tail behind them.

See also: `domain.archive.segment_index` (the rule), `writing` (how a source grows).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edged.adapters.parquet.damage import CorruptFileError
from edged.adapters.parquet.footers import File, Footers, indexed
from edged.adapters.parquet.indexes import Indexes, floor_name, index_name
from edged.domain.archive import layout
from edged.domain.archive.floor import Floor
from edged.domain.archive.layout import WRITTEN, FileName, segment_of
from edged.domain.archive.segment_index import MAX_TAIL, IndexedFile, SegmentIndex, end_of_damaged
from edged.errors import BlockAbsent, StorageError
from edged.ports import ObjectStore

_NOTHING = np.zeros(0, np.int64)
_LONG_TAIL = 4 * MAX_TAIL
"""By then the writer has indexed most of it."""


@dataclass(frozen=True)
class Chain:
    """What counts of a source, when it was looked at.

    `segments`: those that may have an index, rising; `index`: the newest one with files. `tail`: what is behind it.
    `watched`: the versions of the manifests that anybody who changes this changes, too. `ignored`: names behind the
    index that do not count: the file before has their offsets, too. `hidden`: why it is not known how the tail goes on.
    """

    floor: Floor
    segments: tuple[int, ...]
    index: SegmentIndex | None
    tail: tuple[IndexedFile, ...]
    watched: Mapping[str, int]
    ignored: frozenset[str] = frozenset()
    hidden: StorageError | None = field(default=None, compare=False)

    @property
    def end(self) -> int:
        """Where the source's next file begins."""
        if self.tail:
            return self.tail[-1].next
        return self.floor.first if self.index is None else max(self.index.end, self.floor.first)

    @property
    def newest(self) -> IndexedFile | None:
        """The last file."""
        if self.tail:
            return self.tail[-1]
        return None if self.index is None else self.index.file(len(self.index) - 1)

    @property
    def has_files(self) -> bool:
        return bool(self.tail) or self.index is not None


class Source:
    """Looks at one source's files. Raises StorageError and ArchiveUnavailable."""

    def __init__(self, objects: ObjectStore, indexes: Indexes, footers: Footers, stream: str, source: str) -> None:
        self.stream = stream
        self.name = source
        self.folder = layout.source_folder(stream, source)
        self._objects = objects
        self._indexes = indexes
        self._footers = footers
        self._floor_version = 0

    def chain(self) -> Chain | None:
        """What counts now; None of a source that is not there."""
        floor, floor_version = self._indexes.floor(self.folder)
        if floor is None:
            return None
        watched = {floor_name(self.folder): floor_version}
        segments = layout.segments(self._objects.folders(self.folder))
        if floor_version != self._floor_version:  # what is known of indexes below it may be deleted
            for segment in segments:
                self._indexes.forget(self.folder, segment)
            self._floor_version = floor_version
        index: SegmentIndex | None = None
        for segment in reversed(segments):
            index, version = self._indexes.read(self.folder, segment)
            watched[index_name(self.folder, segment)] = version
            if index is not None and len(index):
                break
            index = None
        chain = Chain(floor, tuple(segments), index, (), watched)
        return self._watched(self._extended(chain), segments)

    def grown(self, chain: Chain) -> Chain | None:
        """What counts now, by a look behind what counted before: enough unless the source was changed there."""
        if len(chain.tail) > _LONG_TAIL or any(file.is_damaged for file in chain.tail) or chain.hidden:
            return self.chain()
        if self._objects.version(floor_name(self.folder)) != chain.watched[floor_name(self.folder)]:
            return self.chain()
        return self._extended(chain)

    def file(self, file: IndexedFile) -> File:
        """Where a file of an index or a tail is."""
        path = layout.path(self.folder, segment_of(file.first), layout.text_of(file.name))
        size = file.size
        if file.is_damaged:  # it may have been restored
            size = self._objects.size(path) or size
        return File(path, self.stream, self.name, file.name, size)

    def files_back(self, chain: Chain) -> Iterator[IndexedFile]:
        """All files that count, the newest first."""
        yield from reversed(chain.tail)
        for index in self.indexes_back(chain):
            first = int(np.searchsorted(index.next, chain.floor.first, side="right"))
            yield from map(index.file, range(len(index) - 1, first - 1, -1))

    def indexes_back(self, chain: Chain, first: int | None = None) -> Iterator[SegmentIndex]:
        """All indexes with files from the floor on, or from `first` on, the newest first."""
        first = chain.floor.first if first is None else first
        if chain.index is None:
            return
        if chain.index.end > first:
            yield chain.index
        for segment in reversed(chain.segments):
            if segment_of(first) <= segment < chain.index.segment:
                index = self._indexes.known(self.folder, segment)
                if index is not None and len(index) and index.end > first:
                    yield index

    def kept_from(self, chain: Chain, first: int) -> int:
        """The first offset at or behind `first` of which anything is kept: below the floor what is not deleted yet."""
        oldest = chain.floor.first
        if first >= oldest or not chain.floor.raises:
            return max(first, oldest)
        for index in self.indexes_back(chain, first):
            oldest = min(oldest, int(index.first[0]))
        return max(first, oldest)

    def forgotten_bytes(self, chain: Chain) -> int:
        """Of the files below the floor that are not deleted yet."""
        if not chain.floor.raises:
            return 0
        floor = chain.floor.first
        indexes = self.indexes_back(replace(chain, floor=Floor(0)))
        return sum(int(index.size[: index.next.searchsorted(floor, side="right")].sum()) for index in indexes)

    def since_ms(self, chain: Chain, offset: int) -> int | None:
        """Since when an index names the file that has the offset; None if none does."""
        file = self.file_with(chain, offset)
        return file.since_ms or None if file is not None else None

    def file_with(self, chain: Chain, offset: int) -> IndexedFile | None:
        """The file that has the block at this offset, if there is one, also below the floor."""
        if chain.tail and offset >= chain.tail[0].first:
            newest = chain.tail[-1]
            if newest.is_damaged and offset >= newest.first:
                return newest  # nobody knows how far it went
            return next((file for file in chain.tail if file.first <= offset < file.next), None)
        for segment in reversed(chain.segments):
            if segment > segment_of(offset):
                continue
            index = self._indexes.known(self.folder, segment)
            if index is not None and len(index) and index.first[0] <= offset:
                return index.file_with(offset)
        return None

    def forget_indexes(self, chain: Chain) -> None:
        """What is known of them may be out of date."""
        for segment in chain.segments:
            self._indexes.forget(self.folder, segment)

    def looked_at(self, file: IndexedFile) -> IndexedFile:
        """A damaged file, as its footer says now if that can be read again. Raises StorageError if not."""
        contents = self._footers.footer(self.file(file)).contents
        found = indexed(self.file(file), contents, file.first)
        blocks = slice(0, int(found.offset.searchsorted(file.next)))
        return found._replace(
            next=file.next, offset=found.offset[blocks], rows=found.rows[blocks], num_bytes=found.num_bytes[blocks]
        )

    def _extended(self, chain: Chain) -> Chain:
        """The chain with the files that are at its end by now."""
        tail, at = list(chain.tail), chain.end
        passed: set[str] = set()
        while True:
            segment = segment_of(at)
            listed = self._listed(segment, at)
            for first in sorted(listed):
                if first < at:
                    passed.add(layout.file_name(first))
                    continue
                try:
                    tail.append(self._behind(first, listed))
                except StorageError as error:
                    return replace(chain, tail=tuple(tail), ignored=frozenset(passed), hidden=error)
                at = tail[-1].next
            if segment_of(at) == segment or not listed:
                return replace(chain, tail=tuple(tail), ignored=frozenset(passed), hidden=None)

    def _listed(self, segment: int, at: int) -> dict[int, int]:
        """The sizes of the segment's files as they were written, by first offset, from this one on."""
        folder = f"{self.folder}/{layout.segment_name(segment)}"

        def listed() -> dict[int, int]:
            found = ((layout.parsed(each.name), each.size) for each in self._objects.list(folder, f"{at:020d}"))
            return {name.first: size for name, size in found if name is not None and name.generation == WRITTEN}

        found = listed()
        # A folder that is read while files come may lack one and have the next: what is missing is looked for again.
        return listed() if found and at not in found else found

    def _behind(self, first: int, listed: Mapping[int, int]) -> IndexedFile:
        """The tail's file that begins there. Raises StorageError when that cannot be known now."""
        name = FileName(first, None, WRITTEN)
        path = layout.path(self.folder, segment_of(first), layout.text_of(name))
        file = File(path, self.stream, self.name, name, listed[first])
        try:
            return indexed(file, self._footers.footer(file).contents, first)
        except (CorruptFileError, BlockAbsent):
            end = end_of_damaged(first, list(listed))
            nothing = (_NOTHING, _NOTHING, _NOTHING)
            return IndexedFile(WRITTEN, first, first, end, file.size, "", 0, 0, 0, True, *nothing)

    def _watched(self, chain: Chain, segments: list[int]) -> Chain:
        """With the version of the index to which the next file belongs."""
        name = index_name(self.folder, segment_of(chain.end))
        if name in chain.watched:
            return chain
        version = self._objects.version(name) if segment_of(chain.end) in segments else 0
        return replace(chain, watched={**chain.watched, name: version})
