"""Sampling rules: how often samples are drawn, and their weights."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.epochs import importance
from edged.domain.epochs.importance import FLOOR, Gate, ICache, Importance, Shade
from edged.domain.epochs.scores import ScoreTable
from edged.domain.nn.model import Model, Params
from edged.domain.nn.spec import Dense
from tests.domain.epochs.test_plan import draw, even, settings_of, some_cached, windows_of

N = 600
IDS = np.arange(N)
_Array = npt.NDArray[Any]
NONE = np.zeros(N, np.bool_)


def table(scores: _Array, ids: _Array = IDS) -> ScoreTable:
    made = ScoreTable(even(N // 20), 1 << 20)
    made.update(ids, scores.astype(np.float32))
    return made


def skewed(seed: int = 0) -> _Array:
    return np.random.default_rng(seed).gamma(0.3, size=N)


def test_weights_undo_rates_exactly_and_never_exceed_the_floors_inverse():
    rule = Importance(table(skewed()))
    rates, weights = rule.rates(IDS, NONE), rule.weights(IDS, NONE)
    assert np.allclose(rates * weights, 1, rtol=1e-6)
    assert weights.max() <= 1 / FLOOR + 1e-6
    assert rates.mean() == pytest.approx(1, abs=1e-3)


def test_one_huge_score_does_not_dominate_the_epoch():
    scores = np.ones(N)
    scores[0] = 1e4
    assert Importance(table(scores)).rates(IDS, NONE).max() < 2


def test_a_sample_never_seen_is_drawn_as_often_as_the_mean():
    rule = Importance(table(skewed()[:300], IDS[:300]))
    assert np.allclose(rule.rates(IDS[300:], NONE[300:]), 1, atol=2e-3)


def test_without_scores_all_rates_are_one():
    assert np.allclose(Importance(ScoreTable(even(30), 1 << 20)).rates(IDS, NONE), 1)


@given(st.floats(0, 5), st.integers(0, 99))
def test_counts_are_the_rate_rounded_either_way_and_right_on_average(rate, seed):
    counts = importance.counts(np.full(4000, rate), np.random.default_rng(seed))
    assert set(counts.tolist()) <= {int(rate), int(rate) + 1}
    assert abs(counts.mean() - rate) < 0.05


def test_the_effective_sample_size_is_the_number_of_equal_weights():
    assert importance.effective_sample_size(np.full(50, 3, np.float32)) == pytest.approx(50)
    assert importance.effective_sample_size(np.array([1, 0, 0], np.float32)) == pytest.approx(1)
    assert importance.effective_sample_size(np.zeros(0, np.float32)) == 0


def test_tau_is_one_for_equal_scores_and_grows_as_few_samples_matter():
    assert importance.tau(np.ones(64, np.float32)) == pytest.approx(1)
    assert importance.tau(np.eye(1, 64, dtype=np.float32)[0]) == pytest.approx(8)
    assert importance.tau(np.zeros(64, np.float32)) == 1


def test_the_gate_opens_only_after_a_run_of_differing_scores():
    gate, few = Gate(), np.eye(1, 64, dtype=np.float32)[0]
    assert not gate.is_open
    assert not Gate().after(np.ones(64, np.float32)).is_open
    for _ in range(5):
        gate = gate.after(few)
    assert gate.is_open
    for _ in range(40):
        gate = gate.after(np.ones(64, np.float32))
    assert not gate.is_open


def test_shade_replays_cached_samples_and_repaired_weighs_replays_down():
    scores, cached, is_cached = table(skewed()), IDS[::10], NONE.copy()
    is_cached[::10] = True
    rule = Shade(scores, cached, N, as_published=False)
    rates = rule.rates(IDS, is_cached)
    assert rates.mean() == pytest.approx(1, abs=0.02)
    assert rates[is_cached].mean() > 2.5 * rates[~is_cached].mean()
    by_rank = rates * rule.weights(IDS, is_cached)
    assert by_rank[is_cached].mean() == pytest.approx(by_rank[~is_cached].mean(), rel=0.1)
    assert (Shade(scores, cached, N, as_published=True).weights(IDS, is_cached) == 1).all()


def test_shade_as_published_starves_samples_never_seen_and_repaired_does_not():
    scores = table(skewed()[:300], IDS[:300])
    published, repaired = (
        Shade(scores, IDS[:0], N, as_published=flag).rates(IDS[300:], NONE[300:]).mean() for flag in (True, False)
    )
    assert published < 0.5 * repaired
    assert repaired == pytest.approx(1)


def test_icache_keeps_three_quarters_and_all_in_every_third_epoch():
    scores = table(skewed())
    assert ICache(scores, 7).rates(IDS, NONE).mean() == pytest.approx(0.752, abs=0.01)
    assert (ICache(scores, 6).rates(IDS, NONE) == 1).all()
    assert (ICache(scores, 4).rates(IDS, NONE) == 1).all()


def gradient_of(model: Model, params: Params, data: tuple[_Array, _Array], ids: _Array, weights: _Array) -> _Array:
    x, y = data
    gradient = model.gradient(params, x[ids], y[ids], weights)
    summed: _Array = np.concatenate([gradient.grads[name].ravel() for name in sorted(gradient.grads)]) * len(ids) / N
    return summed


@pytest.mark.parametrize("mode", ["stratified", "importance", "uniform"])
def test_the_expected_weighted_gradient_is_that_of_all_the_data(mode):
    """Over many seeds, each component's mean is within five standard errors of the truth."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, N)
    data = (rng.normal(size=(N, 4)).astype(np.float64) + y[:, None], y)
    model = Model((4,), (Dense(3),), dtype=np.float64)
    params = model.initial(0)
    snapshot, truth = even(N // 20), gradient_of(model, params, data, IDS, np.ones(N))
    drawn = []
    for seed in range(60):
        limits = settings_of(cached_samples=210, seed=seed)
        start = some_cached(snapshot, 210, seed)  # membership does not depend on the sample
        windows = windows_of(draw(mode, snapshot, limits, start=start))
        ids = np.concatenate([window.ids for window in windows])
        weights = np.concatenate([window.weights for window in windows]).astype(np.float64)
        drawn.append(gradient_of(model, params, data, ids, weights))
    error = np.std(drawn, axis=0, ddof=1) / np.sqrt(len(drawn)) + 1e-9
    assert (np.abs(np.mean(drawn, axis=0) - truth) / error).max() < 5
