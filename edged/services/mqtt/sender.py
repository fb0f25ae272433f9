"""Sends one device's predictions by MQTT, in order, each until the broker has a subscriber for it.

Steps, for the first prediction in the outbox:
1. drop and count it if it is too old
2. publish it; it leaves the outbox once the broker has acknowledged it and has a subscriber, so that its place is
   committed
Without a connection or a subscriber it stays the first, and the others stay in Kafka.
"""

import asyncio
import contextlib
from collections.abc import Callable

from edged.aio import Backoff
from edged.domain.mqtt.way_back import addressed, remaining_s
from edged.errors import MqttRefused, MqttUnavailable
from edged.ports import Health, MqttSession, PacketProperties, Record
from edged.services.mqtt.outbox import Outbox
from edged.services.mqtt.report import DeliveryReport, unix_ms

_RETRY_S, _IDLE_RETRY_S = 5.0, 60.0
"""Before a device without a subscriber is tried again: at least, after it has sent a sample; at most, if it has not."""


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

    async def run(self) -> None:
        """Send until cancelled. Cancelled: the first one may have been sent, and is sent again at the next start."""
        backoff = Backoff()
        while True:
            record = await self._outbox.first()
            left_s = remaining_s(record.timestamp_ms, self._now_ms())
            if left_s is None:
                self._report.expired(self._outbox.device, self._outbox.expired(record))
                continue
            try:
                is_taken = await self._send(record, left_s)
            except MqttUnavailable:
                self._outbox.stuck()
                await self._session.connected()
                await backoff.wait()
                continue
            backoff.reset()
            if is_taken:
                self._outbox.sent(record)
                self._report.delivered(self._outbox.device)
            else:
                self._outbox.stuck()
                await self._until_retry()

    async def _send(self, record: Record, left_s: int) -> bool:
        """Publish it; whether the broker has a subscriber for it. Raises MqttUnavailable."""
        device = self._outbox.device
        to = addressed(self._site, device, record.headers)
        if to.ignored:
            self._report.ignored_topic(device, to.ignored)
        user = (("id", to.sample_id),) if to.sample_id else ()
        properties = PacketProperties(user, correlation=to.correlation, expiry_s=left_s)
        try:
            verdict = await self._session.publish(to.topic, record.value, properties)
        except MqttRefused as error:
            self._health.degraded(self._part, str(error), awaited=False)
            return False
        self._health.recovered(self._part)
        if (limits := self._session.limits) is not None and limits.version != "5":
            self._report.receivers_unknown()
        if verdict == "nobody":
            self._report.no_receiver(device)
        return verdict == "delivered"

    async def _until_retry(self) -> None:
        await asyncio.sleep(_RETRY_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_RETRY_S - _RETRY_S):
                await self._outbox.until_new()
