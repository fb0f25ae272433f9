"""The archive: its files, and how the archiver writes them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.samples.pack import Pack


class ArchiveStore(Protocol):
    """The archive's files. Synchronous: callers run it in a worker thread."""

    def ends(self, stream: str) -> dict[str, int]:
        """The next offset to archive, for each source that has a file."""

    def cursors(self, stream: str, source: str) -> dict[str, int]:
        """The next device offset by "device/partition", as archived so far; for skipping duplicates."""

    def append(
        self, stream: str, source: str, packs: Sequence[tuple[int, Pack]], gaps: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Make (offset, pack) pairs durable as one file, or raise StorageError.

        `gaps`: (first, next) offsets that the log had deleted before they could be read, kept as known losses.
        Packs and gaps together are contiguous and start at `ends()[source]` (anywhere, when the source is new), else
        ArchiveConflict is raised; or they cover exactly the last file's offsets, which are then written again, so
        that an attempt with unknown outcome can be repeated. On return the file is on stable storage under its final
        name; a crash before that leaves nothing visible to readers.
        """

    def snapshot(self, stream: str, ends: Mapping[str, int] | None = None) -> Snapshot:
        """All blocks, or those below `ends`, sorted by (source, offset)."""

    def read(self, stream: str, refs: Sequence[BlockRef]) -> Iterable[tuple[BlockRef, Pack]]:
        """Each block's samples, in the order of `refs`. Raises StorageError for one that is missing or corrupt."""

    def remove_leftovers(self, stream: str, source: str) -> None:
        """Delete unfinished files that a crash left. Only for the source's one writer, before its first append."""


class ArchiveWriter(Protocol):
    """The archive as the archiver writes it: every method retries while the storage fails; cancel to stop."""

    @property
    def tries(self) -> int:
        """Calls to the storage so far, including failed ones: progress for the watchdog while it fails."""

    async def resume(self, stream: str, source: str) -> tuple[int, dict[str, int]]:
        """The source's next offset to archive (0 when it is new) and its cursors; deletes what a crash left."""

    async def append(
        self, stream: str, source: str, packs: Sequence[tuple[int, Pack]], gaps: Sequence[tuple[int, int]] = ()
    ) -> None:
        """As `ArchiveStore.append`. Cancelled: the file is complete or absent; the same may be appended again.

        Raises ArchiveConflict.
        """
