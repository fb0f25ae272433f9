"""The cache's entries on a disk."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from edged.domain.cache.entry import Entry, SampleKey


class DiskTier(Protocol):
    """The cache's entries on a disk. Synchronous: callers run it in a worker thread, one call at a time.

    It holds copies only: lost or damaged entries are skipped and counted, never an error. Opened for one namespace
    (site, stream, shape, dtype); opening drops entries of another.
    """

    @property
    def num_corrupt(self) -> int:
        """Entries found torn, altered or unreadable so far, and dropped."""

    @property
    def capacity_bytes(self) -> int:
        """An estimate of the stored bytes that fit into its budget; changes with the entries."""

    @property
    def used_bytes(self) -> int:
        """Disk space that the entries take, page by page: the sum of their stored bytes."""

    @property
    def written_bytes(self) -> int:
        """Bytes written to the device since it was opened, including whole pages and the log.

        Counted by the kernel as pages become dirty; else an upper estimate, each entry's pages twice.
        """

    @property
    def note(self) -> str:
        """The owner's text, as last set; "" initially."""

    def set_note(self, note: str) -> None:
        """Store the owner's text: it is written with the next entries, or when the tier is closed."""

    def get_many(self, keys: Iterable[SampleKey]) -> dict[SampleKey, Entry]:
        """The entries that are present and intact; corrupt ones are dropped."""

    def put_many(self, entries: Mapping[SampleKey, Entry]) -> dict[SampleKey, int]:
        """Store the entries; returns the stored bytes of each.

        Raises DiskFull or StorageError when the disk or the budget is exhausted: some of them may be stored then, each
        whole; `keys` lists them. A stored entry survives a crash of the process.
        """

    def delete_many(self, keys: Iterable[SampleKey]) -> None:
        """Delete the entries, if present. A crash may bring them back."""

    def keys(self) -> Iterable[tuple[SampleKey, int]]:
        """Every key with its stored bytes."""

    def close(self) -> None:
        """Write what is pending and close the files. Never raises."""
