"""How long to wait for the gradients of a step."""

from collections import deque
from statistics import median

from edged.domain.group.state import State
from edged.settings import Timing

FIRST_DEADLINE_S = Timing().first_deadline_s
"""Until the duration of a step is known; also how long others are waited for to join. A node's `Timing` may differ."""

EPOCH_DEADLINE_S = 10.0
"""Minimum for an epoch's first step: other members may still be saving the last epoch, planning and fetching."""

MIN_DEADLINE_S = Timing().min_deadline_s
"""However short the steps are. A node's `Timing` may differ."""

DEADLINE_FACTOR = 1.5
"""Multiple of the usual step time to wait."""

_STEP_TIMES = 32


class Deadline:
    """How long to wait for missing gradients, from the median duration of recent steps."""

    def __init__(self, first_s: float = FIRST_DEADLINE_S, min_s: float = MIN_DEADLINE_S) -> None:
        self._first_s = first_s
        self._min_s = min_s
        self._step_times: deque[float] = deque(maxlen=_STEP_TIMES)

    def record(self, seconds: float) -> None:
        """Add the duration of a finished step."""
        self._step_times.append(seconds)

    def seconds(self, state: State) -> float:
        """How long to wait from a gradient of the present step on."""
        if not self._step_times:
            return self._first_s
        min_s = EPOCH_DEADLINE_S if state.step == state.epoch_first_step else 0.0
        return max(DEADLINE_FACTOR * median(self._step_times), min_s, self._min_s)
