"""The cache's entries on a disk."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from edged.domain.cache.entry import Entry, SampleKey


class DiskTier(Protocol):
    """The cache's entries on a disk. Synchronous: callers run it in a worker thread, one call at a time.

    It holds copies alone: what is lost or damaged is left out and counted, never an error. Opened for one namespace
    (site, stream, shape, dtype); another's entries are dropped when it is opened.
    """

    @property
    def num_corrupt(self) -> int:
        """Entries found torn, altered or unreadable so far, and dropped."""

    @property
    def capacity_bytes(self) -> int:
        """Stored bytes that fit into its budget, as far as its entries so far show; changes as they come."""

    @property
    def used_bytes(self) -> int:
        """What the entries take, page by page: the sum of their stored bytes."""

    @property
    def written_bytes(self) -> int:
        """Bytes written to the device since it was opened, whole pages and log included.

        As the kernel counts pages made dirty, else reckoned from above: each entry's pages twice.
        """

    @property
    def note(self) -> str:
        """The owner's text of last time, "" at first."""

    def remember(self, note: str) -> None:
        """Keep the owner's text: written along with the next entries, or when the tier is closed."""

    def get_many(self, keys: Iterable[SampleKey]) -> dict[SampleKey, Entry]:
        """The entries of those keys that are there and whole; corrupt ones are dropped."""

    def put_many(self, entries: Mapping[SampleKey, Entry]) -> dict[SampleKey, int]:
        """Store the entries; their keys with the bytes that each takes.

        Raises DiskFull or StorageError when the disk or the budget takes no more: some of them may be stored then,
        each whole; `keys` tells which. An entry once stored comes back after a crash of the process.
        """

    def delete_many(self, keys: Iterable[SampleKey]) -> None:
        """Forget the entries, if they are there. A crash may bring them back."""

    def keys(self) -> Iterable[tuple[SampleKey, int]]:
        """Every key with its stored bytes."""

    def close(self) -> None:
        """Write what is due and let go of the files. Never raises."""
