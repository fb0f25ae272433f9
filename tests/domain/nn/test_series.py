"""Layers along a series, against plain definitions and finite differences."""

import itertools

import numpy as np
import pytest

from edged.domain.nn.conv import same_padding
from edged.domain.nn.model import Model
from edged.domain.nn.spec import (
    AvgPool1d,
    Conv1d,
    Dense,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    LayerSpec,
    MaxPool1d,
    Padding,
    ShapeError,
)
from tests.support.slopes import FUNCTIONS, assert_gradient_is_the_slope, random_params

SHAPE = (11, 2)
PADDINGS: list[Padding] = ["valid", "same"]
CONVOLUTIONS = [
    Conv1d(4, kernel, stride, padding, activation)
    for kernel, stride, padding, activation in itertools.product([1, 3, 4], [1, 2, 5], PADDINGS, FUNCTIONS)
]
POOLS: list[LayerSpec] = [
    kind(size, stride) for kind in (MaxPool1d, AvgPool1d) for size, stride in [(2, 2), (3, 2), (2, 3), (3, 1)]
]


def by_definition(conv: Conv1d, x, kernel, bias):
    pads = same_padding(x.shape[1], conv.kernel, conv.stride) if conv.padding == "same" else (0, 0)
    x = np.pad(x, [(0, 0), pads, (0, 0)])
    starts = range(0, x.shape[1] - conv.kernel + 1, conv.stride)
    result = np.stack([np.einsum("nlc,lcf->nf", x[:, at : at + conv.kernel], kernel) for at in starts], axis=1) + bias
    return FUNCTIONS[conv.activation](result)


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_convolution_follows_its_definition(conv):
    model = Model(SHAPE, (conv, Flatten()), micro_batch=2, dtype=np.float64)
    params, x = random_params(model), 3 * np.random.default_rng(0).standard_normal((3, *SHAPE))
    expected = by_definition(conv, x, *params.values()).reshape(3, -1)
    np.testing.assert_allclose(model.logits(params, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pooling_follows_its_definition(pool):
    model = Model(SHAPE, (pool, Flatten(), Dense(3)), dtype=np.float64)
    params, x = random_params(model), np.random.default_rng(0).standard_normal((3, *SHAPE))
    reduce = np.max if isinstance(pool, MaxPool1d) else np.mean
    windows = [reduce(x[:, at : at + pool.size], axis=1) for at in range(0, 12 - pool.size, pool.stride)]
    expected = np.concatenate(windows, axis=1) @ params["2.dense.kernel"] + params["2.dense.bias"]
    np.testing.assert_allclose(model.logits(params, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_gradient_of_convolution_is_the_slope_of_the_loss(conv):
    assert_gradient_is_the_slope(SHAPE, (Conv1d(3, 2), conv, Flatten(), Dense(3)))


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "tanh"])
def test_gradient_through_pooling_is_the_slope_of_the_loss(pool, activation):
    assert_gradient_is_the_slope(SHAPE, (Conv1d(3, 2, activation=activation), pool, Conv1d(2, 1), Flatten()))


def test_gradient_of_a_whole_network_is_the_slope_of_the_loss():
    layers = (Conv1d(4, 3, 2), GroupNorm(2), MaxPool1d(2, 2), Conv1d(4, 2, padding="same"), GlobalAvgPool(), Dense(2))
    assert_gradient_is_the_slope((19, 2), layers)


def test_weights_have_the_published_names_and_shapes():
    params = Model(SHAPE, (Conv1d(4, 3), Flatten(), Dense(2))).initial(0)
    assert params["0.conv1d.kernel"].shape == (3, 2, 4)
    assert params["0.conv1d.bias"].shape == (4,)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Conv1d(2, 12), "conv1d: a window of 12 does not fit into 11"),
        (MaxPool1d(12, 1), "max_pool1d: a window of 12 does not fit into 11"),
        (AvgPool1d(12, 1), "avg_pool1d: a window of 12 does not fit into 11"),
    ],
)
def test_a_window_longer_than_the_series_is_refused(layer, message):
    with pytest.raises(ShapeError, match=message):
        layer.output_shape(SHAPE)


@pytest.mark.parametrize("layer", [Conv1d(2, 3), MaxPool1d(2, 2), AvgPool1d(2, 2)])
def test_an_image_is_no_series(layer):
    with pytest.raises(ShapeError, match=r"takes \[length, channels\], not 8×8×1"):
        layer.output_shape((8, 8, 1))
