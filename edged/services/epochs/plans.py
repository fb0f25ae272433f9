"""The plan of the present epoch and, as soon as it can be drawn, of the next, over the archive's snapshots.

Covers asking for snapshots and when to draw. See also: `planner` and `services.group.planner` for how samples are
chosen, `prefetch` for the order in which windows are asked for.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from edged.aio import run_in_worker
from edged.domain.archive.snapshot import Snapshot
from edged.domain.epochs import plan as cache_plan
from edged.domain.epochs.plan import CachedWindow, CachePlan
from edged.domain.epochs.read_stats import ReadStats
from edged.domain.epochs.split import TrainSplit, held_out_windows, train_split
from edged.domain.epochs.window import Window
from edged.log import logger
from edged.services.archive.client import ArchiveClient
from edged.services.archive.fetch import SnapshotFetch
from edged.services.epochs.planner import EpochPlanner
from edged.services.epochs.stats import EpochStats

EMPTY_RETRY_S = 5.0
"""Between two requests to an empty archive: half its default flush interval."""


class WindowPosition(NamedTuple):
    """A window's position in the run."""

    epoch: int
    held_out: bool
    window: int


@dataclass(frozen=True, eq=False, slots=True)
class DrawnEpoch:
    """A plan, what it draws from, the held-out windows, and the statistics of what is read by the plan."""

    plan: CachePlan
    train_split: TrainSplit
    held_out: tuple[Window, ...]
    reads: ReadStats

    def window(self, position: WindowPosition) -> CachedWindow | None:
        """The window at `position`; None after the last of its kind."""
        if not position.held_out:
            return self.plan.window(position.window)
        return cache_plan.uncached(self.held_out[position.window]) if position.window < len(self.held_out) else None

    def locate(self, sample: int, held_out: bool) -> tuple[WindowPosition, int]:  # noqa: FBT001 - of which kind
        """The window of the `sample`-th draw of its kind, and the draw's index in it; after the last, a next window."""
        if not held_out:
            index, at = self.plan.locate(sample)
            return WindowPosition(self.plan.epoch, False, index), at
        index = 0
        while index < len(self.held_out) and sample >= self.held_out[index].num_samples:
            sample -= self.held_out[index].num_samples
            index += 1
        return WindowPosition(self.plan.epoch, True, index), sample


