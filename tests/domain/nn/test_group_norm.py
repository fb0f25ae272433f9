"""Group normalisation: its outputs for any input, and its gradient."""

import numpy as np
import pytest

from edged.domain.nn.model import Model
from edged.domain.nn.spec import Conv1d, Conv2d, Dense, Flatten, GroupNorm, Relu, ShapeError
from tests.support.slopes import assert_gradient_is_the_slope, random_params


@pytest.mark.parametrize(
    ("shape", "groups"), [((5, 4, 6), 1), ((5, 4, 6), 3), ((5, 4, 6), 6), ((7, 6), 1), ((7, 6), 2), ((6,), 2)]
)
def test_groups_get_mean_and_variance_of_scale_and_bias(shape, groups):
    head = (Flatten(),) if len(shape) > 1 else ()
    model = Model(shape, (GroupNorm(groups, epsilon=1e-9), *head), micro_batch=2, dtype=np.float64)
    params = {"0.group_norm.scale": np.full(6, 2.0), "0.group_norm.bias": np.full(6, -1.0)}
    x = 7 + 3 * np.random.default_rng(0).standard_normal((3, *shape))
    y = model.logits(params, x).reshape(3, -1, groups, 6 // groups)
    np.testing.assert_allclose(y.mean(axis=(1, 3)), -1, atol=1e-9)
    np.testing.assert_allclose(y.std(axis=(1, 3)), 2, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradient_is_the_slope_of_the_loss(groups):
    norm = GroupNorm(groups, epsilon=1e-2)
    assert_gradient_is_the_slope((5, 4, 2), (Conv2d(4, (2, 2)), norm, Relu(), Flatten(), Dense(3)))
    assert_gradient_is_the_slope((9, 2), (Conv1d(4, 2), norm, Flatten(), Dense(3)))
    assert_gradient_is_the_slope((5, 4, 4), (norm, Flatten(), Dense(3)))


def test_a_samples_output_does_not_depend_on_the_others():
    model = Model((4, 4, 4), (GroupNorm(2), Flatten()), dtype=np.float64)
    params, x = random_params(model), np.random.default_rng(0).standard_normal((5, 4, 4, 4))
    np.testing.assert_allclose(model.logits(params, x)[2:3], model.logits(params, x[2:3]), rtol=1e-12)


def test_groups_must_divide_the_channels():
    with pytest.raises(ShapeError, match="6 channels cannot be divided into 4 groups"):
        GroupNorm(4).output_shape((3, 3, 6))
