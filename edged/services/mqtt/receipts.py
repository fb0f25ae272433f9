"""Sends a device its receipts, by a task beside the bridge's.

The broker's acknowledgement of a receipt comes after all packets that it has sent before. A bridge that waited for it
would not read those, and never get it if they are more than the session's window: of QoS 0, or over MQTT 3.1.1.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

from edged.aio import Backoff
from edged.errors import MqttRefused, MqttUnavailable
from edged.ports import MqttSession
from edged.services.mqtt.bridge_report import BridgeReport

MAX_WAITING = 4096
"""Receipts of one device; older ones are dropped: it sends those samples again."""

_ANSWER_S = 10.0
_MAX_PER_PACKET = 256


class Receipts:
    """Of one device, in order. A process that ends loses them; none is sent before Kafka holds its sample."""

    def __init__(self, session: MqttSession, topic: str, device: str, report: BridgeReport) -> None:
        self._session = session
        self._topic = topic
        self._device = device
        self._report = report
        self._waiting: deque[str] = deque()
        self._some = asyncio.Event()

    def add(self, lines: Iterable[str]) -> None:
        """Queue receipts for samples that Kafka holds, or that are dead-lettered."""
        self._waiting.extend(lines)
        if (count := len(self._waiting) - MAX_WAITING) > 0:
            for _ in range(count):
                self._waiting.popleft()
            self._report.undelivered(self._device, count, f"more than {MAX_WAITING} wait")
        if self._waiting:
            self._some.set()

    async def run(self) -> None:
        """Send receipts until cancelled. Without a connection they wait."""
        backoff = Backoff()
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(_MAX_PER_PACKET, len(self._waiting)))]
                try:
                    await self._send(some)
                except MqttUnavailable:
                    self._waiting.extendleft(reversed(some))
                    await self._session.connected()
                    await backoff.wait()
                else:
                    backoff.reset()

    async def _send(self, some: list[str]) -> None:
        """Publish one packet of receipts, and report those that were not delivered. Raises MqttUnavailable."""
        problem = ""
        try:
            async with asyncio.timeout(_ANSWER_S):
                verdict = await self._session.publish(self._topic, "\n".join(some).encode())
            problem = "nobody subscribes to them" if verdict == "nobody" else ""
        except TimeoutError:
            problem = "no answer in time"
        except MqttRefused as error:
            problem = str(error)
        if problem:
            self._report.undelivered(self._device, len(some), problem)
        else:
            self._report.bridged.receipts += len(some)
