"""The edge's cache of samples: a memory tier over a disk tier, each with a budget of bytes.

Covers where an entry lives, what each tier holds, and moving entries between them. The sampling plan decides which
samples are worth keeping: it names the victims. See also: `disk_gate` for when the disk may be written, `shared` for
several jobs, `services.epochs.window_reader` for fetching what is missing.

An entry lives in one tier. It is admitted to memory, and the oldest are moved to the disk in batches once memory is
full. They do not come back: a read from the disk costs little, and each swap would wear it by a write.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from edged.aio import run_in_worker
from edged.domain.archive.snapshot import BlockRef, Ids
from edged.domain.cache.block_table import BlockTable
from edged.domain.cache.entry import ENTRY_OVERHEAD_BYTES, Entry, SampleKey
from edged.errors import StorageError
from edged.hanging import degraded_while_hanging
from edged.log import logger
from edged.ports import DiskTier, Health
from edged.services.cache.disk_gate import SPILL_BYTES, DiskGate

DISK_SHARE = 0.9
"""Of the disk's bytes, to plan with: how full entries of different lengths make its pages varies as they change."""

_IN_MEMORY = -1
_MAX_DOOMED = 1024

R = TypeVar("R")


@dataclass(slots=True)
class CacheCounts:
    """Counts since the cache was opened. `evicted`: victims dropped; `corrupt`: damaged entries found."""

    hits_memory: int = 0
    hits_disk: int = 0
    misses: int = 0
    evicted: int = 0
    corrupt: int = 0


