"""The implementation of `ports.Health`: which parts outside are degraded, since when and why, for log and status line.

Checks nothing itself: the adapters that meet a failure report it.
"""

import asyncio
import math
from dataclasses import dataclass

from edged.log import Throttle, logger

STATUS_LENGTH = 80
"""Characters of a status line; `systemctl status` shows it on one terminal line."""

_REASON_EVERY_S = 60.0
_MAX_BEGINNINGS = 6
"""Of one part in a minute that are logged, each with its end: what fails for one and works for the next flaps."""


@dataclass(slots=True)
class _Degradation:
    reason: str
    since: float
    logged_at: float
    logged_reason: str
    awaited: bool


class HealthBoard:
    """The node's degraded parts.

    To be called on the event loop's thread, whose clock it uses (from a worker: `loop.call_soon_threadsafe`).
    """

    def __init__(self) -> None:
        self._parts: dict[str, _Degradation] = {}
        self._throttle = Throttle(_REASON_EVERY_S, limit=_MAX_BEGINNINGS)

    @property
    def is_degraded(self) -> bool:
        """Whether any part is unusable now."""
        return bool(self._parts)

    @property
    def is_awaited(self) -> bool:
        """Whether services may be waiting for a part."""
        return any(state.awaited for state in self._parts.values())

    def degraded(self, part: str, reason: str, *, awaited: bool = True) -> None:
        """`part` is unusable because of `reason`. Logged when it begins; a new reason at most once a minute.

        Of a part that begins and ends again and again, six times a minute are logged.
        """
        now = asyncio.get_running_loop().time()
        state = self._parts.setdefault(part, _Degradation(reason, now, -math.inf, "", awaited))
        state.reason = reason
        is_due = reason != state.logged_reason and now - state.logged_at >= _REASON_EVERY_S
        if is_due and self._throttle.pass_on(part, now) is not None:
            state.logged_at, state.logged_reason = now, reason
            logger().warning("health.degraded", part=part, reason=reason)

    def recovered(self, part: str) -> None:
        """`part` works. Logged if it was degraded."""
        state = self._parts.pop(part, None)
        if state is not None and state.logged_reason:
            degraded_s = asyncio.get_running_loop().time() - state.since
            logger().info("health.recovered", part=part, degraded_s=round(degraded_s, 3))

    def reason(self, part: str) -> str:
        """Why the part is degraded; empty when it is not."""
        return self._parts[part].reason if part in self._parts else ""

    def summary(self) -> str:
        """The state on one line of at most 80 characters: "ok", or the degraded parts with reasons, oldest first."""
        if not self._parts:
            return "ok"
        now = asyncio.get_running_loop().time()
        parts = [
            f"{part} for {_duration(now - state.since)} ({state.reason})"
            for part, state in sorted(self._parts.items(), key=lambda item: item[1].since)
        ]
        return shortened("degraded: " + ", ".join(parts), STATUS_LENGTH)


def shortened(text: str, length: int) -> str:
    """The text on one line of at most `length` characters; an ellipsis replaces what is cut off."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name}"
    return f"{seconds:.0f} s"
