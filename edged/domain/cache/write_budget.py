"""How many bytes may be written to a disk per day: SD cards and eMMC wear out by writes.

A pure policy: the caller passes the time and what it wrote, and keeps the state between two runs.
"""

import json
from dataclasses import dataclass
from math import isfinite
from typing import Self

DAY_S = 86_400.0

_BURST = 0.125
"""The share of a day's bytes that may be written at once; the rest is refilled evenly over the day."""


@dataclass(slots=True)
class WriteBudget:
    """A token bucket of bytes: holds an eighth of a day's budget, starts full, and refills by the rest in a day.

    In any 24 hours at most `budget_bytes_per_day` are written, plus what the last batch took beyond its estimate.
    `now_s`: of a clock that nobody sets. Only a restart goes by the wall clock, of which a jump refills it once.
    """

    budget_bytes_per_day: int
    _tokens: float = -1.0
    _at_s: float | None = None

    def __post_init__(self) -> None:
        self._tokens = self._max_tokens

    @property
    def _max_tokens(self) -> float:
        return self.budget_bytes_per_day * _BURST

    def allows(self, num_bytes: int, now_s: float) -> bool:
        """Whether a batch of about `num_bytes` may be written now; one larger than the bucket needs a full bucket."""
        self._refill(now_s)
        return self._tokens >= min(num_bytes, self._max_tokens)

    def spend(self, num_bytes: int, now_s: float) -> None:
        """Record `num_bytes` as written; what exceeds the tokens is a debt, paid back by refilling."""
        self._refill(now_s)
        self._tokens -= num_bytes

    def _refill(self, now_s: float) -> None:
        elapsed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        rate = self.budget_bytes_per_day * (1 - _BURST) / DAY_S
        self._tokens = min(self._max_tokens, self._tokens + elapsed_s * rate)
        self._at_s = now_s

    def state(self, wall_s: float) -> str:
        """The state at the Unix time `wall_s`, of the last call's moment, as JSON, for `restored`."""
        return json.dumps({"tokens": self._tokens, "at_s": wall_s})

    @classmethod
    def restored(cls, budget_bytes_per_day: int, state: str, now_s: float, wall_s: float) -> Self:
        """A budget that resumes from `state` now, at the Unix time `wall_s`; a full one when that is malformed."""
        budget = cls(budget_bytes_per_day)
        try:
            values = json.loads(state)
            tokens, at_s = float(values["tokens"]), float(values["at_s"])
        except (KeyError, TypeError, ValueError, RecursionError):
            return budget
        if isfinite(tokens) and isfinite(at_s):
            budget._tokens, budget._at_s = min(tokens, budget._max_tokens), now_s - max(0.0, wall_s - at_s)
        return budget
