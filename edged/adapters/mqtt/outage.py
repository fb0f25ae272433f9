"""Whether the broker can be reached, as its sessions find: one part of health for all of them."""

import asyncio

from edged.ports import Health


class Outage:
    """Degrades the part `mqtt` when a session is refused, or cut off for long; recovers it when none is any more.

    `where`: the broker's address, for reasons. `deadline_s`: a broker that restarts is no news.
    """

    def __init__(self, health: Health, where: str, *, is_tls: bool, deadline_s: float) -> None:
        self.is_tls = is_tls
        self._health = health
        self._where = where
        self._deadline_s = deadline_s
        self._since_s: dict[object, float] = {}
        self._reported: set[object] = set()

    def begin(self, session: object, reason: str, *, at_once: bool) -> None:
        """The session has no connection, because of `reason`."""
        now_s = asyncio.get_running_loop().time()
        since_s = self._since_s.setdefault(session, now_s)
        if at_once or now_s - since_s >= self._deadline_s or session in self._reported:
            self._reported.add(session)
            self._health.degraded("mqtt", f"{self._where}: {reason}", awaited=False)

    def end(self, session: object) -> None:
        """The broker has accepted the session."""
        self.withdraw(session)
        if not self._reported:
            self._health.recovered("mqtt")

    def withdraw(self, session: object) -> None:
        """The session is left. That alone does not recover the part: only an accepted session does."""
        self._since_s.pop(session, None)
        self._reported.discard(session)
