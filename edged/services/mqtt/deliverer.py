"""Reads the edge's predictions of one job as they come, and offers each to its device.

Covers reading and committing: the place where reading goes on, and in its note the devices that lag behind it.
Nothing here waits for a device. See also: `outbox`, `catch_up`, `sender`.

After a restart, reading goes on from the place, and again from where each device in the note was. A stop commits. After
a kill, what was acknowledged since the last commit is sent again: commits are a second apart while Kafka answers.
"""

import asyncio
import contextlib
from collections.abc import Callable

from edged.domain.mqtt.lag import from_note, to_note
from edged.domain.mqtt.way_back import LIFETIME_S
from edged.domain.place import Place, is_continued
from edged.domain.topology import Topology, Training
from edged.ports import Committed, Log, LogReader, Progress, TopicPartition
from edged.reading import first_since
from edged.services.mqtt.outboxes import Outboxes
from edged.services.mqtt.report import DeliveryReport, unix_ms
from edged.settings import Timing

_RECORDS_PER_POLL = 256
_COMMIT_S = 1.0
_LAST_COMMIT_S = 2.0
"""For the one at a stop: without it a second's predictions are sent again."""


class Deliverer:
    """Of one job's predictions at one edge."""

    def __init__(
        self,
        log: Log,
        topology: Topology,
        edge: str,
        job: Training,
        outboxes: Outboxes,
        *,
        report: DeliveryReport,
        timing: Timing,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._log = log
        self._devices = [device.name for device in topology.receivers_of(edge, job)]
        self._group = topology.group("deliver", edge, job.name)
        self.partition = TopicPartition(topology.predictions_topic(edge, job.name))
        self._outboxes = outboxes
        self._report = report
        self._timing = timing
        self._now_ms = now_ms
        self._progress = Progress(0, idle=True)
        self._committed: Committed | None = None
        self._reader: LogReader | None = None
        self._place = Place(0)
        """All before it were offered."""

    def progress(self) -> Progress:
        """Idle without new predictions."""
        return self._progress

    async def run(self) -> None:
        """Offer new ones until cancelled. Waits while Kafka is away.

        Cancelled: commits what has been sent by then, if Kafka answers.
        """
        self._place = place = await self._resume()
        try:
            async with self._log.reader({self.partition: place}, group=self._group) as reader:
                self._reader = reader
                try:
                    while True:
                        await self._offer_next(reader)
                except asyncio.CancelledError:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LAST_COMMIT_S):
                            await self._commit(reader)
                    raise
        finally:
            self._report.write(asyncio.get_running_loop().time())

    async def commit(self) -> None:
        """Commit once a second until cancelled. Beside `run`: predictions do not wait for Kafka's answer to it."""
        while True:
            await asyncio.sleep(_COMMIT_S)
            if self._reader is not None:
                await self._commit(self._reader)

    async def _offer_next(self, reader: LogReader) -> None:
        records = await reader.poll(max_records=_RECORDS_PER_POLL, timeout_s=self._timing.poll_s)
        self._progress = Progress(self._progress.steps + 1, idle=not records)
        for record in records:
            self._outboxes.offer(record)
        self._place = place = reader.place(self.partition)
        self._outboxes.passed(place.offset, place.incarnation)
        self._report.write_if_due(asyncio.get_running_loop().time())

    async def _resume(self) -> Place:
        """Where to read on; the devices in the note lag from then on."""
        committed = (await self._log.committed(self._group, [self.partition])).get(self.partition)
        kept, note = committed or Committed(Place(0))
        resumed = (await self._log.resume({self.partition: kept}))[self.partition]
        low, stable, _high = (await self._log.watermarks([self.partition]))[self.partition]
        since_ms = self._now_ms() - LIFETIME_S * 1000
        start = await first_since(
            self._log, self.partition, since_ms, low=max(low, resumed.offset), high=max(low, stable)
        )
        if committed is not None:  # before the first run, nobody was to get any
            self._report.skipped(start - max(low, resumed.offset))
        place = resumed if start == resumed.offset else resumed._replace(offset=start, before="", next="")
        is_same = is_continued(kept, resumed)
        self._outboxes.resume(place, from_note(note, kept.offset, self._devices) if is_same else {})
        return place

    async def _commit(self, reader: LogReader) -> None:
        place = self._place
        note = to_note(self._outboxes.undelivered(), place.offset)
        if (place, note) != self._committed:
            await reader.commit({self.partition: place}, note)
            self._committed = Committed(place, note)
