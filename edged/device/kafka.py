"""A device's samples to Kafka, and its predictions from there."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Literal, Self

from edged.appending import append_what_fits
from edged.device.attachment import Attachment
from edged.device.inbox import Inbox
from edged.device.outbox import Outbox
from edged.domain.device.sample import Draft, sample_id
from edged.domain.samples import returned, times
from edged.errors import LogRefused
from edged.ports import Log, LogReader, Message, TopicPartition
from edged.reading import newest
from edged.services.node.health import HealthBoard

if TYPE_CHECKING:  # a device on MQTT does not load it
    from edged.adapters.kafka import KafkaLog

MAX_IN_FLIGHT = 256
"""Messages sent to the broker at a time."""

_MAX_BATCH_BYTES = 900_000
_POLL_S = 1.0
_MAX_RECORDS_PER_POLL = 256
_SETTLE_S = 2.0
"""After this time the broker has all that a killed process sent."""

_LOOK_BACK = 10_000
"""Records at the end of the device's topic, among which are those that a killed run sent without an answer."""


class KafkaLink:
    """The device's connection to Kafka, while it is entered. `log`: an open one, instead of its own."""

    transport: Literal["kafka"] = "kafka"

    def __init__(self, attachment: Attachment, log: Log | None, *, receives: bool, gives_up: bool) -> None:
        self._at = attachment
        self._given_log = log
        self._receives = receives
        self._gives_up = gives_up
        self._health = HealthBoard()
        self._stack = AsyncExitStack()
        self._log: Log
        self._reader: LogReader | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if self._given_log is None:
                self._log = await stack.enter_async_context(self._own_log())
            else:
                self._log = self._given_log
            if self._receives:
                marks = await self._log.watermarks([TopicPartition(topic) for topic in self._at.predictions])
                ends = {partition: each.high for partition, each in marks.items()}
                self._reader = await stack.enter_async_context(self._log.reader(ends))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._reader = None
        await self._stack.aclose()

    @property
    def trouble(self) -> str:
        return self._health.reason("kafka")

    def outbox(self) -> "StraightOutbox":
        """For a device without a buffer."""
        return StraightOutbox(self)

    async def connected(self) -> None:
        await self._log.partitions([self._at.topic])

    async def append(self, named: Sequence[tuple[str, Draft]]) -> None:
        """Publish the samples with these ids in order, MAX_IN_FLIGHT at a time; return once all are acknowledged."""
        messages = [self._message(*each) for each in named]
        for start in range(0, len(messages), MAX_IN_FLIGHT):
            await self._log.append(messages[start : start + MAX_IN_FLIGHT], refuse_too_large=True)

    async def send(self, outbox: Outbox, num_left: int) -> None:
        """Send samples from the outbox until cancelled. `num_left`: samples that an earlier run left in it.

        A sample that is too large for the topic is refused.
        """
        try:
            there = await self._there() if num_left else frozenset()
            while True:
                batch = await outbox.take(MAX_IN_FLIGHT, _MAX_BATCH_BYTES)
                new = [each for each in batch if each.id not in there]
                drafts = [Draft(each.sample.label, each.sample.payload, each.sample.sampled_ms) for each in new]
                messages = list(map(self._message, (each.id for each in new), drafts))
                for index, error in (await append_what_fits(self._log, messages)).refused.items():
                    outbox.settled(new[index], str(error))
                outbox.passed(batch[-1].position)
        except LogRefused as error:
            outbox.failed(error)

    async def receive(self, inbox: Inbox) -> None:
        """Wait until more has come."""
        assert self._reader is not None, "a device receives between entering and leaving it, with `receive`"
        for record in await self._reader.poll(max_records=_MAX_RECORDS_PER_POLL, timeout_s=_POLL_S):
            if record.key == self._at.device.name.encode():
                inbox.put(record.value, partition=record.partition, offset=record.offset)

    async def _there(self) -> frozenset[str]:
        """The ids of the newest records in the device's own topic."""
        await asyncio.sleep(_SETTLE_S)
        found = await newest(
            self._log,
            TopicPartition(self._at.topic),
            lambda record: returned.sample_id(record.headers) or None,
            count=_LOOK_BACK,
            within=_LOOK_BACK,
        )
        return frozenset(found)

    def _own_log(self) -> "KafkaLog":
        from edged.adapters.kafka import KafkaLog  # noqa: PLC0415 - see above

        assert self._at.kafka is not None
        name = self._at.device.name
        return KafkaLog(
            self._at.kafka, self._health, client_id=f"edged-{name}", rights=self._at.rights, gives_up=self._gives_up
        )

    def _message(self, name: str, draft: Draft) -> Message:
        headers = (times.sampled_header(draft.sampled_ms), (returned.ID_HEADER, name.encode()))
        return Message(self._at.topic, draft.payload, draft.label, headers)


class StraightOutbox:
    """Without a buffer: `add` returns once Kafka has acknowledged the samples."""

    kind: Literal["straight"] = "straight"

    def __init__(self, link: KafkaLink) -> None:
        self._link = link
        self._series = secrets.token_hex(6)
        self._next = 1
        self.series = {self._series}
        self.num_refused = 0

    async def add(self, drafts: Sequence[Draft]) -> list[str]:
        ids = [sample_id(self._series, self._next + index) for index in range(len(drafts))]
        self._next += len(drafts)
        await self._link.append(list(zip(ids, drafts, strict=True)))
        return ids

    async def empty(self) -> None:
        """Nothing is left when `add` has returned."""