class Cache:
    """Entries by sample key. Use within `async with`, from one task; `disk` None: memory only.

    `memory_bytes` limits payloads and their overhead, `disk_bytes` the stored bytes on the disk, as does that tier's
    own capacity. Nothing is ever evicted but the victims passed to `admit`, and what an earlier run left. Leaving
    closes the disk tier. A disk that hangs is reported (health: cache). `wall_time`: Unix time, to resume the write
    budget.
    """

    def __init__(
        self,
        disk: DiskTier | None,
        health: Health,
        *,
        memory_bytes: int,
        disk_bytes: int,
        written_bytes_per_day: Callable[[], int] | None = None,
        wall_time: Callable[[], float] = time.time,
    ) -> None:
        self.counts = CacheCounts()
        self._disk = disk
        self._health = health
        self._max_memory_bytes = memory_bytes
        self._gate = DiskGate(disk, disk_bytes, written_bytes_per_day, wall_time)
        self._slack_bytes = min(SPILL_BYTES, memory_bytes // 4, self._gate.max_bytes // 4)
        self._memory: dict[SampleKey, Entry] = {}
        self._memory_bytes = 0
        self._table = BlockTable()  # _IN_MEMORY, or the bytes that an entry takes on the disk
        self._disk_bytes = 0
        self._pins = BlockTable()  # how often each is pinned
        self._spare = BlockTable()  # 1: evicted when room is needed and no other victim is left
        self._doomed: set[SampleKey] = set()  # evicted, but still on the disk until the next transaction

    async def __aenter__(self) -> Self:
        """Find what an earlier run left on the disk."""
        if self._disk is not None:
            loop = asyncio.get_running_loop()
            begin_s = loop.time()
            await self._on_disk(partial(self._scan, self._disk, begin_s))
            ms = (loop.time() - begin_s) * 1e3
            logger().info("cache.opened", entries=len(self._table), bytes=self._disk_bytes, ms=ms)
        return self

    def _scan(self, disk: DiskTier, now_s: float) -> None:
        for key, num_bytes in disk.keys():  # noqa: SIM118 - no mapping but a port
            self._table[key] = num_bytes
            self._spare[key] = 1  # until it is wanted: its block may no longer be in the archive
            self._disk_bytes += num_bytes
        self._gate.restore(now_s)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Move what fits to the disk and close it. Cancelled: the files are closed even so."""
        if self._disk is None:
            return
        try:
            await self.flush()
        finally:
            await self._on_disk(self._disk.close)

    async def _on_disk(self, function: Callable[[], R]) -> R:
        with degraded_while_hanging(self._health, "cache"):
            return await run_in_worker(function)

    # content

    def __len__(self) -> int:
        return len(self._table)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the memory tier, overhead included."""
        return self._memory_bytes

    @property
    def disk_bytes(self) -> int:
        """Stored bytes of the disk tier."""
        return self._disk_bytes

    @property
    def written_bytes(self) -> int:
        """Bytes written to the disk's device since the cache was opened."""
        return 0 if self._disk is None else self._disk.written_bytes

    def num_entries(self, payload_bytes: int) -> int:
        """How many entries with payloads of about `payload_bytes` both tiers hold."""
        disk_bytes = int(self._gate.max_bytes * DISK_SHARE)
        room = max(self._max_memory_bytes + disk_bytes - self._slack_bytes, 0)
        return room // (payload_bytes + ENTRY_OVERHEAD_BYTES)

    def holds(self, key: SampleKey) -> bool:
        """Whether either tier has the entry."""
        return self._table[key] != 0

    def holds_rows(self, source: str, offset: int, num_rows: int) -> npt.NDArray[np.bool_]:
        """Which of a block's rows either tier has: bool [num_rows]."""
        held: npt.NDArray[np.bool_] = self._table.rows(source, offset, num_rows) != 0
        return held

    def keys(self) -> Iterator[SampleKey]:
        """Every key held, block by block."""
        return (key for key, _ in self._table.items())

    def pin(self, ref: BlockRef, rows: Ids) -> None:
        """Protect a block's distinct `rows` from eviction until they are unpinned as often; they may come later."""
        self._pins.add(ref, rows, 1)
        if self._spare:
            self.mark(ref, rows, spare=False)

    def unpin(self, ref: BlockRef, rows: Ids) -> None:
        """Remove one pin of each."""
        self._pins.add(ref, rows, -1)
        assert (self._pins.rows(*ref, 1 + int(rows.max(initial=0)))[rows] >= 0).all(), "unpinned more often than pinned"

    def spare(self, keys: Iterable[SampleKey]) -> None:
        """They may be evicted when room is needed and there is no other victim, until they are pinned or admitted."""
        for key in keys:
            self._spare[key] = int(self.holds(key))

    def mark(self, ref: BlockRef, rows: Ids, *, spare: bool) -> None:
        """The same for a block's `rows`, int64 [n]; with `spare` false, they may not."""
        held = self._table.rows(ref.source, ref.offset, int(rows.max()) + 1)[rows] if len(rows) else rows
        self._spare.set_rows(ref, rows, ((held != 0) & spare).astype(np.int32))

    # reading

    async def get_many(self, keys: Collection[SampleKey]) -> dict[SampleKey, Entry]:
        """The entries that are present, by one read of the disk; lost and corrupt ones are left out and dropped.

        Cancelled: waits for the read under way.
        """
        present = {key: entry for key in keys if (entry := self._memory.get(key)) is not None}
        absent = [key for key in dict.fromkeys(keys) if key not in present] if len(present) < len(keys) else []
        wanted = [key for key in absent if self._table[key] > 0]
        self.counts.hits_memory += len(present)
        if wanted and self._disk is not None:
            corrupt_before = self._disk.num_corrupt
            read = await self._on_disk(partial(self._disk.get_many, wanted))
            self.counts.corrupt += self._disk.num_corrupt - corrupt_before
            self.counts.hits_disk += len(read)
            for key in wanted:
                if key not in read:
                    self._drop(key)
            self._notice_loss(self._disk)
            absent = [key for key in absent if key not in read]
            present |= read
        self.counts.misses += len(absent)
        return present

    # writing

    async def admit(self, entries: Mapping[SampleKey, Entry], *, evict: Iterable[SampleKey] = ()) -> set[SampleKey]:
        """Admit the entries as far as there is room; returns the keys of those that are present now.

        Victims are taken from `evict`, in order and no more than needed; pinned and absent ones are skipped. Those left
        over are *spare*, as is what an earlier run left until it is pinned or admitted again: they are evicted after
        the others, in this call or a later one. Cancelled: the entries so far are admitted; each is whole.
        """
        named = list(evict)
        self.spare(named)
        victims = chain(named, self._spare_keys())
        for key, entry in entries.items():
            self._spare[key] = 0
            if not self.holds(key):
                await self._take(key, entry, victims)
        return {key for key in entries if self.holds(key)}  # a victim may be among them

    async def flush(self) -> None:
        """Move the memory tier to the disk as far as that has room, so that a restart finds it."""
        while self._memory and await self._spill(min(SPILL_BYTES, self._memory_bytes)):
            pass
        await self._commit({})

    def _spare_keys(self) -> Iterator[SampleKey]:
        return (key for key, _ in self._spare.items() if self._spare[key])  # it may have been pinned since

    async def _take(self, key: SampleKey, entry: Entry, victims: Iterator[SampleKey]) -> None:
        """Into memory, if room can be made."""
        cost = _cost(entry)
        if cost > self._max_memory_bytes:
            await self._take_to_disk(key, entry, victims)
            return
        while not self._has_room(cost):
            may_spill = self._total_room() >= cost or not self._gate.is_open  # does the disk still refuse?
            if may_spill and await self._spill(max(SPILL_BYTES, cost)):
                continue
            if not self._evict_next(victims, in_memory=not self._gate.is_open):
                return
            if len(self._doomed) >= _MAX_DOOMED:
                await self._commit({})
        self._memory[key] = entry
        self._memory_bytes += cost
        self._table[key] = _IN_MEMORY

    async def _take_to_disk(self, key: SampleKey, entry: Entry, victims: Iterator[SampleKey]) -> None:
        """An entry larger than the whole memory tier goes to the disk at once."""
        cost = _cost(entry)
        while self._gate.limit_bytes - self._disk_bytes < cost:
            if not self._evict_next(victims):
                return
        if self._gate.allows(cost):
            await self._commit({key: entry})

    def _has_room(self, cost: int) -> bool:
        if self._memory_bytes + cost > self._max_memory_bytes:
            return False
        return self._total_room() >= cost or not self._gate.is_open

    def _total_room(self) -> int:
        """Free bytes of both tiers, less the slack that lets a full memory spill whole batches to a full disk."""
        limit = self._max_memory_bytes + self._gate.limit_bytes - self._slack_bytes
        return limit - self._memory_bytes - self._disk_bytes

    def _evict_next(self, victims: Iterator[SampleKey], *, in_memory: bool = False) -> bool:
        """Drop the next victim that may be evicted; False when there is none left.

        `in_memory`: skip those on the disk; while the disk takes nothing, room there does not help.
        """
        for victim in victims:
            at = self._table[victim]
            if at == 0 or self._pins[victim] or (in_memory and at != _IN_MEMORY):
                continue
            if at != _IN_MEMORY:
                self._doomed.add(victim)
            self._drop(victim)
            self.counts.evicted += 1
            return True
        return False

    def _drop(self, key: SampleKey) -> None:
        if (entry := self._memory.pop(key, None)) is not None:
            self._memory_bytes -= _cost(entry)
        else:
            self._disk_bytes -= self._table[key]
        self._table[key] = self._spare[key] = 0

    def _notice_loss(self, disk: DiskTier) -> None:
        """When a damaged store has been recreated, drop all that it held at once instead of key by key."""
        if self._disk_bytes and not disk.used_bytes:
            for key in [key for key, at in self._table.items() if at != _IN_MEMORY]:
                self._drop(key)

    def _oldest(self, num_bytes: int) -> dict[SampleKey, Entry]:
        """The entries longest in memory: at least `num_bytes` of them, if the disk has the room."""
        room = self._gate.limit_bytes - self._disk_bytes
        batch: dict[SampleKey, Entry] = {}
        taken = 0
        for key, entry in self._memory.items():
            taken += _cost(entry)
            if taken > room:
                break
            batch[key] = entry
            if taken >= num_bytes:
                break
        return batch

    async def _spill(self, num_bytes: int) -> bool:
        """Move entries of about `num_bytes` from memory to the disk; False when it takes none now."""
        if not self._gate.allows(num_bytes):
            return False
        batch = self._oldest(num_bytes)
        return bool(batch) and await self._commit(batch)

    async def _commit(self, batch: Mapping[SampleKey, Entry]) -> bool:
        """Delete what is doomed, store `batch`, and record what the disk has done, cancelled or not."""
        if self._disk is None or not (batch or self._doomed):
            return False
        disk, doomed = self._disk, [key for key in self._doomed if key not in batch]
        self._doomed.clear()
        written_before = disk.written_bytes
        failures: list[StorageError] = []
        stored: dict[SampleKey, int] = {}

        def write() -> None:
            disk.delete_many(doomed)
            try:
                if batch:
                    stored.update(disk.put_many(batch))
            except StorageError as error:
                failures.append(error)
                disk.delete_many(batch)

        try:
            await self._on_disk(write)
        finally:
            for key, num_bytes in stored.items():
                if self._table[key]:
                    is_spare = self._spare[key]
                    self._drop(key)
                    self._spare[key] = is_spare
                self._table[key] = num_bytes
                self._disk_bytes += num_bytes
            self._gate.record(stored_bytes=sum(stored.values()), written_bytes=disk.written_bytes - written_before)
            self._notice_loss(disk)
        if failures:
            self._gate.refuse(failures[0], self._disk_bytes)
        elif batch:
            self._gate.accept()
        return bool(stored)


def _cost(entry: Entry) -> int:
    return entry.num_bytes + ENTRY_OVERHEAD_BYTES
