"""Dropout: how much it drops, and that its noise depends only on seed, step, layer and sample."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edged.domain.nn.context import LayerContext
from edged.domain.nn.dropout import DropoutLayer
from edged.domain.nn.model import Model, Noise
from edged.domain.nn.spec import Conv2d, Dense, Dropout, Flatten
from tests.support.slopes import NOISE, assert_gradient_is_the_slope

SHAPE = (6, 6, 1)
LAYERS = (Conv2d(4, (3, 3), activation="relu"), Dropout(0.5), Flatten(), Dropout(0.2), Dense(3))


def dropped(rate: float, noise: Noise, n: int = 40, first: int = 0):
    layer = DropoutLayer(Dropout(rate), LayerContext(0, (500,), n, np.float64, input_gradient=True))
    layer.set_noise(noise, first)
    return layer.forward({}, np.ones((n, 500))).copy()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_about_the_rate_is_dropped_and_the_mean_stays(rate):
    y = dropped(rate, NOISE)
    assert (y == 0).mean() == pytest.approx(rate, abs=0.02)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate))
    assert y.mean() == pytest.approx(1, rel=0.1)


def test_masks_differ_by_step_seed_and_sample_and_are_reproducible():
    y = dropped(0.5, Noise(1, 2))
    np.testing.assert_array_equal(dropped(0.5, Noise(1, 2)), y)
    np.testing.assert_array_equal(dropped(0.5, Noise(1, 2), n=30, first=10), y[10:])
    for other in (dropped(0.5, Noise(2, 2)), dropped(0.5, Noise(1, 3)), np.roll(y, 1, axis=0)):
        assert (other == y).mean() == pytest.approx(0.5, abs=0.02)


def test_gradient_is_the_slope_of_the_loss_with_the_same_noise():
    assert_gradient_is_the_slope(SHAPE, LAYERS)


def test_noise_does_not_depend_on_the_division_of_the_mini_batch():
    x, y = np.random.default_rng(0).random((23, *SHAPE)), np.arange(23) % 3
    whole = Model(SHAPE, LAYERS, micro_batch=23, dtype=np.float64)
    params = whole.initial(0)
    expected = whole.gradient(params, x, y, noise=NOISE)
    for lanes, micro_batch in ((1, 4), (2, 5), (3, 2)):
        got = Model(SHAPE, LAYERS, micro_batch=micro_batch, lanes=lanes, dtype=np.float64).gradient(
            params, x, y, noise=NOISE
        )
        np.testing.assert_allclose(got.losses, expected.losses, rtol=1e-12)
        for name, grad in expected.grads.items():
            np.testing.assert_allclose(got.grads[name], grad, rtol=1e-9, atol=1e-12)


def test_threads_give_the_same_bits_as_lanes_run_sequentially():
    x, y = np.random.default_rng(0).random((40, *SHAPE), np.float32), np.arange(40) % 3
    model = Model(SHAPE, LAYERS, micro_batch=4, lanes=2)
    params = model.initial(0)

    def bits(**options) -> bytes:
        return b"".join(grad.tobytes() for grad in model.gradient(params, x, y, noise=NOISE, **options).grads.values())

    sequential = bits()
    with ThreadPoolExecutor(2) as executor:
        assert all(bits(map=executor.map) == sequential for _ in range(10))


def test_predictions_and_gradients_without_noise_drop_nothing():
    plain = tuple(layer for layer in LAYERS if not isinstance(layer, Dropout))
    with_dropout, without = Model(SHAPE, LAYERS, dtype=np.float64), Model(SHAPE, plain, dtype=np.float64)
    params, x, y = with_dropout.initial(0), np.random.default_rng(0).random((9, *SHAPE)), np.arange(9) % 3
    same = dict(zip(without.initial(0), params.values(), strict=True))
    with_dropout.gradient(params, x, y, noise=NOISE)
    np.testing.assert_array_equal(with_dropout.logits(params, x), without.logits(same, x))
    np.testing.assert_array_equal(with_dropout.gradient(params, x, y).losses, without.gradient(same, x, y).losses)
