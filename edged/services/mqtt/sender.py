"""Sends one device's predictions by MQTT, in order, each until the broker has a subscriber for it.

Several are on their way at a time. One leaves the outbox once the broker has acknowledged it and has a subscriber, so
that its place is committed. Without a connection or a subscriber the first is kept and tried again, and the others stay
in Kafka. See also: `domain.mqtt.outbox` (what is sent when).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edged.aio import Backoff
from edged.domain.mqtt.way_back import LIFETIME_S, addressed, remaining_s
from edged.errors import MqttRefused, MqttUnavailable
from edged.ports import Health, MqttSession, PacketProperties, Record, Verdict
from edged.services.mqtt.outbox import Outbox
from edged.services.mqtt.report import DeliveryReport, unix_ms

ANSWER_TIMEOUT_S = 10.0
"""Without any verdict of the broker. What it was sent is not sent again while it may still answer: for LIFETIME_S."""

_RETRY_S, _IDLE_RETRY_S = 5.0, 60.0
"""Before a device without a subscriber is tried again: at least, after it has sent a sample; at most, if it has not."""


class _Flying(NamedTuple):
    """On its way to the broker."""

    record: Record
    verdict: "asyncio.Future[Verdict]"


class Sender:
    """Of one device, over the session of its bridge: a device that takes nothing holds up no other."""

    def __init__(
        self,
        outbox: Outbox,
        session: MqttSession,
        site: str,
        *,
        health: Health,
        report: DeliveryReport,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._outbox = outbox
        self._session = session
        self._site = site
        self._health = health
        self._part = f"predictions/{outbox.device}"
        self._report = report
        self._now_ms = now_ms
        self._flying: deque[_Flying] = deque()
        self._silent_since_s = 0.0
        self._is_cut = False
        self._backoff = Backoff()

    async def run(self) -> None:
        """Send until cancelled. Cancelled: what was on its way may be sent again at the next start."""
        while True:
            if not self._is_to_wait:
                await self._until_retry()
                due = self._outbox.retry(self._now_ms())
            else:
                due = self._outbox.due(self._now_ms())
            if due.num_expired:
                self._report.expired(self._outbox.device, due.num_expired)
            self._send(due.records)
            if self._is_to_wait:
                await self._until_news()
                self._take_verdicts()

    @property
    def _is_to_wait(self) -> bool:
        """Whether what comes next comes from elsewhere: a prediction, or a verdict."""
        return bool(self._flying) or not self._outbox.state.is_stuck

    def _send(self, records: Sequence[Record]) -> None:
        """Without a connection, up to the first that cannot be sent: those after it are not to pass it."""
        if not self._flying:
            self._silent_since_s = asyncio.get_running_loop().time()
        for i, record in enumerate(records):
            try:
                self._flying.append(_Flying(record, self._sent(record)))
            except MqttRefused as error:
                self._refused(record, error)
            except MqttUnavailable:
                self._lost(records[i:])
                return

    def _sent(self, record: Record) -> "asyncio.Future[Verdict]":
        """Raises MqttUnavailable or MqttRefused."""
        device, now_ms = self._outbox.device, self._now_ms()
        to = addressed(self._site, device, record.headers)
        if to.ignored:
            self._report.ignored_topic(device, to.ignored)
        user = (("id", to.sample_id),) if to.sample_id else ()
        expiry_s = remaining_s(record.timestamp_ms, now_ms) or 1
        return self._session.send(to.topic, record.value, PacketProperties(user, "", to.correlation, expiry_s))

    async def _until_news(self) -> None:
        """Wait for a change of the outbox or the next verdict. Brokers answer in order: the others come after it."""
        awaited: set[asyncio.Future[Verdict] | asyncio.Future[None]] = {self._outbox.changed()}
        timeout_s, is_stuck = None, self._outbox.state.is_stuck
        if self._flying:
            awaited.add(self._flying[0].verdict)
            silent_s = asyncio.get_running_loop().time() - self._silent_since_s
            timeout_s = max(0.0, (LIFETIME_S if is_stuck else ANSWER_TIMEOUT_S) - silent_s)
        done, _ = await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return
        if is_stuck:  # they are too old by now
            self._outbox.undelivered([each.record for each in self._flying])
            self._flying.clear()
            return
        self._health.degraded(
            self._part, f"the broker has not acknowledged a prediction for {ANSWER_TIMEOUT_S:g} s", awaited=False
        )
        self._outbox.unanswered()

    def _take_verdicts(self) -> None:
        answered = [each for each in self._flying if each.verdict.done()]
        if not answered:
            return
        self._flying = deque(each for each in self._flying if not each.verdict.done())
        self._silent_since_s = asyncio.get_running_loop().time()
        for record, verdict in answered:
            error = verdict.exception()
            if error is None:
                self._take(record, verdict.result())
            elif isinstance(error, MqttRefused):
                self._refused(record, error)
            elif isinstance(error, MqttUnavailable):
                self._lost([record])
            else:
                raise error

    def _take(self, record: Record, verdict: Verdict) -> None:
        self._is_cut = False
        self._backoff.reset()
        self._health.recovered(self._part)
        if (limits := self._session.limits) is not None and limits.version != "5":
            self._report.receivers_unknown()
        if verdict == "delivered":
            self._outbox.delivered(record)
            self._report.delivered(self._outbox.device)
        else:
            self._outbox.undelivered([record])
            self._report.no_receiver(self._outbox.device)

    def _refused(self, record: Record, error: MqttRefused) -> None:
        self._is_cut = False
        self._backoff.reset()
        if self._outbox.refused(record):
            self._report.refused(self._outbox.device, str(error))
        else:
            self._health.degraded(self._part, str(error), awaited=False)

    def _lost(self, records: Sequence[Record]) -> None:
        """With the connection."""
        self._is_cut = True
        self._outbox.undelivered(records)

    async def _until_retry(self) -> None:
        if self._is_cut:
            await self._session.connected()
            await self._backoff.wait()
            return
        loop = asyncio.get_running_loop()
        await asyncio.sleep(_RETRY_S)
        end_s = loop.time() + _IDLE_RETRY_S - _RETRY_S
        while not self._outbox.state.has_new and (left_s := end_s - loop.time()) > 0:
            await asyncio.wait([self._outbox.changed()], timeout=left_s)
