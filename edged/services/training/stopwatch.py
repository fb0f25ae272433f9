"""How long an epoch takes, how much of it is waiting for data and decoding it, and how long the lanes are blocked."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from edged.domain.training.state import LaneTime, TrainState
from edged.ports import LaneClock


class Stopwatch:
    """Adds times to an epoch's tally and lane time. `wait_s`, `decode_s`: seconds of each since the process began."""

    def __init__(self, wait_s: Callable[[], float], decode_s: Callable[[], float], lanes: LaneClock) -> None:
        self._wait_s = wait_s
        self._decode_s = decode_s
        self._lanes = lanes
        self._begun = (0.0, 0.0, 0.0)
        self._blocked_s: float | None = None

    def start(self) -> None:
        """Measure from now on."""
        self._begun = (asyncio.get_running_loop().time(), self._wait_s(), self._decode_s())
        self._blocked_s = self._lanes.blocked_s()

    def measure(self, state: TrainState) -> None:
        """Add the time since the start to the state's tally and lane time, and start again."""
        before, blocked_before_s = self._begun, self._blocked_s
        self.start()
        seconds, wait_s, decode_s = (now - then for now, then in zip(self._begun, before, strict=True))
        tally = state.tally
        state.tally = replace(
            tally, seconds=tally.seconds + seconds, wait_s=tally.wait_s + wait_s, decode_s=tally.decode_s + decode_s
        )
        if self._blocked_s is not None and blocked_before_s is not None:
            blocked_s = (state.lane_time.blocked_s or 0.0) + self._blocked_s - blocked_before_s
            state.lane_time = LaneTime(state.lane_time.seconds + seconds, blocked_s)
