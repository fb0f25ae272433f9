"""The port `ArchiveStore` on Parquet files, in any `ports.ObjectStore`.

See also: `domain.archive.layout` (where things are), `chain` (what counts), `writing` (how a source grows), `file`
(the files' format), `verify`.
"""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from edged.adapters.parquet import aside, marker
from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet import indexes as manifests
from edged.adapters.parquet import rows as parquet_rows
from edged.adapters.parquet.block_reader import BlockReader
from edged.adapters.parquet.chain import Chain, Source
from edged.adapters.parquet.columns import Columns, of_chain
from edged.adapters.parquet.compact import Compacted, Compaction
from edged.adapters.parquet.damage import CorruptFileError, translated
from edged.adapters.parquet.footers import Footers
from edged.adapters.parquet.forgetting import Forgetting
from edged.adapters.parquet.indexes import Indexes
from edged.adapters.parquet.retain import Retention
from edged.adapters.parquet.search import Search
from edged.adapters.parquet.verify import Check, Finding, Verification
from edged.adapters.parquet.writing import Writer
from edged.domain.archive import layout, quarantine
from edged.domain.archive.coverage import Gap, covered
from edged.domain.archive.packing import PACKED_BYTES
from edged.domain.archive.quarantine import QuarantineRecord
from edged.domain.archive.retention import FIRST_MS, Limits, Spared, Step
from edged.domain.archive.snapshot import (
    OVERLAY_SOURCES,
    QUARANTINE_SOURCE,
    BlockRef,
    Snapshot,
    floor_name,
    floors,
)
from edged.domain.archive.source_log import UNKNOWN_LOG, SourceLog
from edged.domain.samples.address import ArchivedAddress
from edged.domain.samples.border import Border, check_sample
from edged.domain.samples.columns import PackColumns
from edged.domain.samples.pack import Pack, of_columns
from edged.domain.samples.sample import Address
from edged.errors import ArchiveFull, ArchiveUnavailable, BlockAbsent, RejectedRecord, StorageError
from edged.log import ThrottledLog, logger
from edged.ports import MAX_KEPT_RECORDS, NotArchived, ObjectStore, SourceEnd

GRACE_S = 86_400.0
"""Longer than any epoch takes: who has begun one reads by an index of its time."""

_RESERVE = "_reserve/room"
"""No stream's name."""

_RESERVE_BYTES = 1 << 20

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """What the archive holds of a source, with bytes of payloads and of files; `lost`: records in known gaps.

    `damaged`: files of which no block is known; `verify` says why.
    `forgotten_bytes`: of files that count no more and wait for the grace's end.
    """

    stream: str
    source: str
    files: int
    blocks: int
    samples: int
    num_bytes: int
    stored_bytes: int
    first: int
    next: int
    lost: int
    damaged: int
    forgotten_bytes: int = 0


class _Known:
    """A source, and what counted of it when it was looked at last."""

    def __init__(self, source: Source, writer: Writer) -> None:
        self.source = source
        self.writer = writer
        self.lock = threading.RLock()
        self.chain: Chain | None = None


