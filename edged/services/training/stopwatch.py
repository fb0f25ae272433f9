"""How long an epoch takes, and how much of that is waiting for data and decoding it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from edged.domain.training.state import TrainState


class Stopwatch:
    """Adds times to an epoch's tally. `wait_s`, `decode_s`: seconds of each since the process began."""

    def __init__(self, wait_s: Callable[[], float], decode_s: Callable[[], float]) -> None:
        self._wait_s = wait_s
        self._decode_s = decode_s
        self._begun = (0.0, 0.0, 0.0)

    def start(self) -> None:
        """Measure from now on."""
        self._begun = (asyncio.get_running_loop().time(), self._wait_s(), self._decode_s())

    def measure(self, state: TrainState) -> None:
        """Add the time since the start to the state's tally, and start again."""
        before = self._begun
        self.start()
        seconds, wait_s, decode_s = (now - then for now, then in zip(self._begun, before, strict=True))
        tally = state.tally
        state.tally = replace(
            tally, seconds=tally.seconds + seconds, wait_s=tally.wait_s + wait_s, decode_s=tally.decode_s + decode_s
        )
