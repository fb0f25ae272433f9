"""How long to wait for the gradients of a step."""

from collections import deque
from statistics import median

from edged.domain.group.state import State

FIRST_DEADLINE_S = 30.0
"""Before it is known how long a step takes."""

EPOCH_DEADLINE_S = 10.0
"""At least, for an epoch's first step: the others may still be saving the one before, drawing and fetching."""

MIN_DEADLINE_S = 1.0
"""However short the steps are: a pause of the machine is no reason to go on without a member."""

DEADLINE_FACTOR = 1.5
"""So many times as long as usual is waited."""

_STEP_TIMES = 32


class Deadline:
    """How long to wait for the gradients of a step that do not come."""

    def __init__(self) -> None:
        self._step_times: deque[float] = deque(maxlen=_STEP_TIMES)

    def record(self, seconds: float) -> None:
        """A step took so long."""
        self._step_times.append(seconds)

    def seconds(self, state: State) -> float:
        """From a gradient of the present step on."""
        if not self._step_times:
            return FIRST_DEADLINE_S
        min_s = EPOCH_DEADLINE_S if state.step == state.epoch_first_step else MIN_DEADLINE_S
        return max(DEADLINE_FACTOR * median(self._step_times), min_s)
