"""An archive writer that retries what the storage refuses until it works.

Covers retries, their backoff, and reporting to `ports.Health`. A full disk, a folder without permission and an
unreachable server are all repaired by people, not by a restart, so none of them ends the archive.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

from edged.aio import Backoff, run_in_worker
from edged.domain.samples.pack import Pack
from edged.errors import ArchiveConflict, ArchiveUnavailable, StorageError
from edged.ports import ArchiveStore, Health

PART = "archive"
"""Its part in `ports.Health`."""

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class RetryingArchive:
    """A `ports.ArchiveWriter` over a store."""

    def __init__(self, store: ArchiveStore, health: Health, backoff: Backoff | None = None) -> None:
        self._store = store
        self._health = health
        self._backoff = backoff or Backoff()
        self._tries = 0

    @property
    def tries(self) -> int:
        return self._tries

    async def resume(self, stream: str, source: str) -> tuple[int, dict[str, int]]:
        return await self._retry(self._resume, stream, source)

    async def append(
        self, stream: str, source: str, packs: Sequence[tuple[int, Pack]], gaps: Sequence[tuple[int, int]] = ()
    ) -> None:
        await self._retry(self._store.append, stream, source, packs, gaps)

    def _resume(self, stream: str, source: str) -> tuple[int, dict[str, int]]:
        self._store.remove_leftovers(stream, source)
        return self._store.ends(stream).get(source, 0), self._store.cursors(stream, source)

    async def _retry(self, function: Callable[[*Ts], R], *args: *Ts) -> R:
        while True:
            self._tries += 1
            try:
                result = await run_in_worker(function, *args)
            except ArchiveConflict:
                raise
            except (StorageError, ArchiveUnavailable) as error:
                self._health.degraded(PART, str(error))
                await self._backoff.wait()
            else:
                self._backoff.reset()
                self._health.recovered(PART)
                return result
