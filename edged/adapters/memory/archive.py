"""The fake of ports.ArchiveStore: it keeps the contract, except for durability, and fails on demand."""

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edged.domain.archive import quarantine
from edged.domain.archive.coverage import Gap, covered
from edged.domain.archive.quarantine import QuarantineRecord
from edged.domain.archive.snapshot import OVERLAY_SOURCES, QUARANTINE_SOURCE, BlockRef, Snapshot
from edged.domain.archive.source_log import UNKNOWN_LOG, Origin, SourceLog, named
from edged.domain.samples import cursors as cursor_rules
from edged.domain.samples.columns import PackColumns
from edged.domain.samples.pack import Pack, by_columns, of_columns
from edged.domain.samples.sample import Address
from edged.errors import ArchiveConflict, BlockAbsent, EdgedError, FormatError, StorageError
from edged.ports import MAX_KEPT_RECORDS, NotArchived, SourceEnd


@dataclass
class _Append:
    """The content of one `append`."""

    first: int
    next: int
    packs: dict[int, Pack]
    gaps: tuple[Gap, ...]
    log: SourceLog
    empty: tuple[Gap, ...]


@dataclass
class MemoryArchive:
    """With `failure` set, every call raises it, and with `failures` those for a source (stream, source).

    Reading the blocks in `unreadable` fails. In `damaged`: the files (stream, source, first offset) that lost their
    footer. `aside`: what `set_aside` has put there. `kept`: records, by source, offset and why.
    """

    failure: EdgedError | None = None
    failures: dict[tuple[str, str], Exception] = field(default_factory=dict)
    damaged: set[tuple[str, str, int]] = field(default_factory=set)
    aside: list[_Append] = field(default_factory=list)
    kept: dict[tuple[str, str, int, NotArchived], bytes] = field(default_factory=dict)
    unreadable: set[BlockRef] = field(default_factory=set)
    _appended: dict[tuple[str, str], list[_Append]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def blocks(self, stream: str, source: str) -> dict[int, Pack]:
        """All blocks by offset, for assertions."""
        return {offset: pack for each in self._of(stream, source) for offset, pack in each.packs.items()}

    def gaps(self, stream: str, source: str) -> list[Gap]:
        """All known gaps, for assertions."""
        return [gap for each in self._of(stream, source) for gap in each.gaps]

    def empty(self, stream: str, source: str) -> list[Gap]:
        """All gaps that never held a record, for assertions."""
        return [gap for each in self._of(stream, source) for gap in each.empty]

    def ends(self, stream: str) -> dict[str, int]:
        self._check()
        return {source: files[-1].next for (name, source), files in self._appended.items() if name == stream and files}

    def end(self, stream: str, source: str) -> SourceEnd:
        self._check(stream, source)
        files = self._of(stream, source)
        readable = [file for file in files if (stream, source, file.first) not in self.damaged]
        cursors: dict[str, int] = {}
        for pack in (pack for file in readable for pack in file.packs.values()):
            cursors = cursor_rules.advance(cursors, pack)
        cursors_end = readable[-1].next if readable else files[0].first if files else 0
        next_offset = files[-1].next if files else 0
        log = readable[-1].log if readable else UNKNOWN_LOG
        return SourceEnd(next_offset, cursors, cursors_end, "damaged" if cursors_end < next_offset else "", log)

    def set_aside(self, stream: str, source: str, offset: int) -> None:
        with self._lock:
            files = self._of(stream, source)
            self.aside += [file for file in files if file.first >= offset]
            files[:] = [file for file in files if file.first < offset]
            self.damaged = {each for each in self.damaged if each[:2] != (stream, source)}

    def append(
        self,
        stream: str,
        source: str,
        packs: Sequence[tuple[int, Pack]],
        gaps: Sequence[Gap] = (),
        log: SourceLog = UNKNOWN_LOG,
        empty: Sequence[Gap] = (),
    ) -> None:
        self._check(stream, source)
        first, end = covered([offset for offset, _ in packs], gaps)
        new = _Append(first, end, dict(packs), tuple(gaps), log, tuple(empty))
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
        sources = tuple(sorted(archived.keys() - OVERLAY_SOURCES))
        table = [
            (number, offset, len(pack.samples), pack.num_bytes)
            for number, source in enumerate(sources)
            for offset, pack in sorted(self.blocks(stream, source).items())
            if offset < archived[source]
        ]
        columns = np.array(table, np.int64).reshape(len(table), 4).T
        origins = {
            source: named(
                Origin(file.first, file.log.name, file.log.base)
                for file in self._of(stream, source)
                if file.first < archived[source]
            )
            for source in sources
        }
        origins = {source: each for source, each in origins.items() if each}
        snapshot = Snapshot(sources, columns[0], columns[1], columns[2], columns[3], archived, origins=origins)
        records = self.quarantine_records(stream, archived.get(QUARANTINE_SOURCE, 0))
        return quarantine.laid_over(snapshot, quarantine.in_effect(records))

    def quarantine_records(self, stream: str, end: int | None = None) -> list[QuarantineRecord]:
        blocks = sorted(self.blocks(stream, QUARANTINE_SOURCE).items())
        try:
            return [
                record
                for offset, pack in blocks
                if end is None or offset < end
                for record in quarantine.from_pack(pack)
            ]
        except FormatError as error:
            raise StorageError(str(error)) from error

    def keep_record(self, stream: str, source: str, offset: int, record: bytes, why: NotArchived) -> str:
        self._check(stream, source)
        others = [key for key in self.kept if key[:2] == (stream, source) and key[3] == why and key[2] != offset]
        if len(others) >= MAX_KEPT_RECORDS:
            return ""
        self.kept[stream, source, offset, why] = record
        return f"{stream}/{source}/{offset} {why}"

    def find(self, stream: str, device: str, partition: int, offset: int) -> list[Address]:
        return [
            Address(source, block, row)
            for source in sorted(self.ends(stream).keys() - OVERLAY_SOURCES)
            for block, pack in sorted(self.blocks(stream, source).items())
            for row, sample in enumerate(pack.samples)
            if (sample.device, sample.partition, sample.offset) == (device, partition, offset)
        ]

    def read(self, stream: str, refs: Sequence[BlockRef]) -> Iterator[tuple[BlockRef, Pack]]:
        for ref, block in self.read_each(stream, refs):
            if isinstance(block, StorageError):
                raise block
            yield ref, of_columns(block)

    def read_each(
        self, stream: str, refs: Sequence[BlockRef]
    ) -> Generator[tuple[BlockRef, PackColumns | StorageError], None, None]:
        for ref in refs:
            self._check(stream, ref.source)
            pack = self.blocks(stream, ref.source).get(ref.offset)
            if pack is None:
                yield ref, BlockAbsent(f"{stream}/{ref.source}: no file holds block {ref.offset}")
            elif ref in self.unreadable:
                yield ref, StorageError(f"{stream}/{ref.source}: block {ref.offset} is damaged")
            else:
                yield ref, by_columns(pack)

    def remove_leftovers(self, stream: str, source: str) -> None:
        self._check(stream, source)  # memory leaves none

    def _of(self, stream: str, source: str) -> list[_Append]:
        with self._lock:
            return self._appended.setdefault((stream, source), [])

    def _check(self, stream: str = "", source: str = "") -> None:
        if self.failure is not None:
            raise self.failure
        if error := self.failures.get((stream, source)):
            raise error
