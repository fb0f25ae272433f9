"""The ranges of a trained model's layers."""

import numpy as np
import pytest

from edged.domain.nn.model import Model
from edged.domain.nn.params import initial_params
from edged.domain.nn.ranges import output_ranges
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec, MaxPool2d, Tanh

SHAPE = (4, 4, 1)
LAYERS: list[LayerSpec] = [Conv2d(2, (1, 1)), MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(1), Tanh()]


def test_each_layers_range_is_its_minimum_and_maximum_over_all_samples():
    x = np.zeros((20, *SHAPE), np.float32)
    x[:, 0, 0, 0] = np.linspace(-1, 3, 20)
    params = initial_params(SHAPE, LAYERS, seed=0)
    params["0.conv2d.kernel"] = np.array([2.0, -1.0], np.float32).reshape(1, 1, 1, 2)
    params["0.conv2d.bias"] = np.array([0.5, 0.0], np.float32)
    params["3.dense.kernel"] = np.zeros((8, 1), np.float32)
    params["3.dense.kernel"][0] = -0.1
    ranges = output_ranges(SHAPE, list(enumerate(LAYERS)), params, x)
    expected = [(-1, 3), (-3, 6.5), (0, 6.5), (0, 6.5), (-0.65, -0.05), (np.tanh(-0.65), np.tanh(-0.05))]
    assert ranges == [pytest.approx(each, abs=1e-6) for each in expected]


def test_the_last_layers_range_is_that_of_the_models_outputs():
    """With convolutions of every kind: by Winograd, pointwise, by patches."""
    shape = (8, 8, 8)
    layers: list[LayerSpec] = [Conv2d(8, (3, 3)), Conv2d(8, (1, 1)), Conv2d(4, (3, 3), (2, 2)), Flatten()]
    params, x = initial_params(shape, layers, seed=1), np.random.default_rng(2).random((40, *shape), np.float32)
    outputs = Model(shape, layers).logits(params, x)
    assert output_ranges(shape, list(enumerate(layers)), params, x)[-1] == pytest.approx((outputs.min(), outputs.max()))
