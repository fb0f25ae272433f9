"""How many bytes may be written to a disk in a day: SD cards and eMMC wear out by what is written to them.

A policy alone: the caller says what time it is, what it wrote, and keeps the state between two runs.
"""

import json
from dataclasses import dataclass
from math import isfinite
from typing import Self

DAY_S = 86_400.0

_BURST = 0.125
"""The share of a day's bytes that may be written at once; the rest comes evenly over the day."""


@dataclass(slots=True)
class WriteBudget:
    """A token bucket of bytes: holds an eighth of a day's budget, starts full, and refills by the rest in a day.

    Any 24 hours thus write at most `budget_bytes_per_day`, and what one last batch took more than was known before.
    `now_s`: wall time, so that a restart does not refill it. A clock that is set back refills nothing.
    """

    budget_bytes_per_day: int
    _tokens: float = -1.0
    _at_s: float | None = None

    def __post_init__(self) -> None:
        self._tokens = self._most

    @property
    def _most(self) -> float:
        return self.budget_bytes_per_day * _BURST

    def allows(self, num_bytes: int, now_s: float) -> bool:
        """Whether a batch of about so many bytes may be written now; one above the bucket's size needs it full."""
        self._refill(now_s)
        return self._tokens >= min(num_bytes, self._most)

    def spend(self, num_bytes: int, now_s: float) -> None:
        """So many bytes have been written; more than allowed is a debt that waiting pays."""
        self._refill(now_s)
        self._tokens -= num_bytes

    def _refill(self, now_s: float) -> None:
        elapsed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        rate = self.budget_bytes_per_day * (1 - _BURST) / DAY_S
        self._tokens = min(self._most, self._tokens + elapsed_s * rate)
        self._at_s = now_s

    def state(self) -> str:
        """What `restored` needs, as text."""
        return json.dumps({"tokens": self._tokens, "at_s": self._at_s})

    @classmethod
    def restored(cls, budget_bytes_per_day: int, state: str) -> Self:
        """A budget that goes on where the one of `state` was; a full one when the state is not one."""
        budget = cls(budget_bytes_per_day)
        try:
            values = json.loads(state)
            tokens, at_s = float(values["tokens"]), float(values["at_s"])
        except (KeyError, TypeError, ValueError, RecursionError):
            return budget
        if isfinite(tokens) and isfinite(at_s):
            budget._tokens, budget._at_s = min(tokens, budget._most), at_s
        return budget
