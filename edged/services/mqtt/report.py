"""Log lines about predictions to devices: how many were delivered, which devices take none, which were too old."""

import time
from collections import Counter

from edged.log import ThrottledLog, logger


def unix_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class DeliveryReport:
    """Of one job at one edge. Counts from one line to the next; `every_s`: the time between two."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._lines = ThrottledLog()
        self._absent: set[str] = set()
        self._has_warned = False
        self._began_s = 0.0
        self._num_delivered = 0
        self._num_expired = Counter[str]()
        self._num_skipped = 0
        self._num_refused = 0

    def delivered(self, device: str) -> None:
        """The broker has delivered a prediction to a subscriber."""
        self._num_delivered += 1
        if device in self._absent:
            self._absent.remove(device)
            self._lines.info("mqtt.receiver_back", device, device=device)

    def no_receiver(self, device: str) -> None:
        """Nobody subscribes to the device's predictions."""
        if device not in self._absent:
            self._absent.add(device)
            self._lines.info("mqtt.no_receiver", device, device=device)

    def receivers_unknown(self) -> None:
        """The broker does not report whether anybody subscribes. Logged once."""
        if not self._has_warned:
            self._has_warned = True
            logger().warning("mqtt.receivers_unknown")

    def expired(self, device: str, count: int = 1) -> None:
        """`count` predictions were too old to be sent."""
        self._num_expired[device] += count

    def refused(self, device: str, reason: str) -> None:
        """A prediction is given up that the broker refuses, and takes those behind it."""
        self._num_refused += 1
        self._lines.warning("mqtt.prediction_refused", device, device=device, reason=reason)

    def skipped(self, num_records: int) -> None:
        """Records that are too old to be sent, of whatever device, are not read."""
        self._num_skipped += num_records

    def ignored_topic(self, device: str, topic: str) -> None:
        """The device asked for its prediction at a topic that is not below its own."""
        self._lines.warning("mqtt.response_topic_ignored", device, device=device, topic=topic)

    def write_if_due(self, now_s: float) -> None:
        """Write the lines if the interval is over."""
        if now_s - self._began_s >= self._every_s:
            self.write(now_s)

    def write(self, now_s: float) -> None:
        """Write the lines that have anything to report, and count from zero."""
        expired = +self._num_expired
        for device, count in expired.items():
            logger().warning("mqtt.prediction_expired", device=device, predictions=count)
        if self._num_delivered or self._num_skipped or self._num_refused or expired:
            logger().info(
                "mqtt.delivered",
                predictions=self._num_delivered,
                expired=expired.total(),
                refused=self._num_refused,
                skipped=self._num_skipped,
                without_receiver=len(self._absent),
            )
        self._began_s, self._num_expired = now_s, Counter()
        self._num_delivered = self._num_skipped = self._num_refused = 0
