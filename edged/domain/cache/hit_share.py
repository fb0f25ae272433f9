"""How much of an epoch to draw from the cache: a cost model of compute, link and the share that is cached.

Covers the choice of the hit share q and the speed to expect. The caller measures: seconds to train on and to fetch one
sample, smoothed or not.
"""

from itertools import pairwise

_HARMLESS = ((0.0, 0.0), (0.1, 0.36), (0.35, 0.73), (0.75, 0.85), (1.0, 1.0))
"""(c, q) within 0.3 points of uniform sampling's accuracy in tests/bench/sampling_study.py, four epochs.

With 10 % wrong labels, (0.35, 0.73) was, (0.75, 0.9) was not; hence 0.85, which is on the safe side.
"""


def max_hit_share(cached_share: float) -> float:
    """The largest q assumed to be harmless, at least c: linear interpolation of `_HARMLESS`."""
    for (left, low), (right, high) in pairwise(_HARMLESS):
        if cached_share < right:
            return low + (high - low) * (cached_share - left) / (right - left)
    return 1.0


def hit_share(cached_share: float, compute_s: float, fetch_s: float) -> float:
    """The share q of draws to take from a cache that holds a share c of the data; c <= q < 1, and 1 for c = 1.

    `compute_s`, `fetch_s`: seconds that one sample takes to train on and to fetch; they overlap, so a draw takes
    max(compute_s, (1-q)·fetch_s). It is the smallest q for which the link does not slow training: more would cost
    variety and gain nothing. If the link is slower than that, the largest harmless q; if compute-bound, c.
    """
    if cached_share >= 1:
        return 1.0
    needed = 1 - compute_s / fetch_s if fetch_s > compute_s else 0.0
    return min(max(needed, cached_share), max_hit_share(cached_share))


def samples_per_s(hit_share: float, compute_s: float, fetch_s: float) -> float:
    """The highest speed for a hit share q: min(1/compute, 1/((1-q)·fetch)).

    With q = c, the estimator of SiloD (Zhao et al. 2023) for uniform sampling from a cache without eviction.
    """
    return 1 / max(compute_s, (1 - hit_share) * fetch_s)
