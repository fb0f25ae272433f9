"""Which samples a cache keeps: decisions on ids and bytes, and the hit ratios that follow for uniform sampling.

Stores nothing and knows no epochs; `rate_plan` and `lru_plan` ask it window by window.
"""

import math

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.int64]
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


def summed_value(values: Values, benefits: npt.NDArray[np.float64]) -> Values:
    """What samples are worth to jobs that share a cache: float64 [n].

    `values`: [jobs, n], each job's own; made comparable by their mean over the samples. `benefits`: [jobs], how much
    faster each job was measured to be with the cache than without, in seconds saved a sample, not negative.
    """
    means: Values = values.mean(axis=1, keepdims=True)
    shares = benefits / (float(benefits.sum()) or 1.0)
    summed: Values = shares @ (values / np.where(means > 0, means, 1.0))
    return summed


def lru_hit_ratio(cached_share: float) -> float:
    """Of a least-recently-used cache of a share c of the samples, all of which come once an epoch in a new order.

    c + (1-c)·ln(1-c): a sample survives when fewer than c distinct others came since.
    """
    return 1.0 if cached_share >= 1 else cached_share + (1 - cached_share) * math.log(1 - cached_share)