class EpochPlans:
    """Draws the plans of `epochs` epochs by `planner`, with at most `test_samples` held-out samples. Used by one task.

    `stats`: of the present epoch; the planner needs its costs for the next one.
    """

    def __init__(
        self,
        client: ArchiveClient,
        planner: EpochPlanner,
        stats: EpochStats,
        *,
        epochs: int,
        test_fraction: float,
        test_samples: int,
    ) -> None:
        self._client = client
        self._planner = planner
        self._stats = stats
        self._epochs = epochs
        self._test_fraction = test_fraction
        self._test_samples = test_samples
        self._present: DrawnEpoch | None = None
        self._next: DrawnEpoch | None = None
        self._next_snapshot: SnapshotFetch | None = None
        self._is_closed = False
        self._empty_until = 0.0

    @property
    def present(self) -> DrawnEpoch:
        """The epoch being trained on."""
        assert self._present is not None, "draw() first"
        return self._present

    def is_present(self, epoch: int) -> bool:
        """Whether the present epoch is that one."""
        return self._present is not None and self._present.plan.epoch == epoch

    def is_next(self, epoch: int, ends: Mapping[str, int] | None) -> bool:
        """Whether the next epoch is that one, drawn, and over the archive as it was at `ends`, if given."""
        if self._next is None or self._next.plan.epoch != epoch:
            return False
        plan = self._next.plan
        return (ends is None or plan.snapshot.ends == ends) and self._planner.is_valid(plan)

    @property
    def is_surveyed(self) -> bool:
        """Whether it is known what the archive has for the next epoch."""
        return self._next_snapshot is not None and self._next_snapshot.is_complete

    def of(self, epoch: int) -> DrawnEpoch:
        """The next epoch if it is that one, else the present."""
        return self._next if self._next is not None and self._next.plan.epoch == epoch else self.present

    async def draw(self, epoch: int, ends: Mapping[str, int] | None) -> None:
        """Draw `epoch` as the next one, over the archive as it is now, or as it was at `ends`.

        Waits until the archive has anything to train on.
        """
        has_logged = False
        fetch = self._next_snapshot
        if ends is not None and not (fetch is not None and fetch.is_complete and fetch.snapshot().ends == ends):
            fetch = None
        while True:
            if fetch is None:
                fetch = SnapshotFetch(None if ends is None else dict(ends))
                await self._client.ask(fetch)
            await self._client.wait(fetch)
            self._next = await self._draw(epoch, fetch)
            if self._next is not None:
                return
            if not has_logged:
                logger().info("epoch.empty", epoch=epoch)
                has_logged = True
            fetch, ends = None, None
            await self._client.pause(EMPTY_RETRY_S)

    def move_on(self) -> DrawnEpoch:
        """Make the next epoch the present one."""
        assert self._next is not None, "draw() first"
        self._present, self._next, self._next_snapshot = self._next, None, None
        self._is_closed = False
        return self._present

    async def close(self) -> None:
        """Report to the planner, once, what the epoch has cost so far: when the next is drawn ahead, or at its end."""
        if not self._is_closed:
            compute_s, fetch_s = self._stats.costs()
            await self._planner.close(self.present.plan, compute_s=compute_s, fetch_s=fetch_s)
            self._is_closed = True

    async def survey(self, useless: Mapping[str, int] | None = None) -> Snapshot | None:
        """The archive as it is now; None while that is not known yet, or while there is nothing to train on.

        `useless`: its ends when that was so. Does not wait for the reply: call it again.
        """
        now = asyncio.get_running_loop().time()
        if self._next_snapshot is None and now >= self._empty_until:
            await self._ask_ahead()
        await self._client.drain()
        if self._next_snapshot is None or not self._next_snapshot.is_complete:
            return None
        snapshot = self._next_snapshot.snapshot()
        is_empty = await run_in_worker(lambda: train_split(snapshot, self._test_fraction).is_empty)
        if is_empty or snapshot.ends == useless:
            if is_empty and not self._empty_until:
                logger().info("epoch.empty", epoch=0 if self._present is None else self._present.plan.epoch + 1)
            self._next_snapshot, self._empty_until = None, now + EMPTY_RETRY_S
            return None
        return snapshot

    async def look_ahead(self, epoch: int) -> bool:
        """Whether the plan of `epoch` is drawn, if it is the next one; if not, take a step towards drawing it ahead."""
        present, planner = self.present.plan, self._planner
        if epoch == self._epochs or epoch != present.epoch + 1 or not planner.can_draw_ahead(present.snapshot):
            return False
        if self._next_snapshot is None:
            await self._ask_ahead()
        elif self._next is None and self._next_snapshot.is_complete:
            if not planner.can_draw_ahead(present.snapshot, self._next_snapshot.snapshot()):
                return False
            await self.close()
            self._next = await self._draw(epoch, self._next_snapshot)
        return self._next is not None

    async def _ask_ahead(self) -> None:
        self._next_snapshot = SnapshotFetch(None)
        await self._client.ask(self._next_snapshot)

    async def _draw(self, epoch: int, fetch: SnapshotFetch) -> DrawnEpoch | None:
        """The epoch over what was fetched; None when there is nothing to train on."""
        snapshot = fetch.snapshot()
        split = train_split(snapshot, self._test_fraction)
        if await run_in_worker(lambda: split.is_empty):
            return None
        held_out = await run_in_worker(
            partial(
                held_out_windows,
                snapshot,
                test_fraction=self._test_fraction,
                window_bytes=self._planner.test_window_bytes,
                max_samples=self._test_samples,
            )
        )
        held_out = await run_in_worker(self._planner.test_windows, split, held_out)
        return DrawnEpoch(await self._planner.plan(epoch, snapshot), split, held_out, ReadStats(snapshot.num_samples))
