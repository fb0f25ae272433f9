"""Losses and the scores that come with them."""

import numpy as np
import pytest

from edged.domain.nn.loss import mean_squared_error, softmax
from edged.domain.nn.model import Model
from edged.domain.nn.spec import Dense, Flatten, Tanh
from tests.support.slopes import assert_gradient_is_the_slope

SHAPE = (3, 4, 2)
LAYERS = (Flatten(), Dense(6), Tanh(), Dense(5))


def test_mean_squared_error_of_known_values():
    losses, gradient = mean_squared_error(np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(losses, [2.5, 0])
    np.testing.assert_allclose(gradient, [[1, -2], [0, 0]])


def test_gradient_of_mean_squared_error_is_its_slope():
    assert_gradient_is_the_slope(SHAPE, LAYERS, loss="mean_squared_error")


def test_scores_of_a_classifier_are_the_distance_of_probabilities_from_the_label():
    model = Model(SHAPE, LAYERS, micro_batch=3, lanes=2, dtype=np.float64)
    params, x, y = model.initial(0), np.random.default_rng(0).standard_normal((8, *SHAPE)), np.arange(8) % 5
    expected = np.linalg.norm(softmax(model.logits(params, x)) - np.eye(5)[y], axis=1)
    np.testing.assert_allclose(model.gradient(params, x, y).scores, expected, rtol=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared_error"])
def test_scores_are_the_norms_of_the_last_biases_gradients_whatever_the_weights(loss):
    """The last bias's gradient is that with respect to the outputs, so the model itself gives each sample's."""
    model = Model(SHAPE, LAYERS, dtype=np.float64, loss=loss)
    rng = np.random.default_rng(0)
    params, x = model.initial(0), rng.standard_normal((6, *SHAPE))
    y = np.arange(6) % 5 if loss == "cross_entropy" else rng.standard_normal((6, 5))
    scores = model.gradient(params, x, y, rng.random(6)).scores.copy()
    for row in range(6):
        one = model.gradient(params, x[row : row + 1], y[row : row + 1]).grads["3.dense.bias"]
        assert scores[row] == pytest.approx(float(np.linalg.norm(one)), rel=1e-12)


def test_without_classes_no_prediction_counts_as_correct():
    model = Model(SHAPE, LAYERS, loss="mean_squared_error")
    x = np.ones((2, *SHAPE), np.float32)
    assert model.gradient(model.initial(0), x, np.zeros((2, 5), np.float32)).num_correct == 0
