"""An epoch's mini-batches, from the cache and from the archive, in the plan's order.

Covers drawing plans, asking ahead and filling batches. The order is domain.cache_modes' subject, requests and silence
are `archive_client`'s, a single window is `epoch_window`'s. One window is consumed while the next one is on its way:
the next of training, then those of the held-out samples, then the first of the next epoch, so that the trainer seldom
waits at a boundary either.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from edged.aio import run_in_worker
from edged.domain import cache_plan, sampling
from edged.domain.cache_plan import CachedWindow, CachePlan
from edged.domain.dataset import Snapshot
from edged.domain.learning import Learnt
from edged.domain.reads import EpochReads
from edged.domain.sampling import Ids, Window
from edged.domain.supply import Supply, supply
from edged.log import logger
from edged.services.archive_client import ArchiveClient, SnapshotFetch
from edged.services.cache_share import CacheShare
from edged.services.epoch_choice import Choice
from edged.services.epoch_window import Fetched, WindowReader
from edged.services.minibatch import Batcher, Encoded, MiniBatch

EMPTY_RETRY_S = 5.0
"""How often an empty archive is asked again: half its default flush interval."""

_MOST_AHEAD = 4
"""Windows asked for in advance; the archive keeps so many requests of an edge waiting, and twice as many."""


@dataclass(frozen=True, slots=True)
class EpochSettings:
    """`prefetch_bytes`: for two windows together, the one in use and the one on its way."""

    epochs: int
    seed: int
    test_fraction: float
    test_samples: int
    prefetch_bytes: int

    @property
    def window_bytes(self) -> int:
        return self.prefetch_bytes // 2


class _Place(NamedTuple):
    """A window's place in the run."""

    epoch: int
    held_out: bool
    window: int


@dataclass(eq=False, slots=True)
class _Epoch:
    """A plan, what it draws from, and the held-out windows."""

    plan: CachePlan
    supply: Supply
    held_out: tuple[Window, ...]

    def window(self, place: _Place) -> CachedWindow | None:
        """The window at `place`; None behind the last of its kind."""
        if not place.held_out:
            return self.plan.window(place.window)
        return cache_plan.uncached(self.held_out[place.window]) if place.window < len(self.held_out) else None


class _Part(NamedTuple):
    """Some of a plan's samples, `first` to `stop` - 1, of which those before `next` are decoded."""

    first: int
    stop: int
    next: int


_NO_PART = _Part(-1, -1, -1)


class _Stopwatch(NamedTuple):
    """Seconds on the clock, waited and with something on its way since start, and how many samples came meanwhile."""

    now: float
    waited: float
    fetching: float
    fetched: int


