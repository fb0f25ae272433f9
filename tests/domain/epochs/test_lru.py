"""Uniform sampling over a least-recently-used cache."""

import numpy as np
import pytest

from edged.domain.cache import policy
from tests.domain.epochs.test_plan import draw, empty, even, hit_ratio, settings_of, windows_of


@pytest.mark.parametrize("share", [0.1, 0.35, 0.75])
def test_the_hit_ratio_agrees_with_theory(share):
    snapshot, start, ratios = even(1000), empty(), []
    limits = settings_of(cached_samples=round(share * 20_000), window_samples=200)
    for epoch in range(4):
        windows = windows_of(plan := draw("lru", snapshot, limits, epoch, start))
        start = plan.after
        ratios.append(hit_ratio(windows))
    assert np.mean(ratios[1:]) == pytest.approx(policy.lru_hit_ratio(share), abs=0.02)


def test_samples_used_in_a_window_outlive_unused_ones():
    snapshot, limits = even(100), settings_of(cached_samples=700, window_samples=100)
    start = draw("lru", snapshot, limits, 0, empty()).after
    window = draw("lru", snapshot, limits, 1, start).window(0)
    assert window is not None
    assert not set(window.evict.tolist()) & set(window.ids.tolist())
    oldest = start.cached[~np.isin(start.cached, window.ids)][: len(window.evict)]
    assert sorted(oldest.tolist()) == window.evict.tolist()
