"""Anomaly scores: of known samples, and the threshold between usual and unusual."""

import numpy as np
import pytest

from edged.domain.training import anomaly


def test_a_score_is_the_mean_squared_difference_of_the_sample():
    x = np.array([[[0, 1], [2, 3]], [[0, 0], [0, 0]]], np.float32)
    given_back = np.array([[0, 1, 2, 5], [0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(anomaly.scores(x, given_back), np.array([[1.0], [0.0]], np.float32))


def test_an_overflowing_score_is_not_finite_and_gives_no_warning():
    x = np.full((1, 2), 3e38, np.float32)
    assert not np.isfinite(anomaly.scores(x, -x)).any()


def test_one_in_a_hundred_usual_samples_is_above_the_threshold():
    losses = np.arange(1000, dtype=np.float32)
    limit = anomaly.threshold(losses)
    assert limit is not None
    assert (losses > limit).sum() == 10


@pytest.mark.parametrize(("losses", "limit"), [([], None), ([0.5], 0.5)])
def test_few_samples_give_a_threshold_and_none_give_none(losses, limit):
    assert anomaly.threshold(np.array(losses, np.float32)) == limit