class Epochs:
    """The training job's view of archive and cache. Used by one task, inside `open()`.

    Memory: two windows, their plan's blocks and two mini-batches, beside what the cache holds.
    """

    def __init__(
        self, client: ArchiveClient, batcher: Batcher, settings: EpochSettings, cache: CacheShare, chooser: Choice
    ) -> None:
        self._client = client
        self._batcher = batcher
        self._settings = settings
        self._cache = cache
        self._chooser = chooser
        self._present: _Epoch | None = None
        self._next_snapshot: SnapshotFetch | None = None
        self._next: _Epoch | None = None
        self._ahead: deque[tuple[_Place, WindowReader]] = deque()
        self._in_use: WindowReader | None = None
        self._reads = EpochReads(0)
        self._fetched = Fetched()
        self._begun = _Stopwatch(0.0, 0.0, 0.0, 0)
        self._noted = (-1, self._begun)
        self._skipped = (0, 0)
        self._part = _NO_PART
        self._place_in_use: _Place | None = None
        self._empty_until = 0.0
        self.decode_s = 0.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect; waits for the log."""
        async with self._client.open():
            try:
                yield
            finally:
                self._forget_ahead()

    def leave(self) -> None:
        """Nothing more will be drawn: other jobs may have this one's part of the cache."""
        self._cache.leave()

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting for the archive since start."""
        return self._client.wait_s

    @property
    def is_waiting(self) -> bool:
        return self._client.is_waiting

    @property
    def num_bytes(self) -> int:
        """Bytes of the windows in memory."""
        in_use = 0 if self._in_use is None else self._in_use.num_bytes
        return in_use + sum(reader.num_bytes for _, reader in self._ahead)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache's memory tier."""
        return self._cache.memory_bytes

    async def draw(self, epoch: int, ends: Mapping[str, int] | None = None) -> CachePlan:
        """The plan of `epoch` over the archive as it is now, or as it was at `ends`.

        Waits until the archive has anything to train on.
        """
        if self._next is None or self._next.plan.epoch != epoch or ends is not None:
            self._forget_ahead()  # windows of another plan, after going back
            self._leave()
            self._next = await self._draw(epoch, ends)
        self._part = _NO_PART
        self._present, self._next, self._next_snapshot = self._next, None, None
        return self._present.plan

    def has_drawn(self, epoch: int) -> bool:
        """Whether the present plan is that epoch's."""
        return self._present is not None and self._present.plan.epoch == epoch

    async def survey(self) -> Snapshot | None:
        """The archive as it is now; None while that is not known yet, or as long as there is nothing to train on.

        Waits for nothing but a request's way into the log: call it again.
        """
        now = asyncio.get_running_loop().time()
        if self._next_snapshot is None and now >= self._empty_until:
            self._next_snapshot = SnapshotFetch(None)
            await self._client.ask(self._next_snapshot)
        await self._client.drain()
        if self._next_snapshot is None or not self._next_snapshot.is_complete:
            return None
        snapshot = await run_in_worker(self._next_snapshot.snapshot)
        if await run_in_worker(lambda: supply(snapshot, self._settings.test_fraction).is_empty):
            if not self._empty_until:
                logger().info("epoch.empty", epoch=0 if self._present is None else self._present.plan.epoch + 1)
            self._next_snapshot, self._empty_until = None, now + EMPTY_RETRY_S
            return None
        return snapshot

    def begin(self, plan: CachePlan, first_sample: int = 0) -> None:
        """The plan just drawn is used from its `first_sample`-th sample on."""
        logger().info(
            "epoch.drawn",
            epoch=plan.epoch,
            blocks=plan.snapshot.num_blocks,
            samples=self.num_samples,
            first_sample=first_sample,
        )
        self._reads, self._fetched = EpochReads(plan.snapshot.num_samples), Fetched()
        self._begun = self._time()

    async def prepare(self, first: int, stop: int) -> bool:
        """Decode samples `first` to `stop` - 1 of the plan begun, for `take`; at most as many as a mini-batch has.

        False when some are still on their way: call it again, it goes on there. Samples before `first` are passed over,
        neither fetched nor decoded if they are not yet; there is no way back.
        """
        if (first, stop) != self._part[:2]:
            self._batcher.take()
            self._part = _Part(first, stop, first)
        while self._part.next < stop:
            reader, at = await self._arrived(self._part.next)
            if reader is None:
                return False
            part = slice(at, min(at + stop - self._part.next, reader.window.num_samples))
            await self._decode(await reader.read(part, self._reads, self._fetched))
            self._part = self._part._replace(next=self._part.next + part.stop - part.start)
        return True

    def take(self) -> MiniBatch:
        """What was prepared; samples that are missing, unlabelled or undecodable are left out."""
        self._part = _NO_PART
        return self._batcher.take()

    async def train(self, plan: CachePlan, first_sample: int = 0) -> AsyncGenerator[tuple[MiniBatch, int], None]:
        """The mini-batches of the plan just drawn from its `first_sample`-th sample on.

        Yields (batch, index of the next sample in the epoch): with that index another process goes on exactly there.
        All batches are full but the last. Samples that are missing, unlabelled or undecodable are left out.
        Cancelled, it forgets what it fetched.
        """
        index, at = await run_in_worker(plan.locate, first_sample)
        self.begin(plan, first_sample)
        async with aclosing(self._batches(_Place(plan.epoch, False, index), at, first_sample)) as batches:
            async for batch in batches:
                yield batch

    async def held_out(self) -> AsyncGenerator[MiniBatch, None]:
        """The mini-batches of the present plan's held-out samples, in a fixed order."""
        assert self._present is not None, "draw() first"
        async with aclosing(self._batches(_Place(self._present.plan.epoch, True, 0), 0, 0)) as batches:
            async for batch, _ in batches:
                yield batch

    def learn(self, ids: Ids, learnt: Learnt) -> None:
        """Take in what a step told of samples `ids`, int64 [n]."""
        assert self._present is not None, "draw() first"
        self._chooser.learn(self._present.plan.snapshot, ids, learnt)

    @property
    def num_samples(self) -> int:
        """Samples to train on in the present epoch, about."""
        assert self._present is not None, "draw() first"
        return self._present.supply.num_samples

    async def end(self) -> None:
        """All of the epoch is trained on: note for the next one what it needs of this, and say what the reads came to.

        Durable when it returns.
        """
        assert self._present is not None, "draw() first"
        await self._note()
        reads = self._reads
        logger().info(
            "cache.epoch",
            epoch=self._present.plan.epoch,
            reads=reads.num_reads,
            hit_ratio=round(reads.hit_ratio, 4),
            fresh_hit_ratio=round(reads.fresh_hit_ratio, 4),
            distinct_samples=reads.num_distinct,
            effective_samples=round(reads.effective_sample_size),
            fetched_samples=self._fetched.samples,
            fetched_bytes=self._fetched.num_bytes,
            wait_s=round(self.wait_s - self._begun.waited, 3),
            memory_bytes=self._cache.memory_bytes,
            disk_bytes=self._cache.disk_bytes,
            written_bytes=self._cache.written_bytes,
            corrupt=self._cache.num_corrupt,
        )

    async def _batches(self, place: _Place, at: int, sample: int) -> AsyncGenerator[tuple[MiniBatch, int], None]:
        """Batches from `place` to the end of its kind; `at`: where in the first window, `sample`: its index."""
        batcher = self._batcher
        batcher.take()  # what a cancelled iteration left
        self._part = _NO_PART
        self._leave()
        assert self._present is not None, "draw() first"
        if place.held_out:  # which is no training
            reads, fetched = EpochReads(self._present.plan.snapshot.num_samples), Fetched()
        else:
            reads, fetched = self._reads, self._fetched
        try:
            while (reader := await self._open(place, fetched)) is not None:
                while at < reader.window.num_samples:
                    await self._look_ahead(place)
                    part = slice(at, min(at + batcher.num_free, reader.window.num_samples))
                    await self._decode(await reader.read(part, reads, fetched))
                    sample, at = sample + part.stop - at, part.stop
                    if not batcher.num_free:
                        yield batcher.take(), sample
                self._leave()
                place, at = place._replace(window=place.window + 1), 0
        finally:
            self._leave()
        if len(batch := batcher.take()):
            yield batch, sample
        self._report_skipped()

    async def _arrived(self, sample: int) -> tuple[WindowReader | None, int]:
        """The window with the plan's `sample`-th draw, None while it is on its way, and the draw's place in it."""
        assert self._present is not None, "draw() first"
        plan = self._present.plan
        index, at = await run_in_worker(plan.locate, sample)
        place = _Place(plan.epoch, False, index)
        if place != self._place_in_use:
            self._leave()
            while self._ahead and self._ahead[0][0] < place:
                self._ahead.popleft()[1].close()
            if not self._ahead or self._ahead[0][0] != place:
                window = await self._window(place)
                assert window is not None, "the plan has fewer samples"
                self._forget_ahead()
                await self._ask(place, window)
            await self._client.drain()
            if not self._ahead[0][1].is_here:
                return None, at
            await self._open(place, self._fetched)
            self._place_in_use = place
        await self._look_ahead(place)
        return self._in_use, at

    async def _decode(self, samples: Sequence[Encoded]) -> None:
        """Put samples into the batch, and count the time that training has to stand by for it."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await run_in_worker(self._batcher.add, samples)
        self.decode_s += loop.time() - begin

    async def _open(self, place: _Place, fetched: Fetched) -> WindowReader | None:
        """The window at `place`, all of it here or in the cache; None behind the last one of its kind."""
        if not self._ahead or self._ahead[0][0] != place:
            window = await self._window(place)
            if window is None:
                return None
            self._forget_ahead()
            await self._ask(place, window)
        _, self._in_use = self._ahead.popleft()
        await self._in_use.arrive(fetched)
        return self._in_use

    def _leave(self) -> None:
        """Done with the window in use."""
        if self._in_use is not None:
            self._in_use.close()
            self._in_use = None
        self._place_in_use = None

    async def _look_ahead(self, place: _Place) -> None:
        """Move on what is on its way, and ask for what comes after `place`: one window, and more while they fit.

        Small windows, such as the held-out samples between two epochs, would else be too short a time for the next.
        """
        await self._client.drain()
        while len(self._ahead) < _MOST_AHEAD:
            following = await self._following(self._ahead[-1][0] if self._ahead else place)
            if following is None:
                return
            window_bytes = following[1].fetch.num_bytes
            if self._ahead and self._planned_bytes + window_bytes > self._settings.prefetch_bytes:
                return
            await self._ask(*following)

    @property
    def _planned_bytes(self) -> int:
        """What the windows in use and on their way will hold."""
        in_use = 0 if self._in_use is None else self._in_use.num_planned_bytes
        return in_use + sum(reader.num_planned_bytes for _, reader in self._ahead)

    async def _following(self, place: _Place) -> tuple[_Place, CachedWindow] | None:
        """The next window with samples, in the next epoch if need be; None when none is known yet."""
        while True:
            place = place._replace(window=place.window + 1)
            window = await self._window(place)
            if window is not None and window.num_samples:
                return place, window
            if window is None and not place.held_out:
                place = _Place(place.epoch, True, -1)
            elif window is None:
                if not await self._is_drawn(place.epoch + 1):
                    return None
                place = _Place(place.epoch + 1, False, -1)

    async def _is_drawn(self, epoch: int) -> bool:
        """Whether the plan of `epoch`, which follows on the present one, is here; sees to it that it will be."""
        assert self._present is not None
        if epoch == self._settings.epochs or epoch != self._present.plan.epoch + 1 or self._chooser.is_scored:
            return False
        if self._next_snapshot is None:
            self._next_snapshot = SnapshotFetch(None)
            await self._client.ask(self._next_snapshot)
        elif self._next is None and self._next_snapshot.is_complete:
            await self._note()
            self._next = await self._plan(epoch, self._next_snapshot)
        return self._next is not None

    def _source(self, place: _Place) -> _Epoch:
        source = self._next if self._next is not None and self._next.plan.epoch == place.epoch else self._present
        assert source is not None, "draw() first"
        return source

    async def _window(self, place: _Place) -> CachedWindow | None:
        return await run_in_worker(self._source(place).window, place)

    async def _ask(self, place: _Place, window: CachedWindow) -> None:
        before = [reader for _, reader in self._ahead] + ([self._in_use] if self._in_use is not None else [])
        coming = np.concatenate([np.zeros(0, np.int64), *(reader.arrivals() for reader in before)])
        reader = WindowReader(
            window, self._source(place).supply, self._client, self._cache, self._settings.window_bytes
        )
        self._ahead.append((place, reader))
        await reader.ask(coming)

    def _forget_ahead(self) -> None:
        while self._ahead:
            self._ahead.pop()[1].close()

    async def _draw(self, epoch: int, ends: Mapping[str, int] | None) -> _Epoch:
        is_said = False
        fetch = self._next_snapshot
        if ends is not None and not (fetch is not None and fetch.is_complete and fetch.snapshot().ends == ends):
            fetch = None
        while True:
            if fetch is None:
                fetch = SnapshotFetch(None if ends is None else dict(ends))
                await self._client.ask(fetch)
            await self._client.wait(fetch)
            drawn = await self._plan(epoch, fetch)
            if drawn is not None:
                return drawn
            if not is_said:
                logger().info("epoch.empty", epoch=epoch)
                is_said = True
            fetch, ends = None, None
            await self._client.pause(EMPTY_RETRY_S)

    async def _plan(self, epoch: int, fetch: SnapshotFetch) -> _Epoch | None:
        """The epoch over what was fetched; None when there is nothing to train on."""
        settings = self._settings
        snapshot = await run_in_worker(fetch.snapshot)
        supplied = supply(snapshot, settings.test_fraction)
        if await run_in_worker(lambda: supplied.is_empty):
            return None
        held_out = await run_in_worker(
            partial(
                sampling.held_out_windows,
                snapshot,
                test_fraction=settings.test_fraction,
                window_bytes=self._chooser.test_window_bytes,
                most_samples=settings.test_samples,
            )
        )
        held_out = await run_in_worker(self._chooser.tested, supplied, held_out)
        return _Epoch(await self._chooser.plan(epoch, snapshot), supplied, held_out)

    async def _note(self) -> None:
        """Tell the chooser how the present epoch went, as far as it has come, and how fetching went since last told.

        Much of an epoch is fetched before it begins: what it took from there on would make the link look fast.
        """
        assert self._present is not None
        taken, begun, reads = self._time(), self._begun, self._reads
        computing_s = taken.now - begun.now - (taken.waited - begun.waited)
        epoch, noted = self._noted
        if epoch != self._present.plan.epoch:
            self._noted = self._present.plan.epoch, taken
        num_fetched = taken.fetched - noted.fetched
        fetch_s = (taken.fetching - noted.fetching) / max(num_fetched, 1)
        if num_fetched and taken.now > begun.now:
            self._cache.measured(fetch_s, reads.num_reads / (taken.now - begun.now))
        await self._chooser.close(self._present.plan, compute_s=computing_s / max(reads.num_reads, 1), fetch_s=fetch_s)

    def _time(self) -> _Stopwatch:
        client = self._client
        return _Stopwatch(asyncio.get_running_loop().time(), self.wait_s, client.fetching_s, client.num_fetched)

    def _report_skipped(self) -> None:
        counts = (self._batcher.num_unlabelled, self._batcher.num_undecodable)
        unlabelled, undecodable = (now - before for now, before in zip(counts, self._skipped, strict=True))
        if unlabelled or undecodable:
            assert self._present is not None
            epoch = self._present.plan.epoch
            say = logger().warning if undecodable else logger().info  # a device need not know the label
            say("epoch.skipped", epoch=epoch, unlabelled=unlabelled, undecodable=undecodable)
        self._skipped = counts
