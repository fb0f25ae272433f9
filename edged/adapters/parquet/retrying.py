"""An archive writer that knows whom a refusal of the storage concerns, and when to try again; a hang is reported.

Covers retries, their backoff, and reporting to `ports.Health`. A full disk, a folder without permission and an
unreachable server are all repaired by people, not by a restart, so none of them ends the archive. What all sources meet
is retried here; what one source meets is that source's alone.
"""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TypeVar, TypeVarTuple

from edged.aio import Backoff, prefetch_in_worker, run_in_worker
from edged.domain.archive import quarantine
from edged.domain.archive.retention import Deleted
from edged.domain.archive.snapshot import BlockRef
from edged.domain.archive.source_log import UNKNOWN_LOG, SourceLog
from edged.domain.samples.pack import Pack
from edged.errors import ArchiveConflict, ArchiveFull, ArchiveUnavailable, SourceRefused, StorageError
from edged.hanging import degraded_while_hanging
from edged.log import logger
from edged.ports import ArchiveStore, Health, NotArchived, RetainedArchive, SourceEnd

PART = "archive"
"""Its part in `ports.Health`; a source's is `archive/<stream>/<source>`."""

_MAX_SOURCE_RETRY_S = 60.0
"""A source that was refused is read again from the archive's end, up to a file's bytes: not every few seconds."""

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class RetryingArchive:
    """A `ports.ArchiveWriter` over a store."""

    def __init__(
        self,
        store: ArchiveStore,
        health: Health,
        backoff: Callable[[float], Backoff] | None = None,
        *,
        is_shared: bool = False,
        retained: RetainedArchive | None = None,
        room_bytes: int = 0,
    ) -> None:
        """`backoff`: makes one from its longest pause in seconds.

        `is_shared`: other nodes write, too. One that was first with some offsets is no trouble: read on behind them.
        `retained`: on a full disk the oldest files of `room_bytes` go from it at once; None: people are to make room.
        """
        self._store = store
        self._health = health
        self._is_shared = is_shared
        self._retained = retained
        self._room_bytes = room_bytes
        self._new_backoff = backoff or (lambda max_s: Backoff(max_s=max_s))
        self._backoff = self._new_backoff(5.0)
        self._backoff_of: dict[str, Backoff] = {}
        self._unwritten: set[str] = set()  # parts that were refused on the way to a write, and recover by one
        self._tries = 0

    @property
    def tries(self) -> int:
        return self._tries

    async def resume(self, stream: str, source: str) -> SourceEnd:
        end = await self._retry(stream, source, self._resume, stream, source)
        if part_of(stream, source) not in self._unwritten:
            self._health.recovered(part_of(stream, source))
        return end

    async def append(
        self,
        stream: str,
        source: str,
        packs: Sequence[tuple[int, Pack]],
        gaps: Sequence[tuple[int, int]] = (),
        log: SourceLog = UNKNOWN_LOG,
        empty: Sequence[tuple[int, int]] = (),
    ) -> None:
        await self._write(stream, source, self._store.append, stream, source, packs, gaps, log, empty)
        part = part_of(stream, source)
        self._backoff_of.pop(part, None)
        if part in self._unwritten:
            self._unwritten.remove(part)
            self._health.recovered(part)

    async def set_aside(self, stream: str, source: str, offset: int) -> None:
        await self._write(stream, source, self._store.set_aside, stream, source, offset)

    async def keep_record(self, stream: str, source: str, offset: int, record: bytes, why: NotArchived) -> str:
        return await self._write(stream, source, self._store.keep_record, stream, source, offset, record, why)

    async def is_quarantined(self, stream: str, source: str, offset: int) -> bool:
        records = await self._write(stream, source, self._store.quarantine_records, stream)
        return quarantine.is_whole_block(records, BlockRef(source, offset))

    def release(self, stream: str, source: str) -> None:
        part = part_of(stream, source)
        self._backoff_of.pop(part, None)
        self._unwritten.discard(part)
        self._health.recovered(part)

    def refuse(self, stream: str, source: str, reason: str) -> SourceRefused:
        self._unwritten.add(part_of(stream, source))
        return self._refused(stream, source, reason)

    def _refused(self, stream: str, source: str, reason: str) -> SourceRefused:
        part = part_of(stream, source)
        self._health.degraded(part, reason, awaited=False)  # the others go on, or stall
        if part not in self._backoff_of:
            self._backoff_of[part] = self._new_backoff(_MAX_SOURCE_RETRY_S)
        return SourceRefused(reason, self._backoff_of[part].next_s())

    def _resume(self, stream: str, source: str) -> SourceEnd:
        self._store.remove_leftovers(stream, source)
        if self._retained is not None:
            self._retained.reserve()
        return self._store.end(stream, source)

    async def _write(self, stream: str, source: str, function: Callable[[*Ts], R], *args: *Ts) -> R:
        """Retry what a write is or needs; a source refused in it is not recovered by being read again."""
        try:
            return await self._retry(stream, source, function, *args)
        except SourceRefused as refused:
            if not isinstance(refused.__cause__, ArchiveConflict):  # what another writer wrote, reading again shows
                self._unwritten.add(part_of(stream, source))
            raise

    async def _retry(self, stream: str, source: str, function: Callable[[*Ts], R], *args: *Ts) -> R:
        while True:
            self._tries += 1
            try:
                with degraded_while_hanging(self._health, PART):
                    result = await run_in_worker(function, *args)
            except ArchiveUnavailable as error:
                if not (isinstance(error, ArchiveFull) and await self._make_room()):
                    self._health.degraded(PART, str(error))
                    await self._backoff.wait()
            except StorageError as error:
                if self._is_shared and isinstance(error, ArchiveConflict):
                    logger().info("archive.overtaken", stream=stream, source=source, reason=str(error))
                    raise SourceRefused(str(error), 0.0) from error
                raise self._refused(stream, source, str(error)) from error
            except Exception as error:  # whatever it is, it is in this source's data, and the others go on
                logger().error("archive.source_failed", stream=stream, source=source, err=str(error), exc_info=error)
                raise self._refused(stream, source, f"{type(error).__name__}: {error}") from error
            else:
                self._backoff.reset()
                self._health.recovered(PART)
                return result

    async def _make_room(self) -> bool:
        """Whether anything was deleted, so that it may be tried again at once."""
        if self._retained is None:
            return False
        is_made = False
        try:
            async with aclosing(prefetch_in_worker(self._retained.make_room(self._room_bytes))) as steps:
                async for step in steps:
                    self._tries += 1
                    is_made |= isinstance(step, Deleted)
        except (ArchiveUnavailable, StorageError) as error:
            self._health.degraded(PART, f"no room could be made: {error}")
        return is_made


def part_of(stream: str, source: str) -> str:
    """The source's part in `ports.Health`."""
    return f"{PART}/{stream}/{source}"
