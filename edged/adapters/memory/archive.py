"""The fake of ports.ArchiveStore: it keeps the contract, except for durability, and fails on demand."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edged.domain.archive.coverage import Gap, covered
from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.samples import cursors as cursor_rules
from edged.domain.samples.pack import Pack
from edged.errors import ArchiveConflict, EdgedError, StorageError


@dataclass
class _Append:
    """The content of one `append`."""

    first: int
    next: int
    packs: dict[int, Pack]
    gaps: tuple[Gap, ...]


@dataclass
class MemoryArchive:
    """With `failure` set, every call raises it; reading the blocks in `unreadable` fails."""

    failure: EdgedError | None = None
    unreadable: set[BlockRef] = field(default_factory=set)
    _appended: dict[tuple[str, str], list[_Append]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def blocks(self, stream: str, source: str) -> dict[int, Pack]:
        """All blocks by offset, for assertions."""
        return {offset: pack for each in self._of(stream, source) for offset, pack in each.packs.items()}

    def gaps(self, stream: str, source: str) -> list[Gap]:
        """All known gaps, for assertions."""
        return [gap for each in self._of(stream, source) for gap in each.gaps]

    def ends(self, stream: str) -> dict[str, int]:
        self._check()
        return {source: files[-1].next for (name, source), files in self._appended.items() if name == stream and files}

    def cursors(self, stream: str, source: str) -> dict[str, int]:
        self._check()
        cursors: dict[str, int] = {}
        for pack in self.blocks(stream, source).values():
            cursors = cursor_rules.advance(cursors, pack)
        return cursors

    def append(self, stream: str, source: str, packs: Sequence[tuple[int, Pack]], gaps: Sequence[Gap] = ()) -> None:
        self._check()
        first, end = covered([offset for offset, _ in packs], gaps)
        new = _Append(first, end, dict(packs), tuple(gaps))
        with self._lock:
            files = self._of(stream, source)
            if files and (files[-1].first, files[-1].next) == (new.first, new.next):
                files.pop()
            if files and files[-1].next != new.first:
                raise ArchiveConflict(f"{stream}/{source} continues at offset {files[-1].next}, not at {new.first}")
            files.append(new)

    def snapshot(self, stream: str, ends: Mapping[str, int] | None = None) -> Snapshot:
        archived = self.ends(stream)
        if ends is not None:
            archived = {source: min(ends[source], end) for source, end in archived.items() if source in ends}
        sources = tuple(sorted(archived))
        table = [
            (number, offset, len(pack.samples), pack.num_bytes)
            for number, source in enumerate(sources)
            for offset, pack in sorted(self.blocks(stream, source).items())
            if offset < archived[source]
        ]
        columns = np.array(table, np.int64).reshape(len(table), 4).T
        return Snapshot(sources, columns[0], columns[1], columns[2], columns[3], archived)

    def read(self, stream: str, refs: Sequence[BlockRef]) -> Iterator[tuple[BlockRef, Pack]]:
        for ref in refs:
            self._check()
            pack = self.blocks(stream, ref.source).get(ref.offset)
            if pack is None or ref in self.unreadable:
                raise StorageError(f"{stream}/{ref.source}: no file holds block {ref.offset}")
            yield ref, pack

    def remove_leftovers(self, stream: str, source: str) -> None:  # noqa: ARG002 - memory leaves none
        self._check()

    def _of(self, stream: str, source: str) -> list[_Append]:
        with self._lock:
            return self._appended.setdefault((stream, source), [])

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure
