"""Mean pooling against its definition and finite differences. Max-pooling: see `test_layers`."""

import numpy as np
import pytest

from edged.domain.nn.model import Model
from edged.domain.nn.spec import AvgPool2d, Conv2d, Dense, Flatten, GlobalAvgPool, ShapeError
from tests.support.slopes import assert_gradient_is_the_slope, random_params

SHAPE = (7, 6, 2)
POOLS = [AvgPool2d((2, 2), (2, 2)), AvgPool2d((3, 2), (2, 1)), AvgPool2d((1, 2), (3, 2)), AvgPool2d((7, 6), (1, 1))]


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_average_pooling_takes_the_mean_of_each_window(pool):
    model = Model(SHAPE, (pool, Flatten(), Dense(3)), micro_batch=2, dtype=np.float64)
    params, x = random_params(model), np.random.default_rng(0).standard_normal((3, *SHAPE))
    means = np.empty((3, *pool.output_shape(SHAPE)))
    for row, column in np.ndindex(*means.shape[1:3]):
        top, left = row * pool.stride[0], column * pool.stride[1]
        means[:, row, column] = x[:, top : top + pool.size[0], left : left + pool.size[1]].mean(axis=(1, 2))
    expected = means.reshape(3, -1) @ params["2.dense.kernel"] + params["2.dense.bias"]
    np.testing.assert_allclose(model.logits(params, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [SHAPE, (9, 3)])
def test_global_pooling_is_the_mean_of_each_channel(shape):
    model = Model(shape, (GlobalAvgPool(), Dense(3)), micro_batch=2, dtype=np.float64)
    params, x = random_params(model), np.random.default_rng(0).standard_normal((3, *shape))
    means = x.reshape(3, -1, shape[-1]).mean(axis=1)
    expected = means @ params["1.dense.kernel"] + params["1.dense.bias"]
    np.testing.assert_allclose(model.logits(params, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pool", [*POOLS, GlobalAvgPool()], ids=str)
def test_gradient_is_the_slope_of_the_loss(pool):
    head = () if isinstance(pool, GlobalAvgPool) else (Flatten(),)
    assert_gradient_is_the_slope(SHAPE, (Conv2d(3, (2, 2), padding="same"), pool, *head, Dense(3)))


def test_global_pooling_refuses_a_shape_without_positions():
    with pytest.raises(ShapeError, match="global_avg_pool takes"):
        GlobalAvgPool().output_shape((5,))
