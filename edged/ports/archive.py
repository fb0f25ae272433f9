"""The archive's files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.samples.pack import Pack


class ArchiveStore(Protocol):
    """The archive's files. Synchronous: callers run it in a worker thread."""

    def ends(self, stream: str) -> dict[str, int]:
        """Next offset to archive for each source that has any file."""

    def cursors(self, stream: str, source: str) -> dict[str, int]:
        """Next device offset by "device/partition", as archived so far; for leaving out duplicates."""

    def append(
        self, stream: str, source: str, packs: Sequence[tuple[int, Pack]], gaps: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Make (offset, pack) pairs durable as one file, or raise StorageError.

        `gaps`: (first, next) offsets that the log had deleted before they could be read, kept as known losses.
        Packs and gaps together are contiguous and start at `ends()[source]` (anywhere, when the source is new), else
        ArchiveConflict is raised; or they cover exactly the last file's offsets, which are then written again, so
        that a try whose fate is unknown can be repeated. On return the file is on stable storage under its final
        name; a crash before leaves nothing that a reader would see.
        """

    def snapshot(self, stream: str, ends: Mapping[str, int] | None = None) -> Snapshot:
        """All blocks, or those below `ends`, sorted by (source, offset)."""

    def read(self, stream: str, refs: Sequence[BlockRef]) -> Iterable[tuple[BlockRef, Pack]]:
        """Each block's samples, in the order asked. Raises StorageError for one that is missing or corrupt."""

    def remove_leftovers(self, stream: str, source: str) -> None:
        """Delete what a crash left of unfinished files. Only for the source's one writer, before its first append."""


class ArchiveWriter(Protocol):
    """The archive as the archiver writes it: every method waits while the storage refuses; cancel to give up."""

    @property
    def tries(self) -> int:
        """Calls to the storage so far, failed ones too: a sign of life while it refuses."""

    async def resume(self, stream: str, source: str) -> tuple[int, dict[str, int]]:
        """The source's next offset to archive (0 when it is new) and its cursors; clears what a crash left."""

    async def append(
        self, stream: str, source: str, packs: Sequence[tuple[int, Pack]], gaps: Sequence[tuple[int, int]] = ()
    ) -> None:
        """As `ArchiveStore.append`. Cancelled: the file is either whole or not there; the same may be appended again.

        Raises ArchiveConflict.
        """
