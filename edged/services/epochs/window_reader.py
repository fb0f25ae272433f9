"""One window of an epoch: its misses from the archive, its hits from the cache.

Covers requesting, admitting and reading its samples. See also: `domain.epochs.plan` for what a window is and what the
cache keeps of it, `prefetch` for when it is requested.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import BlockRef, Ids
from edged.domain.cache.entry import Entry, SampleKey
from edged.domain.epochs.plan import CachedWindow
from edged.domain.epochs.read_stats import ReadStats
from edged.domain.epochs.split import TrainSplit
from edged.domain.epochs.window import MAX_WINDOW_BLOCKS, SAMPLE_OVERHEAD, Window
from edged.log import logger
from edged.services.archive.client import ArchiveClient
from edged.services.archive.fetch import WindowFetch
from edged.services.batches.batcher import Encoded
from edged.services.cache.shared import CacheShare, by_block
from edged.services.epochs.arrived import Arrived, find

_NONE = Encoded(None, "", None)


class WindowReader:
    """Reads the samples of `window`. Call `ask`, then `arrive`, then `read`; finally `close`.

    A planned hit that the cache does not hold (its memory was lost in a restart, its disk is full, the entry was
    corrupt) is fetched like a miss and admitted again: with the window, as long as that stays within `max_bytes` or
    exceeds them by at most a quarter; the others, `deferred`, when they are read. What another job keeps in the cache
    is read from there, and what another job has asked for is taken from that reply. Memory: what was fetched, until
    `close`.

    `reads` counts what is fetched and read; None: it is not counted.
    """

    def __init__(
        self,
        window: CachedWindow,
        train_split: TrainSplit,
        client: ArchiveClient,
        share: CacheShare,
        max_bytes: int,
        reads: ReadStats | None,
    ) -> None:
        self.window = window
        self._split, self._snapshot = train_split, train_split.snapshot
        self._client = client
        self._share = share
        self._reads = reads
        self._max_evicted_bytes = max(max_bytes - window.fetch.num_bytes, max_bytes // 4)
        self._fetches: list[WindowFetch] = []
        self._registered: list[tuple[list[SampleKey], WindowFetch]] = []
        self._joined: dict[WindowFetch, list[tuple[int, int]]] = {}  # another job's: our samples, their positions
        self._num_planned_bytes = 0
        self._pinned: list[tuple[BlockRef, Ids]] = []
        self._arrived = Arrived()
        self._evicted = self.deferred = self._to_admit = np.zeros(0, np.int64)
        self._is_admitted = np.zeros(0, np.bool_)

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return sum(fetch.num_bytes for fetch in self._fetches)

    @property
    def num_planned_bytes(self) -> int:
        """Bytes held once all has arrived."""
        return self._num_planned_bytes

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for has arrived, so that `arrive` does not wait."""
        return all(fetch.is_complete for fetch in (*self._fetches, *self._joined))

    def arrivals(self) -> Ids:
        """The samples that it will admit, evicted hits included: later windows need not ask for them."""
        return np.concatenate([self.window.fetch.ids[self.window.admit], self._evicted, self.deferred])

    async def ask(self, pending: Ids) -> None:
        """Ask the archive for the misses and for evicted hits; not for `pending`: ids that earlier windows admit.

        Waits only for the request to be written.
        """
        hits, first = np.unique(self.window.ids[self.window.is_cached], return_index=True)
        is_held = self._held(hits)
        self._pin(hits[is_held])
        is_evicted = ~is_held & ~np.isin(hits, pending)
        evicted = hits[is_evicted][np.argsort(first[is_evicted])]
        count = self._num_affordable(evicted)
        self._evicted, self.deferred = np.sort(evicted[:count]), evicted[count:]
        for wanted in (self.window.fetch, self._split.window(self._evicted)):
            self._num_planned_bytes += wanted.num_bytes
            if self._share.is_shared:
                wanted = self._split.window(self._absent(wanted.ids))  # noqa: PLW2901 - what is left of it
            if wanted.num_samples:
                await self._ask(wanted)

    async def arrive(self) -> None:
        """Wait for all that was asked for."""
        for fetch in self._fetches:
            await self._take(fetch)
        while self._joined:
            await self._take_joined(next(iter(self._joined)))
        self._to_admit = np.unique(self.arrivals())
        self._is_admitted = np.zeros(len(self._to_admit), np.bool_)
        await self._share.admit({}, evict=self._keys(self.window.evict))

    async def read(self, part: slice) -> list[Encoded]:
        """The samples at `part` of the window's order; those that are planned to be cached are admitted now.

        Those that the archive does not have are empty.
        """
        ids = self.window.ids[part]
        is_hit = ~self._arrived.have(ids)
        entries = await self._entries(ids[is_hit])
        is_hit &= np.array([sample in entries for sample in ids.tolist()], np.bool_)
        if self._reads is not None:
            self._reads.add(ids, is_hit, self.window.weights[part])
        arrived = self._arrived.entries(ids)
        if not all(sample in entries or sample in arrived for sample in ids.tolist()):
            await self._fetch_late(part, entries)
            arrived = self._arrived.entries(ids)
        await self._admit_some(ids, arrived | entries)
        return [
            _NONE if entry is None else Encoded(entry.payload, entry.codec, entry.label, sample, weight)
            for sample, weight in zip(ids.tolist(), self.window.weights[part].tolist(), strict=True)
            for entry in (entries.get(sample) or arrived.get(sample),)
        ]

    def close(self) -> None:
        """Release everything; what is still on its way is ignored."""
        for keys, fetch in self._registered:
            self._share.unregister_fetch(keys, fetch)
        for fetch in (*self._fetches, *self._joined):
            self._client.forget(fetch)
        for ref, rows in self._pinned:
            self._share.unpin(ref, rows)
        self._fetches, self._registered, self._joined, self._pinned, self._arrived = [], [], {}, [], Arrived()

    def _pin(self, ids: Ids) -> None:
        """Until `close`; distinct ids."""
        for ref, rows in by_block(self._snapshot, ids).items():
            self._share.pin(ref, rows)
            self._pinned.append((ref, rows))

    async def _admit_some(self, ids: Ids, entries: Mapping[int, Entry | None]) -> None:
        """In small parts, so that no long write to the disk delays a step."""
        at, is_wanted = find(self._to_admit, ids)
        at = np.unique(at[is_wanted])
        at = at[~self._is_admitted[at]]
        self._is_admitted[at] = True
        await self._admit(self._to_admit[at], entries)

    def _absent(self, ids: Ids) -> Ids:
        """Those of `ids` that must be requested: neither in the cache nor on their way to another job."""
        absent: list[int] = []
        present: list[int] = []
        for sample, key in zip(ids.tolist(), self._keys(ids), strict=True):
            if self._share.cache.holds(key):
                present.append(sample)
            elif (pending_fetch := self._share.pending_fetch(key)) is not None:
                fetch, position = pending_fetch
                if fetch not in self._joined:
                    self._client.join(fetch)
                self._joined.setdefault(fetch, []).append((sample, position))
            else:
                absent.append(sample)
        self._pin(np.array(present, np.int64))
        return np.array(sorted(absent), np.int64)  # held-out blocks are in another order

    async def _take_joined(self, fetch: WindowFetch) -> None:
        """Take our samples from another job's fetch, once it has arrived."""
        await self._client.wait(fetch)
        samples, positions = zip(*self._joined.pop(fetch), strict=True)
        columns = ([column[at] for at in positions] for column in (fetch.payloads, fetch.codecs, fetch.labels))
        self._arrived.add(np.array(samples, np.int64), *columns)
        self._client.forget(fetch)

    async def _ask(self, wanted: Window) -> WindowFetch:
        fetch = WindowFetch(wanted)
        self._fetches.append(fetch)
        if self._share.is_shared:
            self._registered.append((self._keys(wanted.ids), fetch))
            self._share.register_fetch(*self._registered[-1])
        await self._client.ask(fetch)
        return fetch

    def _num_affordable(self, ids: Ids) -> int:
        """How many of `ids`, from the first on, may be fetched with the window."""
        count = int(np.searchsorted(np.cumsum(self._split.costs(ids)), self._max_evicted_bytes, side="right"))
        return min(count, MAX_WINDOW_BLOCKS)

    async def _take(self, fetch: WindowFetch) -> None:
        """Its samples, once it has arrived."""
        await self._client.wait(fetch)
        num_arrived = fetch.window.num_samples - fetch.num_missing
        if self._reads is not None:
            self._reads.add_fetched(num_arrived, fetch.num_bytes - SAMPLE_OVERHEAD * num_arrived)
        if fetch.num_missing:
            logger().warning("epoch.missing", samples=fetch.num_missing)
        self._arrived.add(fetch.window.ids, fetch.payloads, fetch.codecs, fetch.labels)

    async def _admit(self, ids: Ids, samples: Mapping[int, Entry | None]) -> None:
        entries = {
            key: entry
            for key, sample in zip(self._keys(ids), ids.tolist(), strict=True)
            if (entry := samples.get(sample)) is not None
        }
        await self._share.admit(entries)

    async def _entries(self, ids: Ids) -> dict[int, Entry]:
        keys = self._keys(ids)
        found = await self._share.get_many(keys)
        return {sample: found[key] for sample, key in zip(ids.tolist(), keys, strict=True) if key in found}

    async def _fetch_late(self, part: slice, entries: Mapping[int, Entry]) -> None:
        """Fetch and cache samples that the cache turned out not to hold: corrupt, not admitted, or evicted.

        In the same round trip, the other samples of the window that it does not hold, as far as there is room.
        """
        ids = self.window.ids[part]
        now = [sample for sample in ids[~self._arrived.have(ids)].tolist() if sample not in entries]
        later = np.unique(self.window.ids[part.stop :])
        later = later[~self._held(later) & ~self._arrived.have(later) & ~np.isin(later, now)]
        wanted = np.unique([*now, *later[: self._num_affordable(later)].tolist()])
        fetch = await self._ask(self._split.window(wanted))
        await self._take(fetch)
        self._fetches.remove(fetch)
        await self._admit(wanted, self._arrived.entries(wanted))

    def _held(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of `ids`, rising, the cache holds: bool [n]."""
        block, row = self._snapshot.locate(ids)
        held = np.zeros(len(ids), np.bool_)
        blocks, starts = np.unique(block, return_index=True)
        for each, begin, end in zip(blocks.tolist(), starts, [*starts[1:], len(ids)], strict=False):
            ref = self._snapshot.ref(each)
            rows = self._share.cache.holds_rows(ref.source, ref.offset, int(self._snapshot.rows[each]))
            held[begin:end] = rows[row[begin:end]]
        return held

    def _keys(self, ids: Ids) -> list[SampleKey]:
        block, row = self._snapshot.locate(ids)
        refs = {each: self._snapshot.ref(each) for each in np.unique(block).tolist()}
        return [SampleKey(*refs[each], at) for each, at in zip(block.tolist(), row.tolist(), strict=True)]
