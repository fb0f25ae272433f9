"""The fake of ports.DiskTier."""

from collections.abc import Iterable, Mapping

from edged.domain.cache import entry as cache_entry
from edged.domain.cache.entry import Entry, SampleKey
from edged.errors import DiskFull, FormatError, StorageError


class MemoryDiskTier:
    """Entries as blobs in memory. `error`: what puts raise, if set; a test may damage `blobs`."""

    def __init__(self, budget_bytes: int = 1 << 40) -> None:
        self.budget_bytes = budget_bytes
        self.error: StorageError | None = None
        self.blobs: dict[SampleKey, bytes] = {}
        self.num_puts = 0
        self.num_corrupt = 0
        self.written_bytes = 0
        self.note = ""

    @property
    def used_bytes(self) -> int:
        return sum(len(blob) for blob in self.blobs.values())

    @property
    def capacity_bytes(self) -> int:
        return self.budget_bytes

    def set_note(self, note: str) -> None:
        self.note = note

    def get_many(self, keys: Iterable[SampleKey]) -> dict[SampleKey, Entry]:
        found = {}
        for key in keys:
            if key in self.blobs:
                try:
                    found[key] = cache_entry.decode(key, self.blobs[key])
                except FormatError:
                    self.num_corrupt += 1
                    del self.blobs[key]
        return found

    def put_many(self, entries: Mapping[SampleKey, Entry]) -> dict[SampleKey, int]:
        self.num_puts += 1
        if self.error is not None:
            raise self.error
        blobs = {key: cache_entry.encode(key, entry) for key, entry in entries.items()}
        if sum(len(blob) for blob in (self.blobs | blobs).values()) > self.budget_bytes:
            raise DiskFull("the tier's budget is spent")
        self.blobs |= blobs
        self.written_bytes += sum(len(blob) for blob in blobs.values())
        return {key: len(blob) for key, blob in blobs.items()}

    def delete_many(self, keys: Iterable[SampleKey]) -> None:
        for key in keys:
            self.blobs.pop(key, None)

    def keys(self) -> Iterable[tuple[SampleKey, int]]:
        return [(key, len(blob)) for key, blob in self.blobs.items()]

    def close(self) -> None:
        """Nothing is held open."""
