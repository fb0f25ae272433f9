"""An epoch's mini-batches, from the cache and from the archive, in the plan's order.

Covers filling batches, and a job's view of its epochs. The order is domain.cache_modes' subject, drawing plans
`epoch_plans`', what is on its way `window_queue`'s: the next window of training, then those of the held-out samples,
then the first of the next epoch, so that the trainer seldom waits at a boundary either. What an epoch came to is
`epoch_account`'s.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from edged.aio import run_in_worker
from edged.domain.archive.snapshot import Ids, Snapshot
from edged.domain.epochs.plan import CachePlan
from edged.domain.epochs.read_stats import ReadStats
from edged.domain.training.learner import BatchResult
from edged.log import logger
from edged.services.archive.client import ArchiveClient
from edged.services.batches.batcher import Batcher, Encoded, MiniBatch
from edged.services.cache.shared import CacheShare
from edged.services.epochs.planner import EpochPlanner
from edged.services.epochs.plans import EpochPlans, Place
from edged.services.epochs.prefetch import Prefetcher
from edged.services.epochs.stats import EpochStats
from edged.services.epochs.window_reader import Fetched, WindowReader


@dataclass(frozen=True, slots=True)
class EpochSettings:
    """`prefetch_bytes`: for two windows together, the one in use and the one on its way."""

    epochs: int
    test_fraction: float
    test_samples: int
    prefetch_bytes: int

    @property
    def window_bytes(self) -> int:
        return self.prefetch_bytes // 2


class _Part(NamedTuple):
    """Some of a plan's samples, `first` to `stop` - 1, of which those before `next` are decoded."""

    first: int
    stop: int
    next: int


_NO_PART = _Part(-1, -1, -1)


