"""Detects services that hang, and feeds the service manager's watchdog while none does.

A service is stalled while it has work and its step count does not rise. While a part outside that
services may wait for is degraded nothing counts as stalled; a hang during an outage is found after it.
"""

from collections.abc import Mapping

from edged.log import logger
from edged.ports import Notifier, Progress


class StallDetector:
    """Remembers when each service last progressed. `now` is in seconds of any one clock."""

    def __init__(self, allowed_s: float) -> None:
        self._allowed_s = allowed_s
        self._last: dict[str, tuple[int, float]] = {}  # steps, and since when there are that many

    def stalled(self, progress: Mapping[str, Progress], now: float, *, suspended: bool) -> dict[str, float]:
        """The services stalled for longer than allowed, and for how many seconds. `suspended`: none is judged."""
        for service, (steps, idle) in progress.items():
            if suspended or idle or service not in self._last or steps != self._last[service][0]:
                self._last[service] = steps, now
        stalled_s = {service: now - since for service, (_, since) in self._last.items()}
        return {service: seconds for service, seconds in stalled_s.items() if seconds > self._allowed_s}


class Watchdog:
    """Feeds the service manager's watchdog while no service is stalled; logs each stall once."""

    def __init__(self, notifier: Notifier, detector: StallDetector) -> None:
        self._notifier = notifier
        self._detector = detector
        self._logged: set[str] = set()

    def feed(self, progress: Mapping[str, Progress], now: float, *, suspended: bool) -> None:
        stalled = self._detector.stalled(progress, now, suspended=suspended)
        for service in stalled.keys() - self._logged:
            logger().error("res.stalled", service=service, still_s=round(stalled[service], 1))
        self._logged = set(stalled)
        if not stalled:
            self._notifier.watchdog()
