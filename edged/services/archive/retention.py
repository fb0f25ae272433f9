"""What the archive forgets: looks at intervals which of its oldest files are beyond their stream's limits.

Each node of several looks after its own sources, by the same rule over all. See also: `domain.archive.retention` (the
rule), `trimming` (what Kafka keeps of what is archived).
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing

from edged.aio import prefetch_in_worker
from edged.domain import topology
from edged.domain.archive.retention import Limits, Spared
from edged.errors import ArchiveUnavailable, StorageError
from edged.ports import Health, Progress, RetainedArchive, Statistics, TopicPartition
from edged.services.archive.archiver import Source
from edged.services.archive.sharing import Share

PART = "archive_retention"
"""Its part in `ports.Health`."""


class Retention:
    """Looks at all streams every `every_s`; what the store forgets and deletes is told there."""

    def __init__(
        self,
        store: RetainedArchive,
        health: Health,
        retention: Callable[[], topology.Retention],
        sources: Sequence[Source],
        streams: Collection[str],
        requests: TopicPartition,
        share: Share,
        *,
        every_s: float,
    ) -> None:
        """`retention`: as the topology has it now. `requests`: whose node looks after what is no edge's, too."""
        self._store = store
        self._health = health
        self._retention = retention
        self._topic_of: Mapping[tuple[str, str], TopicPartition] = {
            (source.stream, source.edge): TopicPartition(source.topic) for source in sources
        }
        self._streams = streams
        self._requests = requests
        self._share = share
        self._every_s = every_s
        self._num_steps = 0

    async def run(self) -> None:
        """Look until cancelled. Cancelled: a step is finished; the rest is begun again after a restart."""
        while True:
            await asyncio.sleep(self._every_s)
            with self._share.work():
                await self._look()

    def progress(self) -> Progress:
        """Idle always: it waits for its time, or for the storage."""
        return Progress(self._num_steps, idle=True)

    def statistics(self) -> Statistics:
        return Statistics()

    async def _look(self) -> None:
        reasons: list[str] = []
        for stream in self._streams:
            kept = self._retention().of(stream)
            steps = self._store.retain(stream, Limits(kept.age_s, kept.size), self._is_ours(stream))
            try:
                async with aclosing(prefetch_in_worker(steps)) as done:
                    async for step in done:
                        self._num_steps += 1
                        reasons += [_reason(step)] if isinstance(step, Spared) else []
            except (ArchiveUnavailable, StorageError) as error:
                reasons.append(str(error))
        if reasons:
            self._health.degraded(PART, "; ".join(reasons[:3]), awaited=False)
        else:
            self._health.recovered(PART)

    def _is_ours(self, stream: str) -> Callable[[str], bool]:
        held, topic_of, requests = self._share.held, self._topic_of, self._requests
        return lambda source: topic_of.get((stream, source), requests) in held


def _reason(spared: Spared) -> str:
    return f"{'/'.join(filter(None, (spared.stream, spared.source)))}: {spared.reason}"
