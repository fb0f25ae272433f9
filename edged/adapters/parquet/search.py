"""Finds the files of one stream's blocks, by what counts of their sources."""

from collections.abc import Collection
from typing import Protocol

from edged.adapters.parquet.chain import Chain, Source
from edged.adapters.parquet.footers import File
from edged.domain.archive.snapshot import BlockRef
from edged.errors import BlockAbsent, StorageError


class Finder(Protocol):
    """The archive's sources, and what counts of them."""

    def check(self) -> None:
        """Raise while the archive as a whole cannot be read: then no block is called absent or damaged."""

    def source_names(self, stream: str) -> Collection[str]:
        """The sources that are there now."""

    def seen(self, stream: str, source: str) -> tuple[Source, Chain] | None:
        """What counted of the source when it was looked at last; None if it was not."""

    def seen_afresh(self, stream: str, source: str) -> tuple[Source, Chain] | None:
        """What counts of the source, which is there, now."""


class Search:
    """One call of `ArchiveStore.read_each`. A source is looked at again, once, when it lacks a block."""

    def __init__(self, stream: str, finder: Finder) -> None:
        self._stream = stream
        self._finder = finder
        self._names: Collection[str] | None = None
        self._sources: dict[str, tuple[Source, Chain] | None] = {}
        self._is_new: set[str] = set()

    def file(self, ref: BlockRef) -> File | StorageError:
        """The file that has the block, or why there is none. Raises what `Finder.check` does."""
        try:
            found = self._known(ref)
            if found is None and self.look_again(ref):
                found = self._known(ref)
        except StorageError as error:
            self._finder.check()
            return error
        return absent(self._stream, ref) if found is None else found

    def look_again(self, ref: BlockRef) -> bool:
        """Look at the block's source as it is now, once; False if that is done."""
        if ref.source in self._is_new:
            return False
        self._finder.check()
        self._is_new.add(ref.source)
        if (found := self._sources.get(ref.source)) is not None:
            found[0].forget_indexes(found[1])
        if self._names is None:
            self._names = frozenset(self._finder.source_names(self._stream))
        is_there = ref.source in self._names
        self._sources[ref.source] = self._finder.seen_afresh(self._stream, ref.source) if is_there else None
        return True

    def _known(self, ref: BlockRef) -> File | None:
        if ref.source not in self._sources:
            self._sources[ref.source] = self._finder.seen(self._stream, ref.source)
        if (found := self._sources[ref.source]) is None:
            return None
        source, chain = found
        file = source.file_with(chain, ref.offset)
        return None if file is None else source.file(file)


def absent(stream: str, ref: BlockRef) -> BlockAbsent:
    """No file holds the block."""
    return BlockAbsent(f"{stream}/{ref.source}: no file holds block {ref.offset}")
