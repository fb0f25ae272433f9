"""Admission and eviction: decisions on ids and bytes, and the hit ratios that follow for uniform sampling.

Also the division of a cache among jobs. Stores nothing and knows no epochs. See also: `domain.epochs.rate_plan`, which
asks window by window.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.int64]
MIN_PART = 0.25
"""Share of an equal part that each job has: with less, it could never measure what more would be worth to it."""

_Mask = npt.NDArray[np.bool_]


def no_evict(costs: Bytes, room: int) -> _Mask:
    """Which of the next samples to admit when nothing is ever evicted: bool [n]; the first that fit into `room` bytes.

    The policy of MinIO (Mohan et al. 2021, https://arxiv.org/abs/2007.06775).
    """
    return np.cumsum(costs) <= room


def most_valuable(values: Values, costs: Bytes, new_values: Values, new_costs: Bytes, room: int) -> tuple[_Mask, _Mask]:
    """Which of the evictable samples to keep, and which new ones to admit: bool [n], bool [m].

    The most valuable of both that fit into `room` bytes; among equal values the cached ones stay.
    """
    order = np.argsort(-np.concatenate([values, new_values]), kind="stable")
    fits = np.cumsum(np.concatenate([costs, new_costs])[order]) <= room
    kept = np.zeros(len(order), np.bool_)
    kept[order[fits]] = True
    return kept[: len(values)], kept[len(values) :]


def parts(benefits: Sequence[float | None]) -> list[float]:
    """Each job's part of a cache; they sum to 1.

    `benefits`: what a cached sample saves each job, in seconds per second; None while not measured: then the mean of
    the others. Each job has MIN_PART of an equal part, and of the rest a part in proportion to its benefit.
    """
    measured = [benefit for benefit in benefits if benefit is not None]
    mean = sum(measured) / len(measured) if any(measured) else 1.0
    weights = [mean if benefit is None or not any(measured) else benefit for benefit in benefits]
    equal = 1 / len(weights)
    return [MIN_PART * equal + (1 - MIN_PART) * weight / sum(weights) for weight in weights]


def lru_hit_ratio(cached_share: float) -> float:
    """The hit ratio of an LRU cache of a share c of the samples, each read once per epoch in a new order.

    c + (1-c)·ln(1-c): a sample survives if less than a share c of distinct others was read since.
    """
    return 1.0 if cached_share >= 1 else cached_share + (1 - cached_share) * math.log(1 - cached_share)