class ParquetStore:
    """The archive in `objects`. Thread-safe.

    `site`: whose it is to be; None takes any. Raises StorageError, and ArchiveUnavailable while the place does not
    answer, or is no archive of this site; `create` makes it one. What one object refuses while the place answers is
    that source's StorageError, after a second try.
    """

    def __init__(
        self,
        objects: ObjectStore,
        site: str | None = None,
        threads: Executor | None = None,
        cache_bytes: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`threads`: read several blocks at once, see `BlockReader`; `cache_bytes`: blocks kept in memory."""
        self._objects = objects
        self._site = site
        self._threads = threads
        self._cache_bytes = cache_bytes
        self._clock = clock
        self._lines = ThrottledLog()
        self._lock = threading.Lock()
        self._id = ""
        self._is_probed = False
        self._forget()

    def create(self, site: str) -> bool:
        """Make the place if necessary, and mark it as the archive of `site`; False when it is an archive already."""
        self._objects.create()
        if marker.write(self._objects, marker.new(site)):
            return True
        found = marker.read(self._objects)
        if found is not None and found.format not in marker.MIGRATED_FROM:
            marker.check(self._objects, self._site)
        return False

    def check(self) -> None:
        """Raise ArchiveUnavailable while the place is no archive of this site, StorageError for another version's."""
        found = marker.check(self._objects, self._site)
        with self._lock:
            is_another = self._id not in {"", found.id}
            self._id = found.id
            if is_another:
                self._forget()

    def ends(self, stream: str) -> dict[str, int]:
        self.check()
        known = [self._known(stream, source) for source in self.source_names(stream)]
        chains = {each.source.name: self._of_source(lambda each=each: self._grown(each)) for each in known}  # type: ignore[misc]
        self.check()
        return {source: chain.end for source, chain in chains.items() if chain is not None and chain.has_files}

    def end(self, stream: str, source: str) -> SourceEnd:
        self.check()
        known = self._known(stream, source)
        return self._of_source(lambda: self._end(known))

    def set_aside(self, stream: str, source: str, offset: int) -> None:
        self.check()
        known = self._known(stream, source)
        with known.lock:
            known.chain = None
            self._of_source(lambda: known.writer.set_aside(offset))
        self._blocks.cache.forget(stream, source)

    def append(
        self,
        stream: str,
        source: str,
        packs: Sequence[tuple[int, Pack]],
        gaps: Sequence[Gap] = (),
        log: SourceLog = UNKNOWN_LOG,
        empty: Sequence[Gap] = (),
    ) -> None:
        first, end = covered([offset for offset, _ in packs], gaps)
        self.check()
        known = self._known(stream, source)

        def encode(cursors: Mapping[str, int]) -> Sequence[bytes | memoryview]:
            return parquet_file.encode(stream, source, packs, gaps, cursors, log, empty)

        def append() -> None:
            chain, known.chain = known.chain, None
            known.chain = known.writer.append(chain, first, end, encode)

        with known.lock:
            self._of_source(append)

    def snapshot(self, stream: str, ends: Mapping[str, int] | None = None) -> Snapshot:
        chains = self._readable_chains(stream)
        wanted = {source: chain.end for source, chain in chains.items()}
        begin = {name: chain.floor.first for name, chain in chains.items() if chain.floor.raises}
        if ends is not None:
            wanted = {name: min(end, ends[name]) for name, end in wanted.items() if name in ends}
            begin = floors(ends)
        columns = Columns()
        for name in sorted(wanted.keys() - OVERLAY_SOURCES):
            source, chain = self._known(stream, name).source, chains[name]
            if name in begin:
                begin[name] = source.kept_from(chain, begin[name])
            first = begin.get(name, 0 if chain.floor.raises else chain.floor.first)
            columns.add(name, of_chain(source, chain, wanted[name], self._unreadable, first))
        named = {floor_name(name): first for name, first in begin.items() if name in wanted}
        snapshot = columns.snapshot(wanted | named)
        records = self.quarantine_records(stream, wanted.get(QUARANTINE_SOURCE, 0))
        return quarantine.laid_over(snapshot, quarantine.in_effect(records))

    def quarantine_records(self, stream: str, end: int | None = None) -> list[QuarantineRecord]:
        """All records of the stream's quarantine, or those of the blocks below `end`, in their order.

        Raises StorageError for any that cannot be read: without it, another plan would pass for that of this snapshot.
        """
        if end is None:
            end = self.ends(stream).get(QUARANTINE_SOURCE, 0)
        refs = [BlockRef(QUARANTINE_SOURCE, offset) for offset in range(end)]
        records: list[QuarantineRecord] = []
        for ref, pack in self.read(stream, refs) if refs else ():
            with translated(f"{stream}/{QUARANTINE_SOURCE}, block {ref.offset}"):
                records += quarantine.from_pack(pack)
        return records

    def keep_record(self, stream: str, source: str, offset: int, record: bytes, why: NotArchived) -> str:
        self.check()
        place, name = self._known(stream, source).source, f"{offset:020d}.{why}"
        return self._of_source(lambda: aside.keep_record(self._objects, place, name, record, MAX_KEPT_RECORDS))

    def find(self, stream: str, device: str, partition: int, offset: int) -> list[Address]:
        self.check()
        found: list[Address] = []
        for name in self.source_names(stream):
            if name not in OVERLAY_SOURCES:
                known = self._known(stream, name)
                found += self._of_source(lambda known=known: self._found(known, (device, partition, offset)))  # type: ignore[misc]
        return found

    def read(self, stream: str, refs: Sequence[BlockRef]) -> Iterator[tuple[BlockRef, Pack]]:
        with contextlib.closing(self.read_each(stream, refs)) as blocks:
            for ref, block in blocks:
                if isinstance(block, StorageError):
                    raise block
                yield ref, of_columns(block)

    def read_each(
        self, stream: str, refs: Sequence[BlockRef]
    ) -> Generator[tuple[BlockRef, PackColumns | StorageError], None, None]:
        search = Search(stream, self)
        with contextlib.closing(self._blocks.read_each((ref, search.file(ref)) for ref in refs)) as blocks:
            for ref, block in blocks:
                yield ref, self._tried_again(search, ref, block)

    def _tried_again(
        self, search: Search, ref: BlockRef, block: PackColumns | StorageError | ArchiveUnavailable
    ) -> PackColumns | StorageError:
        """The block; once more, if it was not there any more, or could not be read while the archive can."""
        if isinstance(block, PackColumns):
            return block
        if not isinstance(block, BlockAbsent):
            self.check()  # no block is lost while the whole archive is away
        if isinstance(block, ArchiveUnavailable) or (isinstance(block, BlockAbsent) and search.look_again(ref)):
            again = self._blocks.block_or_error(search.file(ref), ref.offset, {})
            if isinstance(again, (StorageError, ArchiveUnavailable)):
                self.check()
            return StorageError(str(again)) if isinstance(again, ArchiveUnavailable) else again
        return block

    def remove_leftovers(self, stream: str, source: str) -> None:
        folder = layout.source_folder(stream, source)

        def sweep() -> None:
            swept = [manifests.floor_name(folder), f"{folder}/{layout.ASIDE}"]
            for segment in layout.segments(self._objects.folders(folder))[-1:]:
                swept += [f"{folder}/{layout.segment_name(segment)}", manifests.index_name(folder, segment)]
            for each in swept:
                self._objects.sweep(each)

        self.check()
        self._probe()
        self._of_source(sweep)

    def summaries(self, stream: str | None = None) -> list[SourceSummary]:
        """What each source holds, sorted by stream and source."""
        self.check()
        return [
            self._summary(name, source, chain)
            for name in self.streams(stream)
            for source, chain in sorted(self._readable_chains(name).items())
        ]

    def files(self, stream: str | None = None) -> Iterator[str]:
        """The names of the files that count, by stream, source and offset; no block is in two of them.

        Without damaged ones, and without the quarantine's. Those that are packed meanwhile stay for the grace.
        """
        for name in self.streams(stream):
            for source, chain in sorted(self._readable_chains(name).items()):
                if source not in OVERLAY_SOURCES:
                    place = self._known(name, source).source
                    place.forget_indexes(chain)
                    counted = (file for file in place.files_back(place.chain() or chain) if not file.is_damaged)
                    yield from reversed([place.file(file).path for file in counted])

    def verify(
        self,
        stream: str | None = None,
        border: Border | None = None,
        since_s: float = math.inf,
        on_file: Callable[[bool], object] = lambda _is_read: None,
    ) -> Iterator[Finding]:
        """Read everything again, block by block, and give what is wrong. Known gaps are not: summaries count them.

        With `border` also the samples that it refuses, unless they are in quarantine. Of files older than `since_s`
        only the place and the size are checked; `on_file` is told of each whether it was read.
        """
        since_ms = 0 if math.isinf(since_s) else self._now_ms() - int(since_s * 1000)
        self.check()
        for name in self._objects.folders() if stream is None else [stream]:
            if not layout.is_stream(name):
                continue
            try:
                sources = self._of_source(lambda name=name: self._objects.folders(name))  # type: ignore[misc]
            except StorageError as error:
                path = self._objects.path(name)
                yield Finding("foreign", path, str(error).removeprefix(f"{path} "))
                continue
            for source in sources:
                if not layout.is_source(source):
                    yield Finding("foreign", self._objects.path(f"{name}/{source}"), "not the folder of a source")
                    continue
                known = self._known(name, source)
                check = self._check_of(name, source, border)
                try:
                    chain = self._of_source(known.source.chain)
                except StorageError as error:
                    kind = "corrupt" if isinstance(error, CorruptFileError) else "foreign"
                    yield Finding(kind, self._objects.path(known.source.folder), str(error))
                else:
                    yield from Verification(
                        self._objects, known.source, chain, self._indexes, self._footers, check, since_ms, on_file
                    ).findings()

    def compact(
        self, stream: str | None = None, grace_s: float = GRACE_S, packed_bytes: int = PACKED_BYTES
    ) -> Iterator[Compacted]:
        """Pack small files into large ones, step by step; those that they replace are kept for the grace.

        What cannot be read is told, and the others go on.
        """
        self._check_clock()
        self.check()
        for name in self.streams(stream):
            for source in self.source_names(name):
                known = self._known(name, source)
                try:
                    chain = self._of_source(known.source.chain)
                except StorageError as error:
                    yield Compacted(name, source, 0, 0, 0, 0, 0, str(error))
                    continue
                if chain is not None:
                    compaction = Compaction(
                        self._objects, known.source, self._indexes, self._footers, self._now_ms, packed_bytes
                    )
                    yield from compaction.steps(chain, int(grace_s * 1000))

    def retain(
        self,
        stream: str,
        limits: Limits,
        is_ours: Callable[[str], bool] = lambda _source: True,
        grace_s: float = GRACE_S,
        *,
        is_certain: bool = False,
        dry_run: bool = False,
    ) -> Iterator[Step]:
        """As `ports.RetainedArchive.retain`. `is_certain`: people say so; `dry_run`: only say what would be done."""
        self._check_clock()
        self.check()
        retention = Retention(self._now_ms, dry_run=dry_run, is_logged=not is_certain)
        yield from self._looked_after(retention, stream, is_indexed=limits != Limits() and not dry_run)
        self.check()  # all is absent where a file system has been unmounted meanwhile
        yield from retention.keep_to(limits, is_ours, int(grace_s * 1000), is_certain=is_certain)

    def make_room(self, num_bytes: int) -> Iterator[Step]:
        """As `ports.RetainedArchive.make_room`."""
        try:
            yield from self._made_room(num_bytes)
        except ArchiveFull:  # to forget takes a little room, too
            self._objects.delete(_RESERVE)
            yield from self._made_room(num_bytes)
        self.reserve()

    def _made_room(self, num_bytes: int) -> Iterator[Step]:
        self.check()
        retention = Retention(self._now_ms)
        for stream in self.streams():
            yield from self._looked_after(retention, stream, is_indexed=True)
        self.check()
        yield from retention.make_room(num_bytes)

    def reserve(self) -> None:
        """As `ports.RetainedArchive.reserve`."""
        with contextlib.suppress(ArchiveFull):
            if self._objects.size(_RESERVE) is None:
                self._objects.publish(_RESERVE, [os.urandom(_RESERVE_BYTES)])  # zeros may take no room

    def _looked_after(self, retention: Retention, stream: str, *, is_indexed: bool) -> Iterator[Spared]:
        """Add the stream's sources of samples. `is_indexed`: index their tails, so that all files have an age."""
        for name in self.source_names(stream):
            if name not in OVERLAY_SOURCES:
                known = self._known(stream, name)
                try:
                    chain = self._of_source(lambda known=known: self._forgettable(known, is_indexed=is_indexed))  # type: ignore[misc]
                except StorageError as error:
                    yield Spared(stream, name, str(error))
                else:
                    forgetting = Forgetting(self._objects, self._indexes, known.source)
                    retention.add(known.source, forgetting, chain)

    def _forgettable(self, known: _Known, *, is_indexed: bool) -> Chain:
        """What counts of the source, and can be read. Raises StorageError."""
        with known.lock:
            chain = self._grown(known, afresh=True)
            if chain is None or chain.hidden is not None:
                reason = StorageError(f"{self._objects.path(known.source.folder)} has no floor")
                raise reason if chain is None else chain.hidden or reason
            known.source.forget_indexes(chain)
            if is_indexed and chain.tail and not any(file.is_damaged for file in chain.tail):
                chain = known.chain = known.writer.with_index(chain) or chain
        for _ in known.source.indexes_back(chain):  # a damaged one is this source's trouble alone
            pass
        return chain

    def _check_clock(self) -> None:
        """A grace that begins in 1970 would be over as soon as the clock is set. Raises StorageError."""
        if self._now_ms() < FIRST_MS:
            raise StorageError(
                "this machine's clock is wrong, before 2020: until it is set nothing is packed or forgotten"
            )

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _probe(self) -> None:
        """Try the place out, once, before it is written to. Raises ArchiveUnavailable where it breaks a promise."""
        if not self._is_probed:
            notes = self._objects.probe()
            self._is_probed = True
            for note in notes:
                logger().warning("archive.place", place=self._objects.where, reason=note)

    def _forget(self) -> None:
        self._indexes = Indexes(self._objects)
        self._footers = Footers(self._objects)
        self._blocks = BlockReader(self._footers, self._threads, self._cache_bytes)
        self._known_sources: dict[tuple[str, str], _Known] = {}

    def _known(self, stream: str, source: str) -> _Known:
        with self._lock:
            if (stream, source) not in self._known_sources:
                place = Source(self._objects, self._indexes, self._footers, stream, source)
                writer = Writer(self._objects, self._indexes, self._footers, place, self._clock)
                self._known_sources[stream, source] = _Known(place, writer)
            return self._known_sources[stream, source]

    def streams(self, stream: str | None = None) -> list[str]:
        """The streams that can be looked into."""
        found = []
        for name in filter(layout.is_stream, self._objects.folders()) if stream is None else [stream]:
            with contextlib.suppress(StorageError):  # a link that leads out: verify reports it
                self.source_names(name)
                found.append(name)
        return found

    def source_names(self, stream: str) -> list[str]:
        """The stream's sources that are there now."""
        if not layout.is_stream(stream):
            raise StorageError(f"{stream!r}: not names of a stream and a source")
        return list(filter(layout.is_source, self._of_source(lambda: self._objects.folders(stream))))

    def _grown(self, known: _Known, *, afresh: bool = False) -> Chain | None:
        """What counts of the source now."""
        with known.lock:
            before, known.chain = known.chain, None
            known.chain = known.source.chain() if before is None or afresh else known.source.grown(before)
            return known.chain

    def _readable_chains(self, stream: str) -> dict[str, Chain]:
        """What counts of each source with files; without those that cannot be read: the others are not missing."""
        self.check()
        chains: dict[str, Chain] = {}
        for name in self.source_names(stream):
            known = self._known(stream, name)
            try:
                chain = self._of_source(lambda known=known: self._grown(known))  # type: ignore[misc]
            except StorageError as error:
                if name in OVERLAY_SOURCES:
                    raise
                self._unreadable(known.source, error)
                continue
            if chain is not None and chain.hidden is not None:
                self._unreadable(known.source, chain.hidden)
            if chain is not None and chain.has_files:
                chains[name] = chain
        self.check()  # all is absent where a file system has been unmounted meanwhile
        return chains

    def _unreadable(self, source: Source, error: StorageError) -> None:
        where = source.stream, source.name
        self._lines.error("archive.unreadable", where, stream=source.stream, source=source.name, reason=str(error))

    def _end(self, known: _Known) -> SourceEnd:
        chain = self._grown(known, afresh=True)
        if chain is None:
            return SourceEnd(0, {}, 0)
        if chain.hidden is not None:
            raise chain.hidden
        file, footer, damage = known.writer.newest_readable(chain)
        if file is None or footer is None:
            return SourceEnd(chain.end, {}, chain.floor.first, damage)
        return SourceEnd(chain.end, dict(footer.contents.cursors), file.next, damage, footer.contents.log)

    def _found(self, known: _Known, identity: tuple[str, int, int]) -> list[Address]:
        chain = self._grown(known, afresh=True)
        if chain is not None:
            known.source.forget_indexes(chain)  # each file that they name is opened
        found: list[Address] = []
        for file in () if chain is None else known.source.files_back(chain):
            place = known.source.file(file)
            with translated(self._footers.where(place)), self._footers.open(place) as raw:
                places = parquet_rows.find(raw, identity)
            found[:0] = [Address(known.source.name, *each) for each in places if file.first <= each[0] < file.next]
        return found

    def seen(self, stream: str, source: str) -> tuple[Source, Chain] | None:
        """As of `search.Finder`."""
        with self._lock:
            known = self._known_sources.get((stream, source))
        return None if known is None or known.chain is None else (known.source, known.chain)

    def seen_afresh(self, stream: str, source: str) -> tuple[Source, Chain] | None:
        """As of `search.Finder`."""
        known = self._known(stream, source)
        chain = self._of_source(lambda: self._grown(known, afresh=True))
        return None if chain is None else (known.source, chain)

    def _of_source(self, act: Callable[[], R]) -> R:
        """Do it; what fails twice while the archive as a whole answers is a StorageError, of this source alone."""
        try:
            return act()
        except ArchiveFull:
            raise
        except ArchiveUnavailable:
            self.check()
        try:
            return act()
        except ArchiveUnavailable as error:
            self.check()
            raise StorageError(str(error)) from error

    def _check_of(self, stream: str, source: str, border: Border | None) -> Check:
        if source == QUARANTINE_SOURCE:
            return _check_records
        if border is None or stream not in border.streams:
            return lambda _offset, _pack: ()
        try:
            masks = quarantine.in_effect(self.quarantine_records(stream))
        except StorageError:
            masks = {}  # a finding of its own

        def refused(offset: int, pack: Pack) -> Iterator[str]:
            mask = masks.get(BlockRef(source, offset))
            for row, sample in enumerate(pack.samples):
                if mask is None or not mask[row]:
                    try:
                        check_sample(sample, border.streams[stream])
                    except RejectedRecord as error:
                        yield f"{ArchivedAddress(stream, source, offset, row)}: {error}"

        return refused

    def _summary(self, stream: str, name: str, chain: Chain) -> SourceSummary:
        source = self._known(stream, name).source
        files = stored_bytes = lost = 0
        first = chain.end
        for index in source.indexes_back(chain):
            counted = slice(int(index.next.searchsorted(chain.floor.first, side="right")), None)
            files, stored_bytes = files + len(index.next[counted]), stored_bytes + int(index.size[counted].sum())
            lost, first = lost + int(index.lost[counted].sum()), int(index.first[counted][0])
        for file in chain.tail:
            files, stored_bytes, lost = files + 1, stored_bytes + file.size, lost + file.lost
            first = min(first, file.first)
        damaged: list[StorageError] = []
        of_blocks = of_chain(source, chain, chain.end, lambda _source, error: damaged.append(error))
        return SourceSummary(
            stream,
            name,
            files,
            len(of_blocks.offset),
            int(of_blocks.rows.sum()),
            int(of_blocks.num_bytes.sum()),
            stored_bytes,
            max(first, chain.floor.first),
            chain.end,
            lost,
            len(damaged),
            source.forgotten_bytes(chain),
        )


def _check_records(_offset: int, pack: Pack) -> tuple[str, ...]:
    quarantine.from_pack(pack)
    return ()
