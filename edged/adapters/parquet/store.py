"""The port `ArchiveStore` on Parquet files.

See also: `folder` (where files are and how they become durable), `file` (their format), `footers` (what is kept of
them in memory), `verify`.
"""

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet import verify
from edged.adapters.parquet.block_reader import BlockReader
from edged.adapters.parquet.folder import LEADS_OUT, ArchiveFolder, CorruptFileError, File, Search, translated
from edged.adapters.parquet.footers import Footers
from edged.adapters.parquet.verify import Check, Finding
from edged.domain.archive import quarantine
from edged.domain.archive.coverage import Gap, covered
from edged.domain.archive.quarantine import QuarantineRecord
from edged.domain.archive.snapshot import OVERLAY_SOURCES, QUARANTINE_SOURCE, BlockRef, Snapshot
from edged.domain.archive.source_log import UNKNOWN_LOG, Origin, SourceLog, named
from edged.domain.samples.address import ArchivedAddress
from edged.domain.samples.border import Border, check_sample
from edged.domain.samples.columns import PackColumns
from edged.domain.samples.pack import Pack, of_columns
from edged.domain.samples.sample import Address
from edged.errors import ArchiveConflict, BlockAbsent, RejectedRecord, StorageError
from edged.log import ThrottledLog
from edged.ports import MAX_KEPT_RECORDS, NotArchived, SourceEnd


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """What the archive holds of a source, with bytes of payloads and of files; `lost`: records in known gaps."""

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


