"""Statistics of the present epoch: its reads, what was fetched for them, and how long both took.

Covers the line at its end, and the costs that the next plan is drawn by. See also: `read_stats` in the domain for
counting reads.
"""

import asyncio
from typing import NamedTuple

from edged.domain.epochs.plan import CachePlan
from edged.domain.epochs.read_stats import ReadStats
from edged.log import logger
from edged.services.archive.client import ArchiveClient
from edged.services.cache.shared import CacheShare


class _Times(NamedTuple):
    """Totals since start: the clock, seconds waited, seconds with a fetch under way, and the samples it brought."""

    now: float
    waited: float
    fetching: float
    fetched: int


class EpochStats:
    """Measures one epoch after the other. Used by one task."""

    def __init__(self, client: ArchiveClient, share: CacheShare) -> None:
        self._client = client
        self._share = share
        self._begun = self._costed = _Times(0.0, 0.0, 0.0, 0)
        self._reads = ReadStats(0)

    def begin(self, reads: ReadStats) -> None:
        """An epoch's samples are read from now on, counted in `reads`."""
        self._reads = reads
        self._begun = self._times()

    def costs(self) -> tuple[float, float]:
        """Seconds to train on one sample, in the epoch so far, and to fetch one, since the last call.

        Much of an epoch is fetched before it begins: the time from there on alone would make the link look fast.
        The cache's share records what its hits are worth.
        """
        now, begun, reads = self._times(), self._begun, self._reads
        seconds, num_fetched = now.now - begun.now, now.fetched - self._costed.fetched
        fetch_s = (now.fetching - self._costed.fetching) / max(num_fetched, 1)
        self._costed = now
        if num_fetched and seconds > 0:
            self._share.record_benefit(fetch_s, reads.num_reads / seconds)
        return (seconds - (now.waited - begun.waited)) / max(reads.num_reads, 1), fetch_s

    def log(self, plan: CachePlan) -> None:
        """Log the statistics of the plan's epoch."""
        reads, cache = self._reads, self._share.cache
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
            corrupt=cache.counts.corrupt,
        )

    def _times(self) -> _Times:
        client = self._client
        return _Times(asyncio.get_running_loop().time(), client.wait_s, client.fetching_s, client.num_fetched)
