"""Which services hang: judged from the signs of life that they give, for the watchdog.

The rule: a service stands still while it has work and its steps do not rise. While any part outside is degraded nobody
stands still, for the services may be waiting for it; so a hang during an outage is found after it.
"""

from collections.abc import Mapping

from edged.log import logger
from edged.ports import Notifier, Progress


class StallDetector:
    """Remembers when each service last moved. `now` is in seconds of any one clock."""

    def __init__(self, allowed_s: float) -> None:
        self._allowed_s = allowed_s
        self._moved: dict[str, tuple[int, float]] = {}

    def stalled(self, progress: Mapping[str, Progress], now: float, *, excused: bool) -> dict[str, float]:
        """The services that stand still for longer than allowed, and for how many seconds."""
        for service, (steps, idle) in progress.items():
            if excused or idle or service not in self._moved or steps != self._moved[service][0]:
                self._moved[service] = steps, now
        still_s = {service: now - since for service, (_, since) in self._moved.items()}
        return {service: seconds for service, seconds in still_s.items() if seconds > self._allowed_s}


class _Watchdog:
    """Feeds the service manager's watchdog while no service hangs; logs each hang once."""

    def __init__(self, notifier: Notifier, standstill: StallDetector) -> None:
        self._notifier = notifier
        self._standstill = standstill
        self._logged: set[str] = set()

    def feed(self, progress: Mapping[str, Progress], now: float, *, excused: bool) -> None:
        stalled = self._standstill.stalled(progress, now, excused=excused)
        for service in stalled.keys() - self._logged:
            logger().error("res.stalled", service=service, still_s=round(stalled[service], 1))
        self._logged = set(stalled)
        if not stalled:
            self._notifier.watchdog()
