"""The log lines of the way back to devices: how many predictions went, who takes none, what was too old."""

import time
from collections import Counter

from edged.log import ThrottledLog, logger


def unix_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class DeliveryReport:
    """Accumulates from one line to the next, `every_s`, by the event loop's time; tells of each device what it has."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._lines = ThrottledLog()
        self._absent: set[str] = set()
        self._is_told = False
        self._began_s = 0.0
        self._num_delivered = 0
        self._num_expired = Counter[str]()

    def delivered(self, device: str) -> None:
        """The broker has taken one, for a device that is there."""
        self._num_delivered += 1
        if device in self._absent:
            self._absent.remove(device)
            self._lines.info("mqtt.receiver_back", device, device=device)

    def nobody(self, device: str) -> None:
        """Nobody subscribes to the device's predictions."""
        if device not in self._absent:
            self._absent.add(device)
            self._lines.info("mqtt.no_receiver", device, device=device)

    def receivers_unknown(self) -> None:
        """The broker does not tell whether anybody subscribes. Told once."""
        if not self._is_told:
            self._is_told = True
            logger().warning("mqtt.receivers_unknown")

    def expired(self, device: str, count: int = 1) -> None:
        """So many were too old to be sent."""
        self._num_expired[device] += count

    def ignored_topic(self, device: str, topic: str) -> None:
        """The device asked for an answer at a topic that is not below its own."""
        self._lines.warning("mqtt.response_topic_ignored", device, device=device, topic=topic)

    def write_if_due(self, now_s: float) -> None:
        """Write the lines if the interval is over."""
        if now_s - self._began_s >= self._every_s:
            self.write(now_s)

    def write(self, now_s: float) -> None:
        """Write the lines that there is something to say in, and begin anew."""
        expired = +self._num_expired
        for device, count in expired.items():
            logger().warning("mqtt.prediction_expired", device=device, predictions=count)
        if self._num_delivered or expired:
            logger().info(
                "mqtt.delivered",
                predictions=self._num_delivered,
                expired=expired.total(),
                without_receiver=len(self._absent),
            )
        self._began_s, self._num_delivered, self._num_expired = now_s, 0, Counter()
