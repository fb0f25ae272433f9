"""An epoch's mini-batches, from cache and archive, in the plan's order.

Covers filling batches, and a job's view of its epochs. While a window is read, the next ones are on their way: those of
training, then those of the held-out samples, then the first of the next epoch, so that the trainer seldom waits between
two epochs either. See also: `plans` for drawing epochs, `prefetch` for what is asked for ahead, `stats` for the line at
an epoch's end.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from edged.aio import run_in_worker
from edged.domain.archive.snapshot import Snapshot
from edged.domain.epochs.plan import CachePlan
from edged.domain.samples.address import ArchivedAddress
from edged.log import logger
from edged.services.archive.client import ArchiveClient
from edged.services.batches.batcher import Batcher, Encoded, MiniBatch
from edged.services.batches.left_out import LeftOut
from edged.services.cache.shared import CacheShare
from edged.services.epochs.planner import EpochPlanner
from edged.services.epochs.plans import EpochPlans, WindowPosition
from edged.services.epochs.prefetch import Prefetcher
from edged.services.epochs.stats import EpochStats

_READ_BYTES = 1 << 20
"""What is read at once, where that is several mini-batches."""


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


class EpochLoader:
    """A training job's view of archive and cache. Used by one task, inside `open()`.

    For each epoch: `draw` its plan and `begin` to read it; then either `read` until it returns None, to assemble
    mini-batches of it in `batcher`, or `prepare` and `take` ranges of samples of the caller's choice, without waiting
    (what a group's steps need); `end`, and `held_out`. A cancelled call leaves a batch half filled: `draw` and `begin`
    again.

    Memory: two windows, their plan's blocks and two mini-batches, besides what the cache holds.
    """

    def __init__(
        self, client: ArchiveClient, batcher: Batcher, settings: EpochSettings, share: CacheShare, planner: EpochPlanner
    ) -> None:
        self._client = client
        self.batcher = batcher
        self._share = share
        self._stats = EpochStats(client, share)
        self._plans = EpochPlans(
            client,
            planner,
            self._stats,
            epochs=settings.epochs,
            test_fraction=settings.test_fraction,
            test_samples=settings.test_samples,
        )
        self._windows = Prefetcher(
            client, share, self._plans, prefetch_bytes=settings.prefetch_bytes, window_bytes=settings.window_bytes
        )
        self._skipped = (0, 0, 0)
        self._left_out = LeftOut()
        self._range = (-1, -1)  # that is being prepared
        self._sample = 0  # the next one to read
        self._max_at_once = 1
        self._at: tuple[WindowPosition, int] | None = None  # where it is, if known
        self.decode_s = 0.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect; waits for the log."""
        async with self._client.open():
            try:
                yield
            finally:
                self._windows.close()

    def leave(self) -> None:
        """No more epochs will be drawn: other jobs may have this one's part of the cache."""
        self._share.leave()

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting for the archive since start."""
        return self._client.wait_s

    @property
    def is_waiting(self) -> bool:
        return self._client.is_waiting

    @property
    def num_decoded(self) -> int:
        """Samples so far, within a mini-batch too."""
        return self.batcher.num_decoded

    @property
    def num_bytes(self) -> int:
        """Bytes of the windows in memory."""
        return self._windows.num_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache's memory tier."""
        return self._share.cache.memory_bytes

    async def draw(self, epoch: int, ends: Mapping[str, int] | None = None) -> CachePlan:
        """The plan of `epoch` over the archive as it is now, or as it was at `ends`.

        Waits until the archive has anything to train on.
        """
        if self._plans.is_next(epoch, ends):
            self._windows.leave()
        else:
            self._windows.close()  # of another plan, after a rollback
            await self._plans.draw(epoch, ends)
        return self._plans.move_on().plan

    async def pause(self, seconds: float) -> None:
        """Wait, for the archive to have something else."""
        await self._client.pause(seconds)

    def has_drawn(self, epoch: int) -> bool:
        """Whether the present plan is that epoch's."""
        return self._plans.is_present(epoch)

    async def survey(self, useless: Mapping[str, int] | None = None) -> Snapshot | None:
        """The archive as it is now; None while that is not known yet, or while there is nothing to train on.

        `useless`: its ends when that was so. Does not wait for the reply: call it again.
        """
        return await self._plans.survey(useless)

    async def look_ahead(self) -> bool:
        """After the present epoch's last window: ask for the next epoch's first ones, if it can be drawn ahead.

        False while it is not known what the archive has. Does not wait for the reply: call it again.
        """
        present = self._plans.present
        await self._windows.look_ahead(WindowPosition(present.plan.epoch, True, len(present.held_out)))
        return self._plans.is_surveyed

    async def begin(self, plan: CachePlan, first_sample: int = 0) -> None:
        """Read the plan just drawn, from its `first_sample`-th sample on."""
        logger().info(
            "epoch.drawn",
            epoch=plan.epoch,
            blocks=plan.snapshot.num_blocks,
            samples=self.num_samples,
            quarantined=int((plan.snapshot.rows - plan.snapshot.usable_rows).sum()),
            first_sample=first_sample,
        )
        await self._rewind(first_sample)
        split = self._plans.present.train_split
        sample_bytes = split.num_bytes // max(split.num_samples, 1)
        self._max_at_once = max(_READ_BYTES // max(sample_bytes, 1), self.batcher.num_free)
        self._stats.begin(self._plans.present.reads)

    async def is_here(self) -> bool:
        """Whether `read` would not wait for the archive: the next samples have arrived, or there are none."""
        return await self._windows.is_here((await self._locate(held_out=False))[0])

    async def read(self, num_samples: int) -> Sequence[Encoded] | None:
        """The next samples of the plan begun: at most `num_samples`, of one window, in little memory; None at the end.

        Those that the archive does not have are empty.
        """
        return await self._read(min(num_samples, self._max_at_once), held_out=False)

    async def prepare(self, first: int, stop: int) -> bool:
        """Begin to decode samples `first` to `stop` - 1 of the plan begun, for `take`: at most a mini-batch of them.

        False when some are still on their way: call it again to resume. Samples before `first` are skipped: they are
        neither fetched nor decoded if they are not yet, and there is no way back.
        """
        if (first, stop) != self._range:
            await self._rewind(first)
            self._range = (first, stop)
        while self._sample < stop:
            if not await self._add(stop - self._sample, wait=False):
                return False
        return True

    async def take(self) -> MiniBatch:
        """What was prepared, without samples that are missing, unlabelled or undecodable."""
        await self._finish()
        self._range = (-1, -1)
        return self.batcher.take()

    async def held_out(self) -> AsyncGenerator[MiniBatch, None]:
        """The mini-batches of the present plan's held-out samples, in a fixed order."""
        await self._rewind(0)
        try:
            while (batch := await self._next_held_out()) is not None:
                yield batch
        finally:
            self._windows.leave()

    @property
    def num_samples(self) -> int:
        """Samples to train on in the present epoch, about."""
        return self._plans.present.train_split.num_samples

    async def end(self) -> None:
        """The epoch is trained on: record what the next one needs of it, and log its statistics.

        Durable when it returns.
        """
        self._log_skipped()
        await self._plans.close()
        self._stats.log(self._plans.present.plan)

    @property
    def num_left_out(self) -> int:
        """Samples left out of training so far because they, or their losses, were not finite or could not be read."""
        return self._left_out.num_samples

    def leave_out(self, sample: int, reason: str, detail: str = "") -> None:
        """A sample of the present plan's snapshot, by its id, is left out: name and count it."""
        self._left_out.add(self.address(sample), reason, detail)

    def address(self, sample: int) -> ArchivedAddress:
        """The address of a sample of the present plan's snapshot."""
        snapshot = self._plans.present.plan.snapshot
        (block,), (row,) = snapshot.locate(np.array([sample]))
        return ArchivedAddress(self._client.address.stream, *snapshot.ref(int(block)), int(row))

    async def _rewind(self, sample: int) -> None:
        if self.batcher.num_filled or self.batcher.is_filling:  # what a cancelled call left
            await run_in_worker(self.batcher.drop)
        self._range, self._sample, self._at = (-1, -1), sample, None

    async def _next_held_out(self) -> MiniBatch | None:
        while self.batcher.num_free and await self._add(self.batcher.num_free, held_out=True):
            await self._finish()
        if len(batch := self.batcher.take()):
            return batch
        self._log_skipped()
        return None

    async def _add(self, max_samples: int, *, held_out: bool = False, wait: bool = True) -> bool:
        """Begin to decode the next samples, at most `max_samples` and of one window, into the batch.

        False when there are no more; without `wait`, also while they are on their way.
        """
        await self._finish()
        samples = await self._read(max_samples, held_out=held_out, wait=wait)
        if samples is None:
            return False
        await run_in_worker(self.batcher.hand_out, samples)
        return True

    async def _finish(self) -> None:
        """Wait for what is being decoded."""
        if not self.batcher.is_filling:
            return
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await run_in_worker(self.batcher.finish)
        self.decode_s += loop.time() - begin  # training stands by meanwhile
        for each in self.batcher.take_unusable():
            self.leave_out(*each)

    async def _read(self, max_samples: int, *, held_out: bool, wait: bool = True) -> Sequence[Encoded] | None:
        """The next samples, at most `max_samples` and of one window.

        None when there are no more; without `wait`, also while they are on their way.
        """
        position, at = await self._locate(held_out=held_out)
        reader = await self._windows.open(position, wait=wait)
        if reader is None:
            return None
        part = slice(at, min(at + max_samples, reader.window.num_samples))
        samples = await reader.read(part)
        self._sample += part.stop - part.start
        self._at = (position, part.stop) if part.stop < reader.window.num_samples else None
        return samples

    async def _locate(self, *, held_out: bool) -> tuple[WindowPosition, int]:
        """The window of the next sample, and its index in it."""
        if self._at is None:
            self._at = await run_in_worker(self._plans.present.locate, self._sample, held_out)
        return self._at

    def _log_skipped(self) -> None:
        batcher = self.batcher
        counts = (batcher.num_unlabelled, batcher.num_undecodable, batcher.num_not_finite)
        unlabelled, undecodable, not_finite = (now - before for now, before in zip(counts, self._skipped, strict=True))
        if any((unlabelled, undecodable, not_finite)):
            epoch = self._plans.present.plan.epoch
            log = logger().warning if undecodable or not_finite else logger().info  # a device need not know the label
            log("epoch.skipped", epoch=epoch, unlabelled=unlabelled, undecodable=undecodable, not_finite=not_finite)
        self._skipped = counts
