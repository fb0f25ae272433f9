"""Winograd's 3×3 convolution: the same outputs and gradients as the plain definition, at every border."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edged.domain.nn.context import LayerContext
from edged.domain.nn.conv import ConvLayer, conv_layer
from edged.domain.nn.params import Params
from edged.domain.nn.spec import Conv2d, MaxPool2d
from edged.domain.nn.winograd import WinogradLayer

POOL = MaxPool2d((2, 2), (2, 2))


def weights(rng: np.random.Generator, channels: int, filters: int) -> Params:
    """In double precision, of about the size of `initial`'s."""
    kernel: npt.NDArray[Any] = rng.standard_normal((3, 3, channels, filters)) / np.sqrt(9 * channels)
    bias: npt.NDArray[Any] = rng.standard_normal(filters)
    return {"0.conv2d.kernel": kernel, "0.conv2d.bias": bias}


def layers(conv: Conv2d, pool: MaxPool2d | None, shape: tuple[int, int, int]) -> tuple[WinogradLayer, ConvLayer]:
    """By Winograd, and by patches."""
    context = LayerContext(0, shape, 3, np.float64, input_gradient=True)
    return WinogradLayer(conv, pool, context), ConvLayer(conv, pool, context)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 5), (5, 6), (4, 4)], ids=str)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("pool", [None, POOL], ids=["alone", "pooled"])
def test_agrees_with_the_convolution_by_patches(size, padding, activation, pool):
    """Twice, and with a smaller micro-batch between, so that nothing is left over from the previous call."""
    shape = (*size, 8)
    conv = Conv2d(9, (3, 3), padding=padding, activation=activation)
    rng = np.random.default_rng(1)
    params = weights(rng, 8, 9)
    by_winograd, by_patches = layers(conv, pool, shape)
    for n in (3, 2, 3):
        x = rng.standard_normal((n, *shape))
        by_winograd.begin(params)
        y, expected_y = (layer.forward(params, x) for layer in (by_winograd, by_patches))
        np.testing.assert_allclose(y, expected_y, atol=1e-12)
        dy = rng.standard_normal(y.shape)
        grads = [{name: np.ones_like(value) for name, value in params.items()} for _ in range(2)]
        dx = by_winograd.backward(params, dy.copy(), grads[0])
        expected_dx = by_patches.backward(params, dy.copy(), grads[1])
        by_winograd.end(grads[0])
        assert dx is not None
        assert expected_dx is not None
        np.testing.assert_allclose(dx, expected_dx, atol=1e-12)
        for name in params:
            np.testing.assert_allclose(grads[0][name], grads[1][name], atol=1e-11)


def test_single_precision_stays_within_a_few_units_of_the_last_place():
    conv, shape = Conv2d(64, (3, 3)), (13, 13, 32)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, *shape))
    params = weights(rng, 32, 64)
    exact = layers(conv, None, shape)[1].forward(params, x)
    layer = WinogradLayer(conv, None, LayerContext(0, shape, 3, np.float32, input_gradient=False))
    rounded = {name: value.astype(np.float32) for name, value in params.items()}
    layer.begin(rounded)
    single = layer.forward(rounded, x.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, atol=5e-6)


@pytest.mark.parametrize(
    ("conv", "pool", "channels", "is_winograd"),
    [
        (Conv2d(64, (3, 3)), POOL, 32, True),
        (Conv2d(64, (3, 3), padding="same"), None, 8, True),
        (Conv2d(64, (3, 3)), POOL, 1, False),
        (Conv2d(64, (3, 3)), MaxPool2d((3, 3), (3, 3)), 32, False),
        (Conv2d(64, (3, 3), (2, 2)), None, 32, False),
        (Conv2d(64, (5, 5)), None, 32, False),
    ],
    ids=str,
)
def test_it_takes_only_what_it_can_compute(conv, pool, channels, is_winograd):
    layer = conv_layer(conv, pool, LayerContext(0, (13, 13, channels), 1, np.float32, input_gradient=False))
    assert isinstance(layer, WinogradLayer) == is_winograd
