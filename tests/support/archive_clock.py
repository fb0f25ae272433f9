"""Archives in memory whose time is a test's own."""

from edged.adapters.memory.objects import MemoryPlace
from edged.adapters.parquet.store import ParquetStore


class Clock:
    """Seconds since 1970, which go on only where a test says so."""

    def __init__(self) -> None:
        self.now_s = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now_s


def opened(place: MemoryPlace, clock: Clock, writer: str = "arc-2") -> ParquetStore:
    """The archive in that place, by a store of its own."""
    return ParquetStore(place.store(writer), clock=clock)
