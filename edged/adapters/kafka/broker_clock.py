"""The broker's clock, as its answers to writes show it, and how far this machine's is from it.

Kafka tells its time in one place: with a write to a topic whose records get the broker's time. Covers what that says of
this machine's clock, told to health, and the broker's time from then on, which this machine's clock cannot falsify. A
node that writes to no such topic learns nothing.
"""

import asyncio
import time
from collections.abc import Callable

from edged.ports import Health

PART = "clock"
"""Its part in `ports.Health`."""

LIMIT_S = 300.0
"""Difference of the clocks from which this machine's is wrong; NTP keeps them within a fraction of a second."""

_UNITS = ((31_557_600, "years"), (86_400, "days"), (3_600, "h"), (60, "min"))


class BrokerClock:
    """Compares the clocks at each write that was answered. `wall_s`: this machine's Unix time."""

    def __init__(self, health: Health, wall_s: Callable[[], float] = time.time) -> None:
        self._health = health
        self._wall_s = wall_s
        self._offset_s: float | None = None

    def now_ms(self) -> int | None:
        """The broker's time, by its last answer and the event loop's clock; None if it has told none yet."""
        if self._offset_s is None:
            return None
        return int(1000 * (asyncio.get_running_loop().time() + self._offset_s))

    def forget(self) -> None:
        """What is known of the broker's time is wrong."""
        self._offset_s = None

    def answered(self, appended_ms: int, sent_s: float) -> None:
        """A write, sent at `sent_s` of the event loop's clock, was appended at the broker's time `appended_ms`."""
        now_s = asyncio.get_running_loop().time()
        self._offset_s = appended_ms / 1000 - now_s
        # It was appended at some moment since it was sent, so the difference is known to within that time.
        most_ahead_s = self._wall_s() - appended_ms / 1000
        least_ahead_s = most_ahead_s - (now_s - sent_s)
        if least_ahead_s > LIMIT_S:
            self._wrong(f"{duration(least_ahead_s)} ahead of")
        elif most_ahead_s < -LIMIT_S:
            self._wrong(f"{duration(-most_ahead_s)} behind")
        else:
            self._health.recovered(PART)

    def _wrong(self, how: str) -> None:
        reason = f"this machine's clock is {how} the broker's: set the one that is wrong, or let NTP do it"
        self._health.degraded(PART, reason, awaited=False)


def duration(seconds: float) -> str:
    """About how long, in the largest unit of which it has two, or in minutes."""
    size, name = next(((size, name) for size, name in _UNITS if seconds >= 2 * size), _UNITS[-1])
    return f"{seconds / size:.0f} {name}"
