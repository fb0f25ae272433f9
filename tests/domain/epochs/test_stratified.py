"""The stratified plan: data echoing over a cyclic scan."""

from dataclasses import replace

import numpy as np

from edged.domain.archive.snapshot import renumbered
from tests.domain.epochs.test_plan import draw, empty, even, hit_ratio, ids_of, settings_of, some_cached, windows_of


def test_each_epoch_fetches_the_given_share_whatever_the_cache_holds():
    snapshot = even(300)
    for cached, q in ((600, 0.36), (2100, 0.7), (4500, 0.9)):
        limits, start = settings_of(cached_samples=cached, window_samples=200), empty(q)
        for epoch in range(5):
            windows = windows_of(plan := draw("stratified", snapshot, limits, epoch, start))
            drawn = sum(window.num_samples for window in windows)
            assert abs(drawn - 6000) <= 20
            start = plan.after
        assert abs(hit_ratio(windows) - q) < 0.01


def test_over_a_round_all_samples_are_drawn_and_fetched_about_equally_often():
    snapshot = even(300)
    limits, start = settings_of(cached_samples=2100, window_samples=200), empty()
    drawn, fetched = np.zeros(6000), np.zeros(6000)
    for epoch in range(22):
        windows = windows_of(plan := draw("stratified", snapshot, limits, epoch, start))
        start = plan.after
        if epoch >= 2:  # the cache is full
            np.add.at(drawn, ids_of(windows), 1)
            for window in windows:
                np.add.at(fetched, window.fetch.ids, 1)
    assert set(fetched.astype(int).tolist()) <= {5, 6, 7}
    assert drawn.mean() == 20 or abs(drawn.mean() - 20) < 0.1
    assert drawn.std() < 3  # independent draws: 4.5


def test_all_samples_have_the_same_weight():
    window = draw("stratified", even(50), settings_of(cached_samples=300)).window(3)
    assert window is not None
    assert (window.weights == 1).all()


def test_a_cold_cache_is_drawn_from_as_soon_as_it_holds_any():
    windows = windows_of(draw("stratified", even(300), settings_of(cached_samples=2100, window_samples=200), 0))
    assert hit_ratio(windows[:1]) == 0
    assert hit_ratio(windows[1:]) > 0.65


def test_no_cached_sample_is_drawn_twice_before_all_others_once():
    snapshot, limits = even(300), settings_of(cached_samples=2100, window_samples=100)
    start = draw("stratified", snapshot, limits, 0).after
    windows = windows_of(draw("stratified", snapshot, limits, 1, start))[:5]
    hits = np.concatenate([window.ids[window.is_cached] for window in windows])
    assert len(hits) == len(set(hits.tolist()))


def test_the_scan_resumes_where_it_was_after_the_archive_grew():
    old, new = even(300), even(330)
    limits = settings_of(cached_samples=2100, window_samples=200)
    before = draw("stratified", old, limits, 0)
    left = before.after
    was_fetched = np.concatenate([window.fetch.ids for window in windows_of(before)])
    start = replace(left, cached=renumbered(left.cached, old, new))
    now = np.concatenate([window.fetch.ids for window in windows_of(draw("stratified", new, limits, 1, start))])
    assert not set(renumbered(was_fetched, old, new).tolist()) & set(now.tolist())
    assert (now >= old.num_samples).any()


def test_samples_cached_by_another_policy_are_drawn_and_evicted_in_turn():
    snapshot = even(300)
    start = some_cached(snapshot, 2100, 2)
    windows = windows_of(draw("stratified", snapshot, settings_of(cached_samples=2100), start=start))
    hits = np.concatenate([window.ids[window.is_cached] for window in windows])
    evicted = np.concatenate([window.evict for window in windows])
    assert hit_ratio(windows) >= 0.7
    assert np.isin(start.cached, hits).mean() > 0.4
    assert np.isin(evicted, start.cached).sum() > 1000


def test_a_cache_that_holds_everything_is_a_permutation_without_fetches():
    snapshot = even(30)
    start = some_cached(snapshot, 600, 0)
    windows = windows_of(draw("stratified", snapshot, settings_of(cached_samples=600), start=start))
    assert sorted(ids_of(windows).tolist()) == list(range(600))
    assert hit_ratio(windows) == 1


def test_a_windows_misses_are_whole_blocks_and_take_at_most_a_quarter_of_the_cache():
    snapshot, limits = even(300), settings_of(cached_samples=800, window_samples=10_000)
    windows = windows_of(draw("stratified", snapshot, limits))
    assert len(windows) > 5
    for window in windows:
        assert window.fetch.num_samples == 20 * len(window.fetch.refs) <= 200
        assert window.admit.all()


def test_samples_are_reused_less_while_the_cache_fills():
    snapshot, start = even(300), empty(0.95)
    ids = []
    for epoch in range(3):
        plan = draw("stratified", snapshot, settings_of(cached_samples=4500, window_samples=200), epoch, start)
        ids.append(ids_of(windows_of(plan)))
        start = plan.after
    assert len(np.unique(np.concatenate(ids))) > 0.7 * 6000
