"""Which samples a cache keeps: decisions on ids and bytes, and the hit ratios that follow for uniform sampling.

Stores nothing and knows no epochs; `rate_plan` and `lru_plan` ask it window by window.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.int64]
MIN_PART = 0.25
"""Of an equal part: with less, a job could never show what more would be worth to it."""

_Mask = npt.NDArray[np.bool_]


def no_evict(costs: Bytes, room: int) -> _Mask:
    """Which of the next samples to cache when nothing ever goes: bool [n]; the first ones that fit into `room` bytes.

    The policy of MinIO (Mohan et al. 2021, https://arxiv.org/abs/2007.06775).
    """
    return np.cumsum(costs) <= room


def most_valuable(values: Values, costs: Bytes, new_values: Values, new_costs: Bytes, room: int) -> tuple[_Mask, _Mask]:
    """Which of the cached samples that may go to keep, and which new ones to cache: bool [n], bool [m].

    The most valuable ones of both that fit into `room` bytes; equal values change nothing.
    """
    order = np.argsort(-np.concatenate([values, new_values]), kind="stable")
    fits = np.cumsum(np.concatenate([costs, new_costs])[order]) <= room
    kept = np.zeros(len(order), np.bool_)
    kept[order[fits]] = True
    return kept[: len(values)], kept[len(values) :]


def parts(benefits: Sequence[float | None]) -> list[float]:
    """The part of a cache for each of some jobs, together 1.

    `benefits`: the seconds that a cached byte saves each in a second, None where not measured yet: then as much as the
    others on average. In proportion to them, but for MIN_PART of an equal part, which each job has.
    """
    measured = [benefit for benefit in benefits if benefit is not None]
    usual = sum(measured) / len(measured) if any(measured) else 1.0
    weights = [usual if benefit is None or not any(measured) else benefit for benefit in benefits]
    equal = 1 / len(weights)
    return [MIN_PART * equal + (1 - MIN_PART) * weight / sum(weights) for weight in weights]


def lru_hit_ratio(cached_share: float) -> float:
    """Of a least-recently-used cache of a share c of the samples, all of which come once an epoch in a new order.

    c + (1-c)·ln(1-c): a sample survives when fewer than c distinct others came since.
    """
    return 1.0 if cached_share >= 1 else cached_share + (1 - cached_share) * math.log(1 - cached_share)
