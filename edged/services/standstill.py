"""Which services hang: judged from the signs of life that they give, for the watchdog.

The rule: a service stands still while it has work and its steps do not rise. While any part outside is degraded nobody
stands still, for the services may be waiting for it; so a hang during an outage is found after it.
"""

from collections.abc import Mapping

from edged.ports import Progress


class Standstill:
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
