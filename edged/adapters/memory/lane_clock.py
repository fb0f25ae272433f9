"""A LaneClock for tests."""

import time
from collections.abc import Callable


class ScriptedLaneClock:
    """Lanes that are blocked for `share` of the time that passes by `clock`; None: it cannot be read."""

    def __init__(self, share: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.share = share
        self._clock = clock
        self._begun_s = clock()

    def blocked_s(self) -> float | None:
        return None if self.share is None else self.share * (self._clock() - self._begun_s)
