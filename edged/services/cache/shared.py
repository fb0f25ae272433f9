"""One cache for several training jobs: what each keeps, what part is whose, and what is on its way to any of them.

Each job's plan says what it keeps, as if it had its part of the cache for itself. What several keep is stored once, and
goes when the last of them lets it go. What one job misses is taken from the cache where another keeps it, and from the
archive's answer where another has asked. Where entries live is `cache`'s subject. With one job alone nothing is added.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import BlockRef, Ids, Snapshot
from edged.domain.cache import policy
from edged.domain.cache.entry import Entry, SampleKey
from edged.domain.cache.job_bitmap import JobBitmap
from edged.services.archive.fetch import WindowFetch
from edged.services.cache.cache import Cache


class SharedCache:
    """What jobs of one stream have in common. Call `share` for each of them before any begins."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.keepers = JobBitmap()
        self.shares: list[CacheShare] = []
        self.pending_fetch: dict[SampleKey, tuple[WindowFetch, int]] = {}
        self.turn = asyncio.Lock()  # the cache is used by one task at a time

    def share(self) -> "CacheShare":
        """The cache as one job sees it."""
        self.shares.append(CacheShare(self, len(self.shares)))
        return self.shares[-1]


class CacheShare:
    """A job's view of the cache. Used by one task; methods without a word are those of `Cache`.

    `benefit`: what `record_benefit` was told, in seconds saved a second; `part_bytes`: of the cache, that its plans
    count on.
    """

    def __init__(self, shared: SharedCache, number: int) -> None:
        self._shared = shared
        self._cache = shared.cache
        self._number = number
        self.benefit: float | None = None
        self.part_bytes = 0
        self.has_left = False

    @property
    def is_shared(self) -> bool:
        """Whether there are other jobs."""
        return len(self._shared.shares) > 1

    @property
    def memory_bytes(self) -> int:
        return self._cache.memory_bytes

    @property
    def disk_bytes(self) -> int:
        return self._cache.disk_bytes

    @property
    def written_bytes(self) -> int:
        return self._cache.written_bytes

    @property
    def num_corrupt(self) -> int:
        """Entries found damaged, by any job."""
        return self._cache.counts.corrupt

    def num_entries(self, payload_bytes: int) -> int:
        return self._cache.num_entries(payload_bytes)

    def holds(self, key: SampleKey) -> bool:
        return self._cache.holds(key)

    def holds_rows(self, source: str, offset: int, num_rows: int) -> npt.NDArray[np.bool_]:
        return self._cache.holds_rows(source, offset, num_rows)

    def pin(self, keys: Iterable[SampleKey]) -> None:
        self._cache.pin(keys)

    def unpin(self, keys: Sequence[SampleKey]) -> None:
        self._cache.unpin(keys)
        if self.is_shared:
            self._cache.spare(key for key in keys if not self._shared.keepers.is_kept(key))

    async def get_many(self, keys: Collection[SampleKey]) -> dict[SampleKey, Entry]:
        async with self._shared.turn:
            return await self._cache.get_many(keys)

    async def admit(self, entries: Mapping[SampleKey, Entry], *, evict: Iterable[SampleKey] = ()) -> None:
        """Keep `entries`, and no longer `evict`: of these, those go for which no other job's plan has a use."""
        free = evict
        if self.is_shared:
            keepers = self._shared.keepers
            for key in evict:
                keepers.remove(self._number, BlockRef(key.source, key.offset), np.array([key.row]))
            free = [key for key in evict if not keepers.is_kept(key)]
            for key in entries:
                keepers.add(self._number, BlockRef(key.source, key.offset), np.array([key.row]))
        async with self._shared.turn:
            await self._cache.admit(entries, evict=free)

    # what part is whose

    def allot(self, num_bytes: int) -> int:
        """The job's part of so many bytes of the cache, for its next epoch.

        By `cache_policy.parts`, as far as the others' running epochs leave room.
        """
        others = [each for each in self._shared.shares if each is not self and not each.has_left]
        if not others:
            return num_bytes
        wanted = policy.parts([self.benefit, *(each.benefit for each in others)])[0]
        part = max(0, min(int(wanted * num_bytes), num_bytes - sum(each.part_bytes for each in others)))
        self.part_bytes = max(self.part_bytes, part)
        return part

    def record_benefit(self, fetch_s: float, draws_per_s: float) -> None:
        """What an epoch showed: seconds that fetching one sample takes, and how often the job draws one.

        A cached sample of the stream saves the job so many seconds a second; sizes are alike for all.
        """
        self.benefit = fetch_s * draws_per_s

    def keep(self, snapshot: Snapshot, ids: Ids, part_bytes: int) -> None:
        """A plan begins that finds `ids`, numbered by `snapshot`, in the job's `part_bytes` of the cache."""
        self.part_bytes = part_bytes
        if self.is_shared:
            self._keep_only(_by_block(snapshot, ids))

    def leave(self) -> None:
        """The job trains no more: its part is for the others."""
        self.part_bytes, self.has_left = 0, True
        if self.is_shared:
            self._keep_only({})

    def _keep_only(self, wanted: Mapping[BlockRef, Ids]) -> None:
        keepers, before = self._shared.keepers, dict(self._shared.keepers.of_job(self._number))
        for ref, rows in before.items():
            keepers.remove(self._number, ref, rows)
        for ref, rows in wanted.items():
            keepers.add(self._number, ref, rows)
            self._cache.mark(ref, rows, spare=False)
        for ref, rows in before.items():
            self._cache.mark(ref, rows[~keepers.are_kept(ref, rows)], spare=True)

    # what is on its way

    def register_fetch(self, keys: Sequence[SampleKey], fetch: WindowFetch) -> None:
        """`keys` come by `fetch`, in its order; until `unregister_fetch`, whoever misses one of them need not ask."""
        for position, key in enumerate(keys):
            self._shared.pending_fetch[key] = fetch, position

    def unregister_fetch(self, keys: Sequence[SampleKey], fetch: WindowFetch) -> None:
        for key in keys:
            if self._shared.pending_fetch.get(key, (None,))[0] is fetch:
                del self._shared.pending_fetch[key]

    def pending_fetch(self, key: SampleKey) -> tuple[WindowFetch, int] | None:
        """The fetch by which the sample comes, and its position there."""
        return self._shared.pending_fetch.get(key)


def _by_block(snapshot: Snapshot, ids: Ids) -> dict[BlockRef, Ids]:
    block, row = snapshot.locate(np.sort(ids))
    blocks, starts = np.unique(block, return_index=True)
    return (
        {snapshot.ref(each): rows for each, rows in zip(blocks.tolist(), np.split(row, starts[1:]), strict=True)}
        if len(ids)
        else {}
    )
