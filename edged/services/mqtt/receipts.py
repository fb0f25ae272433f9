"""Sends a device its receipts, beside the bridge: the broker's word on them stands behind what it has sent before.

A bridge that waited for that word would read nothing meanwhile, and so never get it from a broker that sends more than
the session's window: packets of QoS 0, or over MQTT 3.1.1.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

from edged.aio import Backoff
from edged.errors import MqttRefused, MqttUnavailable
from edged.ports import MqttSession
from edged.services.mqtt.bridge_report import BridgeReport

MAX_WAITING = 4096
"""Of one device, the newest: it sends again what it has no receipt for."""

_ANSWER_S = 10.0
_MAX_PER_PACKET = 256


class Receipts:
    """Of one device, in order. Lost with the process, never early."""

    def __init__(self, session: MqttSession, topic: str, device: str, report: BridgeReport) -> None:
        self._session = session
        self._topic = topic
        self._device = device
        self._report = report
        self._waiting: deque[str] = deque()
        self._some = asyncio.Event()

    def add(self, lines: Iterable[str]) -> None:
        """To be sent. Kafka holds what they are for, or will never."""
        self._waiting.extend(lines)
        if (count := len(self._waiting) - MAX_WAITING) > 0:
            for _ in range(count):
                self._waiting.popleft()
            self._report.undelivered(self._device, count, f"more than {MAX_WAITING} wait")
        if self._waiting:
            self._some.set()

    async def run(self) -> None:
        """Send them until cancelled. Without a connection they wait."""
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
        """Tell the device, if it is there. Raises MqttUnavailable."""
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
