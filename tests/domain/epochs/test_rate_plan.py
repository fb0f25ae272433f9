"""Plans that draw each sample at the rate of a rule, and the caches they keep."""

from dataclasses import replace

import numpy as np
import pytest

from edged.domain.epochs import modes
from edged.domain.epochs.scores import ScoreTable
from tests.domain.epochs.test_plan import draw, empty, even, hit_ratio, ids_of, scores_of, settings_of, windows_of

N = 6000


def steady(mode, cached, epochs=6, **limits):
    """Windows of the last epoch and the start before it."""
    snapshot, start = even(300), empty()
    for epoch in range(epochs):
        before = start
        plan = draw(mode, snapshot, settings_of(cached_samples=cached, **limits), epoch, start)
        start = plan.after
    return windows_of(plan), before


@pytest.mark.parametrize("cached", [600, 2100, 4500])
def test_the_hit_ratio_of_a_cache_without_eviction_is_its_share(cached):
    windows, before = steady("no_evict", cached, epochs=2)
    assert hit_ratio(windows) == pytest.approx(cached / N)
    assert not any(len(window.evict) for window in windows)
    assert len(before.cached) == cached


def test_importance_draws_at_most_its_rate_and_caches_the_highest_scores():
    snapshot = even(300)
    windows, before = steady("importance", 600, epochs=12)
    ids, scores = ids_of(windows), scores_of(snapshot)
    times = np.bincount(ids, minlength=N)
    values = scores.of(np.arange(N))
    assert times.max() <= np.ceil(0.8 * values.max() / values.mean() + 1)
    hard = np.argsort(-values)[:600]
    assert times[hard].mean() > 2 * times.mean()
    assert np.isin(before.cached, hard).mean() > 0.9
    assert hit_ratio(windows) > 0.2  # a uniform plan's is 0.1
    assert len(ids) == pytest.approx(N, rel=0.05)


def test_importance_is_uniform_in_its_first_epoch_without_scores_and_behind_a_shut_gate():
    snapshot, limits = even(30), settings_of(cached_samples=60)
    unknown, known = ScoreTable(snapshot, 1 << 20), scores_of(snapshot)
    for epoch, scores, is_open in ((0, known, True), (3, unknown, True), (3, known, False)):
        start = replace(empty(), is_gate_open=is_open)
        plan = modes.plan("importance", limits, snapshot, epoch, start, scores)
        windows = windows_of(plan)
        assert sorted(ids_of(windows).tolist()) == list(range(600))
        assert all((window.weights == 1).all() for window in windows)


def test_shade_as_published_takes_all_hits_first_and_repaired_spreads_them():
    for mode, is_first in (("shade_published", True), ("shade", False)):
        window = steady(mode, 600)[0][0]
        num_hits = int(window.is_cached.sum())
        assert num_hits > 20
        assert bool(window.is_cached[:num_hits].all()) == is_first


def test_shade_hits_three_times_as_often_as_its_cache_is_large():
    windows, _ = steady("shade", 600)
    assert hit_ratio(windows) == pytest.approx(0.33, abs=0.06)


def test_icache_repaired_substitutes_cached_samples_that_the_epoch_would_leave_out_each_once():
    windows, _ = steady("icache", 1800, epochs=9)  # the last is epoch 8, not a full one
    ids = ids_of(windows)
    assert len(ids) == len(set(ids.tolist()))
    assert len(ids) == pytest.approx(0.752 * N, rel=0.05)
    hits = np.concatenate([window.ids[window.is_cached] for window in windows])
    assert len(hits) > 0.97 * 1800


def test_icache_as_published_repeats_samples_within_an_epoch():
    windows, _ = steady("icache_published", 600, epochs=9)
    ids = ids_of(windows)
    assert len(ids) > len(set(ids.tolist()))


@pytest.mark.parametrize("mode", ["importance", "shade", "icache"])
def test_samples_still_to_be_drawn_in_the_epoch_are_not_evicted(mode):
    windows, _ = steady(mode, 600, epochs=9)
    evicted: set[int] = set()
    for window in windows:
        evicted |= set(window.evict.tolist())
        assert not evicted & set(window.ids[window.is_cached].tolist())


def test_an_open_and_a_shut_gate_give_plans_of_different_digests():
    snapshot, limits = even(30), settings_of(cached_samples=60)
    is_open, shut = (
        draw("importance", snapshot, limits, start=replace(empty(), is_gate_open=gate)) for gate in (True, False)
    )
    assert is_open.digest != shut.digest