class EpochLoader:
    """The training job's view of archive and cache. Used by one task, inside `open()`.

    Memory: two windows, their plan's blocks and two mini-batches, beside what the cache holds.
    """

    def __init__(
        self, client: ArchiveClient, batcher: Batcher, settings: EpochSettings, cache: CacheShare, chooser: EpochPlanner
    ) -> None:
        self._client = client
        self._batcher = batcher
        self._cache = cache
        self._chooser = chooser
        self._account = EpochStats(client, cache, chooser)
        self._plans = EpochPlans(
            client,
            chooser,
            self._account,
            epochs=settings.epochs,
            test_fraction=settings.test_fraction,
            test_samples=settings.test_samples,
        )
        self._windows = Prefetcher(
            client, cache, self._plans, prefetch_bytes=settings.prefetch_bytes, window_bytes=settings.window_bytes
        )
        self._skipped = (0, 0)
        self._part = _NO_PART
        self.decode_s = 0.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect; waits for the log."""
        async with self._client.open():
            try:
                yield
            finally:
                self._windows.forget_ahead()

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
        return self._windows.num_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache's memory tier."""
        return self._cache.memory_bytes

    async def draw(self, epoch: int, ends: Mapping[str, int] | None = None) -> CachePlan:
        """The plan of `epoch` over the archive as it is now, or as it was at `ends`.

        Waits until the archive has anything to train on.
        """
        if not self._plans.is_next(epoch, ends):
            self._windows.forget_ahead()  # of another plan, after going back
            self._windows.leave()
            await self._plans.draw(epoch, ends)
        self._part = _NO_PART
        return self._plans.move_on().plan

    def has_drawn(self, epoch: int) -> bool:
        """Whether the present plan is that epoch's."""
        return self._plans.is_present(epoch)

    async def survey(self) -> Snapshot | None:
        """The archive as it is now; None while that is not known yet, or as long as there is nothing to train on.

        Waits for nothing but a request's way into the log: call it again.
        """
        return await self._plans.survey()

    async def look_ahead(self) -> bool:
        """Behind the present epoch's last window: ask for the next epoch's first ones, if it can be drawn ahead.

        False while it is not known what the archive has. Waits for nothing but a request's way into the log: call it
        again.
        """
        present = self._plans.present
        await self._windows.look_ahead(Place(present.plan.epoch, True, len(present.held_out)))
        return self._plans.is_surveyed

    def begin(self, plan: CachePlan, first_sample: int = 0) -> None:
        """The plan just drawn is used from its `first_sample`-th sample on."""
        logger().info(
            "epoch.drawn",
            epoch=plan.epoch,
            blocks=plan.snapshot.num_blocks,
            samples=self.num_samples,
            first_sample=first_sample,
        )
        self._account.begin(plan)

    async def prepare(self, first: int, stop: int) -> bool:
        """Decode samples `first` to `stop` - 1 of the plan begun, for `take`; at most as many as a mini-batch has.

        False when some are still on their way: call it again, it goes on there. Samples before `first` are passed over,
        neither fetched nor decoded if they are not yet; there is no way back.
        """
        account = self._account
        if (first, stop) != self._part[:2]:
            self._batcher.take()
            self._part = _Part(first, stop, first)
        while self._part.next < stop:
            reader, at = await self._arrived(self._part.next)
            if reader is None:
                return False
            part = slice(at, min(at + stop - self._part.next, reader.window.num_samples))
            await self._decode(await reader.read(part, account.reads, account.fetched))
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
        async with aclosing(self._batches(Place(plan.epoch, False, index), at, first_sample)) as batches:
            async for batch in batches:
                yield batch

    async def held_out(self) -> AsyncGenerator[MiniBatch, None]:
        """The mini-batches of the present plan's held-out samples, in a fixed order."""
        async with aclosing(self._batches(Place(self._plans.present.plan.epoch, True, 0), 0, 0)) as batches:
            async for batch, _ in batches:
                yield batch

    def learn(self, ids: Ids, learnt: BatchResult) -> None:
        """Take in what a step told of samples `ids`, int64 [n]."""
        self._chooser.learn(self._plans.present.plan.snapshot, ids, learnt)

    def learnt(self) -> bytes | None:
        """What `learn` took in in the present epoch and before, for `recall`; None before a plan is drawn."""
        return self._chooser.learnt()

    def recall(self, learnt: bytes) -> None:
        """Go on with what an earlier process had `learnt` by this place in the present epoch."""
        self._chooser.recall(self._plans.present.plan, learnt)

    @property
    def num_samples(self) -> int:
        """Samples to train on in the present epoch, about."""
        return self._plans.present.train_split.num_samples

    async def end(self) -> None:
        """All of the epoch is trained on: note for the next one what it needs of this, and say what the reads came to.

        Durable when it returns.
        """
        plan = self._plans.present.plan
        await self._account.note(plan)
        self._account.log(plan)

    async def _batches(self, place: Place, at: int, sample: int) -> AsyncGenerator[tuple[MiniBatch, int], None]:
        """Batches from `place` to the end of its kind; `at`: where in the first window, `sample`: its index."""
        batcher, windows = self._batcher, self._windows
        batcher.take()  # what a cancelled iteration left
        self._part = _NO_PART
        windows.leave()
        if place.held_out:  # which is no training
            reads, fetched = ReadStats(self._plans.present.plan.snapshot.num_samples), Fetched()
        else:
            reads, fetched = self._account.reads, self._account.fetched
        try:
            while (reader := await windows.open(place, fetched)) is not None:
                while at < reader.window.num_samples:
                    await windows.look_ahead(place)
                    part = slice(at, min(at + batcher.num_free, reader.window.num_samples))
                    await self._decode(await reader.read(part, reads, fetched))
                    sample, at = sample + part.stop - at, part.stop
                    if not batcher.num_free:
                        yield batcher.take(), sample
                windows.leave()
                place, at = place._replace(window=place.window + 1), 0
        finally:
            windows.leave()
        if len(batch := batcher.take()):
            yield batch, sample
        self._report_skipped()

    async def _arrived(self, sample: int) -> tuple[WindowReader | None, int]:
        """The window with the plan's `sample`-th draw, None while it is on its way, and the draw's place in it."""
        plan = self._plans.present.plan
        index, at = await run_in_worker(plan.locate, sample)
        return await self._windows.arrived(Place(plan.epoch, False, index), self._account.fetched), at

    async def _decode(self, samples: Sequence[Encoded]) -> None:
        """Put samples into the batch, and count the time that training has to stand by for it."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await run_in_worker(self._batcher.add, samples)
        self.decode_s += loop.time() - begin

    def _report_skipped(self) -> None:
        counts = (self._batcher.num_unlabelled, self._batcher.num_undecodable)
        unlabelled, undecodable = (now - before for now, before in zip(counts, self._skipped, strict=True))
        if unlabelled or undecodable:
            epoch = self._plans.present.plan.epoch
            log = logger().warning if undecodable else logger().info  # a device need not know the label
            log("epoch.skipped", epoch=epoch, unlabelled=unlabelled, undecodable=undecodable)
        self._skipped = counts
