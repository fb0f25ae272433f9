"""How a source grows: one file at a time at the end of what counts, whoever else writes.

1. The tail is indexed, when that is due. 2. The file is published, if its name is free. 3. If anything that counts has
been changed meanwhile, and the file counts for nothing now, it is deleted: a writer that slept through compaction and
retention brings nothing back.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edged.adapters.parquet import aside
from edged.adapters.parquet.chain import Chain, Source
from edged.adapters.parquet.damage import CorruptFileError
from edged.adapters.parquet.footers import File, Footers, indexed
from edged.adapters.parquet.indexes import Indexes, index_name
from edged.adapters.parquet.rows import Footer
from edged.domain.archive import layout
from edged.domain.archive.floor import Floor
from edged.domain.archive.layout import WRITTEN, FileName, segment_of
from edged.domain.archive.segment_index import IndexedFile, index_of, is_index_due
from edged.errors import ArchiveConflict, BlockAbsent, StorageError
from edged.ports import ObjectStore

_TRIES = 4

Encode = Callable[[Mapping[str, int]], Sequence[bytes | memoryview]]
"""Makes a file's bytes of the highest cursors before it."""


class Writer:
    """Writes the files of one source. Not thread-safe. Raises StorageError and ArchiveUnavailable."""

    def __init__(
        self,
        objects: ObjectStore,
        indexes: Indexes,
        footers: Footers,
        source: Source,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._indexes = indexes
        self._footers = footers
        self._source = source
        self._clock = clock

    def append(self, chain: Chain | None, first: int, end: int, encode: Encode) -> Chain:
        """Publish the file from `first` to `end`; what counts then. `chain`: what counted, as it was seen last.

        Raises ArchiveConflict when it does not belong there.
        """
        chain = self._fitting(chain, first, end)
        is_repeated = chain.end != first
        if not is_repeated:
            chain = self._indexed_if_due(chain, first, end)
        pieces = encode(self._cursors_before(chain, first))
        name = FileName(first, None, WRITTEN)
        path = layout.path(self._source.folder, segment_of(first), layout.text_of(name))
        size = sum(memoryview(piece).nbytes for piece in pieces)
        file = File(path, self._source.stream, self._source.name, name, size)
        if not self._objects.publish(path, pieces):
            raise self._conflict(self._source.chain(), first)
        if is_repeated:
            return chain
        contents = self._footers.of_new(file, pieces).contents
        return self._judged(chain, indexed(file, contents, first), path)

    def newest_readable(self, chain: Chain) -> tuple[IndexedFile | None, Footer | None, str]:
        """The newest file whose footer can be read, that footer, and what is wrong with the file after it."""
        damage = ""
        for file in self._source.files_back(chain):
            try:
                return file, self._footers.footer(self._source.file(file)), damage
            except (CorruptFileError, BlockAbsent) as error:
                damage = str(error)
        return None, None, damage

    def set_aside(self, offset: int) -> None:
        """Keep the files from `offset` on elsewhere, where they do not count. Interrupted, it is begun again."""
        chain = self._source.chain()
        if chain is None:
            return
        files = [file for file in chain.tail if file.first >= offset]
        for segment in [each for each in chain.segments if each >= segment_of(offset)]:
            index, version = self._indexes.read(self._source.folder, segment)
            index = index_of(segment, []) if index is None else index
            kept = int(index.first.searchsorted(offset))
            files += map(index.file, range(kept, len(index)))
            for number in range(kept, len(index)):
                aside.keep_file(self._objects, self._source, index.file(number))
            if not self._indexes.replace(self._source.folder, index.until(kept), version):
                raise ArchiveConflict(f"{self._source.folder} was changed by somebody else in the same moment")
        for file in sorted(files, key=lambda each: -each.first):
            aside.keep_file(self._objects, self._source, file)
            self._objects.delete(self._source.file(file).path)
            self._footers.forget(self._source.file(file))

    def _fitting(self, chain: Chain | None, first: int, end: int) -> Chain:
        """What counts, if the file belongs at its end, or is the last one already. Raises ArchiveConflict."""
        if chain is None or not _belongs(chain, first, end) or not self._is_current(chain):
            chain = self._source.chain() or self._begun(first)
        if chain.hidden is not None:
            raise chain.hidden
        if not _belongs(chain, first, end):
            raise self._conflict(chain, first)
        return chain

    def _is_current(self, chain: Chain) -> bool:
        """Whether nothing that counts has been changed since."""
        return all(self._objects.version(name) == version for name, version in chain.watched.items())

    def _begun(self, first: int) -> Chain:
        """A new source that begins there, unless somebody else begins it elsewhere."""
        self._indexes.raise_floor(self._source.folder, Floor(first), 0)
        chain = self._source.chain()
        if chain is None:
            raise StorageError(f"{self._source.folder} was begun, and is not there")
        return chain

    def _indexed_if_due(self, chain: Chain, first: int, end: int) -> Chain:
        for _ in range(_TRIES):
            if not is_index_due(chain.tail, first):
                return chain
            # Else it is compaction, or another writer.
            chain = self.with_index(chain) or self._fitting(None, first, end)
        raise ArchiveConflict(f"{self._source.folder}: others change its index all the time")

    def with_index(self, chain: Chain) -> Chain | None:
        """The same files with those of the tail's first segment in its index; None where that was changed meanwhile."""
        segment = segment_of(chain.tail[0].first)
        since_ms = int(self._clock() * 1000)
        files = [each._replace(since_ms=since_ms) for each in chain.tail if segment_of(each.first) == segment]
        index, version = self._indexes.read(self._source.folder, segment)
        if index is None or not len(index):
            index = index_of(segment, files)
        elif index.end == files[0].first:
            index = index.extended(files)
        else:
            return None
        if not self._indexes.replace(self._source.folder, index, version):
            return None
        watched = {**chain.watched, index_name(self._source.folder, segment): version + 1}
        segments = tuple(sorted({*chain.segments, segment}))
        return replace(chain, index=index, tail=chain.tail[len(files) :], watched=watched, segments=segments)

    def _cursors_before(self, chain: Chain, first: int) -> Mapping[str, int]:
        for file in self._source.files_back(chain):
            if file.next <= first:
                try:
                    return self._footers.footer(self._source.file(file)).contents.cursors
                except (CorruptFileError, BlockAbsent):
                    continue
        return {}

    def _judged(self, before: Chain, file: IndexedFile, path: str) -> Chain:
        """What counts now that the file is published. Raises ArchiveConflict, and deletes it, if it does not."""
        if self._is_current(before):
            chain = replace(before, tail=(*before.tail, file))
            return chain if segment_of(file.first) == segment_of(chain.end) else self._source.chain() or chain
        now = self._source.chain()
        if now is None or now.hidden is not None:
            raise StorageError(f"{self._source.folder} was changed while it was written to; it is looked at again")
        found = self._source.file_with(now, file.first)
        if found is not None and found.first >= now.floor.first and found[:5] == file[:5] and _follows(now, file.first):
            return now
        self._objects.delete(path)
        self._footers.forget(self._source.file(file))
        raise self._conflict(self._source.chain(), file.first)

    def _conflict(self, chain: Chain | None, first: int) -> ArchiveConflict:
        end = 0 if chain is None else chain.end
        return ArchiveConflict(f"{self._source.folder} continues at offset {end}, not at {first}")


def _belongs(chain: Chain, first: int, end: int) -> bool:
    """Whether a file with these offsets is the next one, or just the last one, whose writer may not know it."""
    newest = chain.newest
    is_last = newest is not None and (newest.first, newest.next) == (first, end) and newest.generation == WRITTEN
    return chain.end == first or is_last


def _follows(chain: Chain, first: int) -> bool:
    """Whether the tail's file that begins there follows the one before it, or an index names it."""
    ends = [replace(chain, tail=()).end, *(file.next for file in chain.tail)]
    return first < ends[0] or first in ends