class ParquetStore:
    """The archive under `url` (file:///srv/edged, s3://bucket/edged, hdfs://…, memory://…).

    Thread-safe. One writer for each source. Foreign file systems must put a file atomically under its name, as object
    stores and HDFS clients do; a local one gets a temporary name, fsync and rename. Raises StorageError (DiskFull when
    that is the reason), and ArchiveUnavailable for a broken connection or while the folder does not exist or is not
    marked as an archive. `create` marks it.
    """

    def __init__(self, url: str, threads: Executor | None = None, cache_bytes: int = 0) -> None:
        """`threads`: read several blocks at once, see `BlockReader`; `cache_bytes`: blocks kept in memory."""
        self._folder = ArchiveFolder(url)
        self._footers = Footers(self._folder)
        self._blocks = BlockReader(self._folder.open, self._footers, threads, cache_bytes)
        self._lines = ThrottledLog()

    def create(self, site: str) -> bool:
        """Make the folder if necessary, and mark it as the archive of `site`; False when it is an archive already."""
        return self._folder.create(site)

    def check(self) -> None:
        """Raise ArchiveUnavailable while the folder is no archive, StorageError for one of another version."""
        self._folder.check()

    def ends(self, stream: str) -> dict[str, int]:
        self.check()
        files = {source: self._folder.files(stream, source) for source in self._folder.sources(stream)}
        return {source: of_source[-1].next for source, of_source in files.items() if of_source}

    def end(self, stream: str, source: str) -> SourceEnd:
        self.check()
        files = self._folder.files(stream, source)
        newest, damage = self._newest_readable(files)
        cursors = self._footers.footer(newest).contents.cursors if newest else {}
        next_offset = files[-1].next if files else 0
        log = self._footers.footer(newest).contents.log if newest else UNKNOWN_LOG
        cursors_end = newest.next if newest else files[0].first if files else 0
        return SourceEnd(next_offset, dict(cursors), cursors_end, damage, log)

    def set_aside(self, stream: str, source: str, offset: int) -> None:
        for file in self._folder.files(stream, source):
            if file.first >= offset:
                self._folder.set_aside(file)
                self._footers.forget(file)
                self._blocks.cache.forget(file)

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
        files = self._folder.files(stream, source)
        if files and (files[-1].first, files[-1].next) == (first, end):
            files = files[:-1]
        if files and files[-1].next != first:
            raise ArchiveConflict(f"{stream}/{source} continues at offset {files[-1].next}, not at {first}")
        newest, _ = self._newest_readable(files)
        before = self._footers.footer(newest).contents.cursors if newest else {}
        pieces = parquet_file.encode(stream, source, packs, gaps, before, log, empty)
        self._folder.write(stream, source, f"{first:020d}-{end:020d}.parquet", pieces)

    def snapshot(self, stream: str, ends: Mapping[str, int] | None = None) -> Snapshot:
        wanted = self._readable_ends(stream)
        if ends is not None:
            wanted = {name: min(ends[name], end) for name, end in wanted.items() if name in ends}
        sources = tuple(sorted(wanted.keys() - OVERLAY_SOURCES))
        columns: list[list[Any]] = [[np.zeros(0, np.int64)] for _ in range(4)]
        origins: dict[str, list[Origin]] = {}
        for number, name in enumerate(sources):
            start = 0
            for file in self._folder.known_files(stream, name):
                of_file = self._footers.columns(stream, file)
                if of_file is not None and file.first < wanted[name]:
                    origins.setdefault(name, []).append(of_file.origin)
                    cut = slice(*np.searchsorted(of_file.offset, [max(start, file.first), wanted[name]]).tolist())
                    part = (np.full(len(of_file.offset), number), of_file.offset, of_file.rows, of_file.num_bytes)
                    for column, values in zip(columns, part, strict=True):
                        column.append(values[cut])
                start = file.next
        numbers, offsets, rows, num_bytes = (np.concatenate(column, dtype=np.int64) for column in columns)
        kept = {name: each for name, of_source in origins.items() if (each := named(of_source))}
        snapshot = Snapshot(sources, numbers, offsets, rows, num_bytes, wanted, origins=kept)
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
        return self._folder.keep_aside(stream, source, f"{offset:020d}.{why}", record, MAX_KEPT_RECORDS)

    def find(self, stream: str, device: str, partition: int, offset: int) -> list[Address]:
        self.check()
        found: list[Address] = []
        for source in self._folder.sources(stream):
            for file in self._folder.files(stream, source):
                with translated(file.path), self._folder.open(file) as raw:
                    places = parquet_file.find(raw, (device, partition, offset))
                found += [Address(source, *place) for place in places if source not in OVERLAY_SOURCES]
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
        search = Search(self._folder, stream)
        with contextlib.closing(self._blocks.read_each((ref, _found(search, ref)) for ref in refs)) as blocks:
            for ref, block in blocks:
                if isinstance(block, StorageError) and not isinstance(block, BlockAbsent):
                    self.check()  # no block is lost while the whole archive is away
                yield ref, block

    def remove_leftovers(self, stream: str, source: str) -> None:
        self._folder.remove_leftovers(stream, source)

    def summaries(self, stream: str | None = None) -> list[SourceSummary]:
        """What each source holds, sorted by stream and source."""
        self.check()
        streams = self._streams(stream)
        return [self._summary(name, source) for name in streams for source in sorted(self._readable_ends(name))]

    def verify(self, stream: str | None = None, border: Border | None = None) -> Iterator[Finding]:
        """Read everything again, block by block, and give what is wrong. Known gaps are not: summaries count them.

        With `border` also the samples that it refuses, unless they are in quarantine.
        """
        self.check()
        if stream is None:
            yield from (Finding("foreign", path, LEADS_OUT) for path in self._folder.streams_elsewhere())
        for name in self._streams(stream):
            for source in self._folder.sources(name):
                yield from verify.verify_source(self._folder, name, source, self._check_of(name, source, border))

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

    def _readable_ends(self, stream: str) -> dict[str, int]:
        """As `ends`, without sources whose folder cannot be read: theirs are missing, and the others' are not."""
        self.check()
        ends: dict[str, int] = {}
        for source in self._folder.sources(stream):
            try:
                files = self._folder.files(stream, source)
            except StorageError as error:
                if source in OVERLAY_SOURCES:
                    raise
                self.check()
                where = stream, source
                self._lines.error("archive.unreadable", where, stream=stream, source=source, reason=str(error))
            else:
                ends |= {source: files[-1].next} if files else {}
        return ends

    def _newest_readable(self, files: Sequence[File]) -> tuple[File | None, str]:
        """The newest file whose footer can be read, and what is wrong with the one after it."""
        damage = ""
        for file in reversed(files):
            try:
                self._footers.footer(file)
            except CorruptFileError as error:
                damage = str(error)
            else:
                return file, damage
        return None, damage

    def _streams(self, stream: str | None) -> list[str]:
        return self._folder.streams() if stream is None else [stream]

    def _summary(self, stream: str, source: str) -> SourceSummary:
        files = self._folder.known_files(stream, source)
        readable = [columns for file in files if (columns := self._footers.columns(stream, file)) is not None]
        return SourceSummary(
            stream,
            source,
            len(files),
            sum(len(columns.rows) for columns in readable),
            sum(int(columns.rows.sum()) for columns in readable),
            sum(int(columns.num_bytes.sum()) for columns in readable),
            sum(file.size for file in files),
            files[0].first,
            files[-1].next,
            sum(columns.lost for columns in readable),
        )


def _found(search: Search, ref: BlockRef) -> File | StorageError:
    try:
        return search.find(ref)
    except StorageError as error:
        return error


def _check_records(_offset: int, pack: Pack) -> tuple[str, ...]:
    quarantine.from_pack(pack)
    return ()
