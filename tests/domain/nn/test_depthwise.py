"""Depthwise convolution against its definition, and its gradient against finite differences."""

import itertools

import numpy as np
import pytest

from edged.domain.nn.conv import same_padding
from edged.domain.nn.model import Model
from edged.domain.nn.spec import Conv2d, Dense, DepthwiseConv2d, Flatten, Padding
from tests.support.slopes import FUNCTIONS, assert_gradient_is_the_slope, random_params

SHAPE = (7, 6, 3)
PADDINGS: list[Padding] = ["valid", "same"]
CONVOLUTIONS = [
    DepthwiseConv2d(kernel, stride, padding, activation)
    for kernel, stride, padding, activation in itertools.product(
        [(1, 1), (3, 3), (2, 5), (5, 2)],
        [(1, 1), (2, 2), (1, 3), (3, 1)],
        PADDINGS,
        FUNCTIONS,
    )
]


def by_definition(conv: DepthwiseConv2d, x, kernel, bias):
    pads = [same_padding(n, k, s) for n, k, s in zip(x.shape[1:3], conv.kernel, conv.stride, strict=True)]
    x = np.pad(x, [(0, 0), *pads, (0, 0)]) if conv.padding == "same" else x
    result = np.empty((len(x), *conv.output_shape(SHAPE)))
    for row, column in np.ndindex(*result.shape[1:3]):
        top, left = row * conv.stride[0], column * conv.stride[1]
        window = x[:, top : top + conv.kernel[0], left : left + conv.kernel[1]]
        result[:, row, column] = (window * kernel).sum(axis=(1, 2)) + bias
    return FUNCTIONS[conv.activation](result)


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_convolution_follows_its_definition(conv):
    model = Model(SHAPE, (conv, Flatten()), micro_batch=2, dtype=np.float64)
    params, x = random_params(model), 3 * np.random.default_rng(0).standard_normal((3, *SHAPE))
    expected = by_definition(conv, x, *params.values()).reshape(3, -1)
    np.testing.assert_allclose(model.logits(params, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_gradient_is_the_slope_of_the_loss(conv):
    assert_gradient_is_the_slope(SHAPE, (conv, Flatten(), Dense(3)))
    assert_gradient_is_the_slope((*SHAPE[:2], 2), (Conv2d(3, (1, 1)), conv, Flatten(), Dense(3)))


def test_channels_do_not_mix():
    model = Model(SHAPE, (DepthwiseConv2d((3, 3)), Flatten()), dtype=np.float64)
    params, x = random_params(model), np.random.default_rng(0).standard_normal((1, *SHAPE))
    before = model.logits(params, x).reshape(-1, 3)
    x[..., 1] += 1
    after = model.logits(params, x).reshape(-1, 3)
    np.testing.assert_array_equal(after[:, [0, 2]], before[:, [0, 2]])
    assert (after[:, 1] != before[:, 1]).all()
