"""Word of a disk that hangs: its calls neither fail nor return, and nobody else would say so."""

import asyncio
from types import TracebackType

from edged.ports import Health

TOLD_AFTER_S = 8.0
"""Longer than a disk takes that works, and below the 10 s promised for reporting one that does not."""


class degraded_while_hanging:  # noqa: N801 - used as a function
    """While what is inside takes longer than TOLD_AFTER_S, `part` is degraded: no service that waits for it is stalled.

    To be entered on the event loop's thread, around the wait for one call in a worker's.
    """

    def __init__(self, health: Health, part: str) -> None:
        self._health = health
        self._part = part
        self._is_told = False

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._timer = self._loop.call_later(TOLD_AFTER_S, self._tell)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._is_told:
            self._health.recovered(self._part)

    def _tell(self) -> None:
        self._is_told = True
        self._health.degraded(self._part, f"a call has not returned for {self._loop.time() - self._began_s:.0f} s")
        # Again and again: another call to that disk, one that works, may say that it has recovered.
        self._timer = self._loop.call_later(TOLD_AFTER_S, self._tell)
