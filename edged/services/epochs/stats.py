"""What the present epoch comes to: its reads, what was fetched for them, and how long both took.

Covers the line at its end, and what the chooser is told for the next plan. Counting is domain.reads' subject.
"""

import asyncio
from typing import NamedTuple

from edged.domain.epochs.plan import CachePlan
from edged.domain.epochs.read_stats import ReadStats
from edged.log import logger
from edged.services.archive.client import ArchiveClient
from edged.services.cache.shared import CacheShare
from edged.services.epochs.planner import EpochPlanner


class _Times(NamedTuple):
    """Seconds on the clock, waited and with something on its way since start, and how many samples came meanwhile."""

    now: float
    waited: float
    fetching: float
    fetched: int


class EpochStats:
    """Of one epoch after the other. Used by one task."""

    def __init__(self, client: ArchiveClient, cache: CacheShare, chooser: EpochPlanner) -> None:
        self._client = client
        self._cache = cache
        self._chooser = chooser
        self._begun = _Times(0.0, 0.0, 0.0, 0)
        self._noted = (-1, self._begun)
        self._reads = ReadStats(0)

    def begin(self, reads: ReadStats) -> None:
        """An epoch's samples are read from now on, counted in `reads`."""
        self._reads = reads
        self._begun = self._times()

    async def note(self, plan: CachePlan) -> None:
        """Tell the chooser how the plan's epoch went, as far as it has come, and how fetching went since last told.

        Much of an epoch is fetched before it begins: what it took from there on would make the link look fast.
        Durable when it returns.
        """
        taken, begun, reads = self._times(), self._begun, self._reads
        computing_s = taken.now - begun.now - (taken.waited - begun.waited)
        epoch, noted = self._noted
        if epoch != plan.epoch:
            self._noted = plan.epoch, taken
        num_fetched = taken.fetched - noted.fetched
        fetch_s = (taken.fetching - noted.fetching) / max(num_fetched, 1)
        if num_fetched and taken.now > begun.now:
            self._cache.record_benefit(fetch_s, reads.num_reads / (taken.now - begun.now))
        await self._chooser.close(plan, compute_s=computing_s / max(reads.num_reads, 1), fetch_s=fetch_s)

    def log(self, plan: CachePlan) -> None:
        """The line about the plan's epoch."""
        reads, cache = self._reads, self._cache
        logger().info(
            "cache.epoch",
            epoch=plan.epoch,
            reads=reads.num_reads,
            hit_ratio=round(reads.hit_ratio, 4),
            fresh_hit_ratio=round(reads.fresh_hit_ratio, 4),
            distinct_samples=reads.num_distinct,
            effective_samples=round(reads.effective_sample_size),
            fetched_samples=reads.num_fetched,
            fetched_bytes=reads.fetched_bytes,
            wait_s=round(self._client.wait_s - self._begun.waited, 3),
            memory_bytes=cache.memory_bytes,
            disk_bytes=cache.disk_bytes,
            written_bytes=cache.written_bytes,
            corrupt=cache.num_corrupt,
        )

    def _times(self) -> _Times:
        client = self._client
        return _Times(asyncio.get_running_loop().time(), client.wait_s, client.fetching_s, client.num_fetched)
