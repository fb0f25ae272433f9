"""The archive: its files, and how the archiver writes them."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from edged.domain.archive.quarantine import QuarantineRecord
from edged.domain.archive.retention import Limits, Step
from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.archive.source_log import UNKNOWN_LOG, SourceLog
from edged.domain.samples.columns import PackColumns
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Address
from edged.errors import SourceRefused, StorageError


class SourceEnd(NamedTuple):
    """Where a source's files end; all zero for a new source.

    `cursors`: the next offset to archive of each device's log, see `samples.cursors`, as archived in the files up to
    `cursors_end`; for skipping duplicates. That is `next_offset`, unless the newest files are damaged: `damage` names
    them and says why. `log`: of the newest file that is not damaged.
    """

    next_offset: int
    cursors: Mapping[str, int]
    cursors_end: int
    damage: str = ""
    log: SourceLog = UNKNOWN_LOG


NotArchived = Literal["damaged", "passed"]
"""Why a record of a source's log is kept beside the archive's files: it is damaged, or its block is in quarantine."""

MAX_KEPT_RECORDS = 16
"""Of a source and for one reason, so that whoever sends damaged records fills no disk."""


class ArchiveStore(Protocol):
    """The archive's files. Synchronous: callers run it in a worker thread."""

    def ends(self, stream: str) -> dict[str, int]:
        """The next offset to archive, for each source that has a file."""

    def end(self, stream: str, source: str) -> SourceEnd:
        """Where the source's files end. A damaged file keeps its range, which is in its name."""

    def set_aside(self, stream: str, source: str, offset: int) -> None:
        """Give the source's files from `offset` on other names, under which they are kept but count no more."""

    def append(
        self,
        stream: str,
        source: str,
        packs: Sequence[tuple[int, Pack]],
        gaps: Sequence[tuple[int, int]] = (),
        log: SourceLog = UNKNOWN_LOG,
        empty: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Make (offset, pack) pairs durable as one file, or raise StorageError.

        `log`: the one that they are all from. `gaps`: (first, next) offsets that the log had deleted before they could
        be read, kept as known losses, but for the parts of them in `empty`, which never held a record. Packs and gaps
        together are contiguous and start at `ends()[source]` (anywhere, when the source is new), else ArchiveConflict
        is raised; or they cover exactly the last file's offsets, which are then written again, so that an attempt with
        unknown outcome can be repeated. On return the file is on stable storage under its final name; a crash before
        that leaves nothing visible to readers.
        """

    def snapshot(self, stream: str, ends: Mapping[str, int] | None = None) -> Snapshot:
        """All blocks of samples, or those below `ends`, sorted by (source, offset); and what is in quarantine there.

        Raises StorageError when a record of the quarantine cannot be read.
        """

    def quarantine_records(self, stream: str, end: int | None = None) -> list[QuarantineRecord]:
        """All records of the stream's quarantine, or those of the blocks below `end`, in their order.

        Raises StorageError for any that cannot be read.
        """

    def keep_record(self, stream: str, source: str, offset: int, record: bytes, why: NotArchived) -> str:
        """Keep what is not archived of the source at `offset`, durably, beside its files; where, for messages.

        "" when MAX_KEPT_RECORDS are kept for this reason already.
        """

    def find(self, stream: str, device: str, partition: int, offset: int) -> list[Address]:
        """Where the archive has what the device published there: nowhere, once, or more often, of several sources."""

    def read(self, stream: str, refs: Sequence[BlockRef]) -> Iterable[tuple[BlockRef, Pack]]:
        """Each block's samples, in the order of `refs`. Raises StorageError for one that is absent or corrupt."""

    def read_each(
        self, stream: str, refs: Sequence[BlockRef]
    ) -> Generator[tuple[BlockRef, PackColumns | StorageError], None, None]:
        """As `read`, by columns; in place of a block that is absent (BlockAbsent) or corrupt comes the error.

        A store may read some of the next blocks before they are asked for; closing it drops them. Each source is listed
        again at most once, however many of its blocks are absent. Raises ArchiveUnavailable, or StorageError, while the
        archive as a whole cannot be read.
        """

    def remove_leftovers(self, stream: str, source: str) -> None:
        """Delete unfinished files that a crash left. Only for the source's one writer, before its first append."""


class RetainedArchive(Protocol):
    """The archive as it forgets its oldest files. Synchronous; each step is made when it is asked for.

    Raises ArchiveUnavailable. What one source refuses is a step, too, and the others go on.
    """

    def retain(self, stream: str, limits: Limits, is_ours: Callable[[str], bool]) -> Iterator[Step]:
        """Forget what is beyond the limits of a stream, and delete what has been forgotten for longer than the grace.

        `is_ours`: whether a source is to be looked after here; all count for the limits. Interrupted, it is begun
        again. A source's newest file stays, for it says how the source goes on, and so does the quarantine.
        """

    def make_room(self, num_bytes: int) -> Iterator[Step]:
        """Delete at least as much, if so much may go, at once: what counts no more first, then the oldest of all.

        Whoever still reads it misses it. A disk without any room needs what was reserved.
        """

    def reserve(self) -> None:
        """Keep a little room with which `make_room` can begin; nothing while the disk is full."""


class ArchiveWriter(Protocol):
    """The archive as the archiver writes it.

    Every method retries while the whole archive fails (unreachable, or full): cancel to stop. When only this source is
    refused it raises SourceRefused, so that the other sources need not wait.
    """

    @property
    def tries(self) -> int:
        """Calls to the storage so far, including failed ones: progress for the watchdog while it fails."""

    async def resume(self, stream: str, source: str) -> SourceEnd:
        """Where the source's archive ends; deletes what a crash left."""

    async def append(
        self,
        stream: str,
        source: str,
        packs: Sequence[tuple[int, Pack]],
        gaps: Sequence[tuple[int, int]] = (),
        log: SourceLog = UNKNOWN_LOG,
        empty: Sequence[tuple[int, int]] = (),
    ) -> None:
        """As `ArchiveStore.append`. Cancelled: the file is complete or absent; the same may be appended again.

        A conflict refuses the source: `resume` says where another writer has come to.
        """

    async def set_aside(self, stream: str, source: str, offset: int) -> None:
        """As `ArchiveStore.set_aside`."""

    async def keep_record(self, stream: str, source: str, offset: int, record: bytes, why: NotArchived) -> str:
        """As `ArchiveStore.keep_record`."""

    async def is_quarantined(self, stream: str, source: str, offset: int) -> bool:
        """Whether the whole block is in quarantine now. One that is not archived yet may be."""

    def release(self, stream: str, source: str) -> None:
        """The source is another node's: what was reported of it is that one's to report."""

    def refuse(self, stream: str, source: str, reason: str) -> SourceRefused:
        """Report that a record of the source cannot be archived, until the next append; the error to raise.

        It says when to read the record again.
        """
