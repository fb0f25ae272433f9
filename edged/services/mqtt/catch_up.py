"""Reads again what lagging devices have not got, while the others go on with what is new.

One pass serves all that are ready, from the smallest of their offsets, at the pace of the slowest; one that takes none,
or gets no answer of the broker (see `sender`), leaves the pass. See also: `outbox` (what is left in Kafka, and why).
"""

from collections.abc import Callable, Collection

from edged.domain.mqtt.way_back import LIFETIME_S
from edged.ports import Log, LogReader, Progress, TopicPartition
from edged.reading import POLL_S, first_since
from edged.services.mqtt.outbox import Outbox
from edged.services.mqtt.outboxes import Outboxes
from edged.services.mqtt.report import DeliveryReport, unix_ms

_RECORDS_PER_POLL = 64


class CatchUp:
    """Of one job's predictions. Reads nothing while all devices have theirs, or take none."""

    def __init__(
        self,
        log: Log,
        partition: TopicPartition,
        outboxes: Outboxes,
        *,
        report: DeliveryReport,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._log = log
        self._partition = partition
        self._outboxes = outboxes
        self._report = report
        self._now_ms = now_ms
        self._progress = Progress(0, idle=True)

    def progress(self) -> Progress:
        """Idle while no device is to catch up, or one waits for its broker."""
        return self._progress

    async def run(self) -> None:
        """Read again until cancelled. Cancelled: what was not offered again stays in Kafka, and in the note."""
        while True:
            await self._catch_up(await self._outboxes.to_catch_up())

    async def _catch_up(self, lagging: Collection[Outbox]) -> None:
        first, end = min(each.catch_up() for each in lagging), self._outboxes.end
        oldest_ms = self._now_ms() - LIFETIME_S * 1000
        start = await first_since(self._log, self._partition, oldest_ms, low=first, high=end)
        self._report.skipped(start - first)
        async with self._log.reader({self._partition: start}) as reader:
            while any(each.state.is_catching_up for each in lagging):
                if reader.position(self._partition) < self._outboxes.end:
                    await self._offer_next(reader)
                    continue
                for each in lagging:  # no await since the end was compared: what comes from here on is new
                    self._report.expired(each.device, each.caught_up())

    async def _offer_next(self, reader: LogReader) -> None:
        records = await reader.poll(max_records=_RECORDS_PER_POLL, timeout_s=POLL_S)
        self._progress = Progress(self._progress.steps + 1, idle=not records)
        for record in records:
            outbox = self._outboxes.of(record)
            if outbox is not None:
                self._progress = self._progress._replace(idle=not outbox.has_room(record))
                await outbox.offer_again(record)
