"""What Kafka still has of the packs that are archived: deletes it where it may, and says how much it is.

Packs are kept until they are archived, whatever their age, so somebody has to delete them. What the newest file of a
source holds is never deleted: the edge and the archiver know from the last pack where they are, and a damaged newest
file is archived again. Of a log that has become another one nothing is deleted. See also: `archiver`, which says what
is durable.
"""

import asyncio
from collections.abc import Mapping, Sequence

from edged.domain.place import is_continued
from edged.errors import LogRefused
from edged.log import logger
from edged.ports import Health, Log, Progress, Statistics, TopicPartition
from edged.services.archive.archiver import Archiver, Durable, Source

PART = "archive_topics"
"""Its part in `ports.Health`."""

MANY_BYTES = 4 << 30
"""Archived bytes in Kafka that are worth a word to people; then again at each doubling."""


class Trimming:
    """Looks at the sources' topics every `every_s`. `trims`: whether it may delete."""

    def __init__(
        self, log: Log, archiver: Archiver, sources: Sequence[Source], health: Health, *, trims: bool, every_s: float
    ) -> None:
        self._log = log
        self._archiver = archiver
        self._source_of = {TopicPartition(source.topic): source for source in sources}
        self._health = health
        self._trims = trims
        self._every_s = every_s
        self._kept_bytes = 0
        self._num_looks = 0

    async def run(self) -> None:
        """Look until cancelled. Cancelled: what is deleted is deleted."""
        while True:
            await asyncio.sleep(self._every_s)
            await self._look()
            self._num_looks += 1

    def progress(self) -> Progress:
        """Idle always: it waits for its time, or for Kafka."""
        return Progress(self._num_looks, idle=True)

    def statistics(self) -> Statistics:
        """About how many payload bytes of archived packs Kafka has."""
        return Statistics(kept_bytes=self._kept_bytes)

    async def _look(self) -> None:
        durable = self._archiver.durable()
        seen = await self._log.resume({each: durable[each].place for each in durable})
        durable = {each: durable[each] for each in durable if is_continued(durable[each].place, seen[each])}
        marks = await self._log.watermarks(durable)
        low = {partition: marks[partition].low for partition in durable}
        refusal = ""
        if self._trims:
            ours = self._archiver.durable()  # another archive node may have taken over some
            before = {each: durable[each].first for each in durable if low[each] < durable[each].first and each in ours}
            try:
                low |= await self._trim(before, low) if before else {}
            except LogRefused as error:
                refusal = str(error)
        self._kept_bytes = sum(_about(durable[each], low[each]) for each in durable)
        self._report(refusal)

    async def _trim(
        self, before: Mapping[TopicPartition, int], low: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, int]:
        """The topics' new beginnings."""
        begin = await self._log.trim(before)
        for each, offset in begin.items():
            source = self._source_of[each]
            logger().info(
                "archive.trimmed", stream=source.stream, source=source.edge, first_offset=low[each], next_offset=offset
            )
        return begin

    def _report(self, refusal: str) -> None:
        if refusal:
            self._health.degraded(PART, f"archived packs stay in Kafka: {refusal}", awaited=False)
        elif self._kept_bytes >= MANY_BYTES:
            least = MANY_BYTES << (self._kept_bytes // MANY_BYTES).bit_length() - 1
            reason = (
                f"Kafka holds over {least >> 30} GiB of archived packs; the archive node deletes them with `trim: true`"
            )
            self._health.degraded(PART, reason, awaited=False)
        else:
            self._health.recovered(PART)


def _about(durable: Durable, low: int) -> int:
    """Bytes from `low` on of what is durable, by the mean size of a pack."""
    return max(0, durable.place.offset - low) * durable.num_bytes // durable.packs
