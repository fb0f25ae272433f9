"""One cache for several training jobs: what each keeps, which part each has, and what is on its way to any of them.

Each job's plan decides what it keeps, as if it had its part of the cache for itself. What several keep is stored once,
and may be evicted when the last of them releases it. What one job misses is taken from the cache where another keeps
it, and from the archive's reply where another has asked. With a single job nothing is added. See also: `cache` for
where entries live.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from edged.domain.archive.snapshot import BlockRef, Ids, Snapshot
from edged.domain.cache import policy
from edged.domain.cache.entry import Entry, SampleKey
from edged.domain.cache.job_bitmap import JobBitmap
from edged.domain.epochs.split import TrainSplit
from edged.domain.samples import border
from edged.domain.topology import Stream
from edged.services.archive.fetch import WindowFetch
from edged.services.cache.cache import Cache


class SharedCache:
    """What the jobs of one stream have in common. Call `share` for each of them before any begins."""

    def __init__(self, cache: Cache, stream: Stream) -> None:
        self.cache = cache
        self.stream = stream
        self.keeps = JobBitmap()
        self.shares: list[CacheShare] = []
        self.pending_fetch: dict[SampleKey, tuple[WindowFetch, int]] = {}
        self.turn = asyncio.Lock()  # one task at a time uses the cache

    def share(self) -> "CacheShare":
        """The view of one more job."""
        self.shares.append(CacheShare(self, len(self.shares)))
        return self.shares[-1]


class CacheShare:
    """A job's view of the cache. Used by one task.

    `cache`: to look at; pin, read and write through the share. `benefit`: seconds that a cached sample saves per
    second, None while not measured; `part_bytes`: the part of the cache that the job's plans count on.
    """

    def __init__(self, shared: SharedCache, number: int) -> None:
        self._shared = shared
        self.cache = shared.cache
        self._number = number
        self.benefit: float | None = None
        self.part_bytes = 0
        self.has_left = False

    @property
    def is_shared(self) -> bool:
        """Whether there are other jobs."""
        return len(self._shared.shares) > 1

    def pin(self, ref: BlockRef, rows: Ids) -> None:
        """See `Cache.pin`."""
        self.cache.pin(ref, rows)

    def unpin(self, ref: BlockRef, rows: Ids) -> None:
        """See `Cache.unpin`; entries that no job keeps may then be evicted."""
        self.cache.unpin(ref, rows)
        if self.is_shared:
            self.cache.mark(ref, rows[~self._shared.keeps.are_kept(ref, rows)], spare=True)

    async def get_many(self, keys: Collection[SampleKey]) -> dict[SampleKey, Entry]:
        """See `Cache.get_many`."""
        async with self._shared.turn:
            return await self.cache.get_many(keys)

    async def admit(self, entries: Mapping[SampleKey, Entry], *, evict: Iterable[SampleKey] = ()) -> None:
        """Keep `entries`, and no longer `evict`: of these, those that no other job keeps may be evicted.

        What cannot be a sample of the stream is not kept: the disk could not store it, or would bring it back.
        """
        free, stream = evict, self._shared.stream
        entries = {
            key: entry
            for key, entry in entries.items()
            if border.is_usable(entry.payload, entry.codec, entry.label, stream)
        }
        if self.is_shared:
            keeps = self._shared.keeps
            for key in evict:
                keeps.remove(self._number, BlockRef(key.source, key.offset), np.array([key.row]))
            free = [key for key in evict if not keeps.is_kept(key)]
            for key in entries:
                keeps.add(self._number, BlockRef(key.source, key.offset), np.array([key.row]))
        async with self._shared.turn:
            await self.cache.admit(entries, evict=free)

    # the job's part

    def allot(self, num_bytes: int) -> int:
        """The job's part of `num_bytes` of the cache, for its next epoch.

        By `policy.parts`, as far as the other jobs' current epochs leave room.
        """
        others = [each for each in self._shared.shares if each is not self and not each.has_left]
        if not others:
            return num_bytes
        wanted = policy.parts([self.benefit, *(each.benefit for each in others)])[0]
        part = max(0, min(int(wanted * num_bytes), num_bytes - sum(each.part_bytes for each in others)))
        self.part_bytes = max(self.part_bytes, part)
        return part

    def record_benefit(self, fetch_s: float, draws_per_s: float) -> None:
        """Record what an epoch measured: the seconds to fetch one sample, and the samples drawn per second.

        Their product is what a cached sample of the stream saves the job; sizes are the same for all jobs.
        """
        self.benefit = fetch_s * draws_per_s

    def keep(self, snapshot: Snapshot, ids: Ids, part_bytes: int) -> None:
        """A plan begins with `ids`, numbered by `snapshot`, in the job's `part_bytes` of the cache."""
        self.part_bytes = part_bytes
        if self.is_shared:
            self._keep_only(by_block(snapshot, ids))

    def leave(self) -> None:
        """The job has ended: the others may have its part."""
        self.part_bytes, self.has_left = 0, True
        if self.is_shared:
            self._keep_only({})

    def _keep_only(self, wanted: Mapping[BlockRef, Ids]) -> None:
        keeps, before = self._shared.keeps, dict(self._shared.keeps.of_job(self._number))
        for ref, rows in before.items():
            keeps.remove(self._number, ref, rows)
        for ref, rows in wanted.items():
            keeps.add(self._number, ref, rows)
            self.cache.mark(ref, rows, spare=False)
        for ref, rows in before.items():
            self.cache.mark(ref, rows[~keeps.are_kept(ref, rows)], spare=True)

    # what is on its way

    def register_fetch(self, keys: Sequence[SampleKey], fetch: WindowFetch) -> None:
        """`keys` arrive by `fetch`, in its order: until `unregister_fetch`, other jobs that miss one need not ask."""
        for position, key in enumerate(keys):
            self._shared.pending_fetch[key] = fetch, position

    def unregister_fetch(self, keys: Sequence[SampleKey], fetch: WindowFetch) -> None:
        """`keys` are no longer expected by `fetch`."""
        for key in keys:
            if self._shared.pending_fetch.get(key, (None,))[0] is fetch:
                del self._shared.pending_fetch[key]

    def pending_fetch(self, key: SampleKey) -> tuple[WindowFetch, int] | None:
        """The fetch by which the sample will arrive, and its position in it; None when no job has asked for it."""
        return self._shared.pending_fetch.get(key)


def held_ids(cache: Cache, split: TrainSplit) -> Ids:
    """The training samples of a snapshot that the cache holds: int64, rising."""
    snapshot = split.snapshot
    ids = [np.zeros(0, np.int64)]
    for block in split.blocks.tolist():
        ref, rows = snapshot.ref(block), split.rows(block)
        held = cache.holds_rows(ref.source, ref.offset, int(snapshot.rows[block]))
        ids.append(snapshot.first_id[block] + rows[held[rows]])
    return np.concatenate(ids)


def by_block(snapshot: Snapshot, ids: Ids) -> dict[BlockRef, Ids]:
    """The rows of distinct samples, by their blocks."""
    block, row = snapshot.locate(np.sort(ids))
    blocks, starts = np.unique(block, return_index=True)
    return (
        {snapshot.ref(each): rows for each, rows in zip(blocks.tolist(), np.split(row, starts[1:]), strict=True)}
        if len(ids)
        else {}
    )
