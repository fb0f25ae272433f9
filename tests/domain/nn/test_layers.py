"""Each layer's forward pass against a plain definition, and its backward pass against finite differences."""

import itertools

import numpy as np
import pytest

from edged.domain.nn.conv import same_padding
from edged.domain.nn.model import Model
from edged.domain.nn.params import Params
from edged.domain.nn.spec import Activation, Conv2d, Dense, Flatten, LayerSpec, MaxPool2d, Padding, Relu, ShapeError

SHAPE = (7, 6, 2)
KERNELS = [(1, 1), (3, 3), (2, 4)]
STRIDES = [(1, 1), (2, 1), (2, 3)]
PADDINGS: list[Padding] = ["valid", "same"]
ACTIVATIONS: list[Activation] = ["none", "relu"]
CONVOLUTIONS = [
    Conv2d(3, kernel, stride, padding, activation)
    for kernel, stride, padding, activation in itertools.product(KERNELS, STRIDES, PADDINGS, ACTIVATIONS)
]
POOLS = [MaxPool2d((2, 2), (2, 2)), MaxPool2d((3, 2), (2, 1)), MaxPool2d((1, 2), (3, 2)), MaxPool2d((2, 3), (1, 1))]
MODELS: list[tuple[LayerSpec, ...]] = [
    *((conv, Flatten(), Dense(4)) for conv in CONVOLUTIONS),
    *((Conv2d(3, (2, 2), padding="same", activation="relu"), conv, Flatten()) for conv in CONVOLUTIONS),
    *((pool, Conv2d(2, (2, 2)), Flatten(), Dense(3)) for pool in POOLS),
    *((Conv2d(3, (2, 2)), pool, Conv2d(2, (1, 2)), Flatten()) for pool in POOLS),
    *(
        (Conv2d(2, (1, 1)), Conv2d(3, (2, 3), stride, padding, "relu"), MaxPool2d((2, 1), (2, 1)), Flatten())
        for stride, padding in itertools.product(STRIDES, PADDINGS)
    ),
    (Relu(), Flatten(), Dense(5, "relu"), Relu(), Dense(4)),
    (Conv2d(3, (3, 3)), Relu(), MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(4, "relu"), Dense(3)),
]


def random_params(model: Model, seed: int = 1) -> Params:
    """Weights with biases that are not zero, so that the biases' part shows."""
    rng = np.random.default_rng(seed)
    return {name: value + 0.1 * rng.standard_normal(value.shape) for name, value in model.initial(seed).items()}


def conv_by_definition(conv: Conv2d, x, kernel, bias):
    pads = [same_padding(n, k, s) for n, k, s in zip(x.shape[1:3], conv.kernel, conv.stride, strict=True)]
    x = np.pad(x, [(0, 0), *pads, (0, 0)]) if conv.padding == "same" else x
    _, rows, columns = 0, *conv.output_shape(SHAPE)[:2]
    result = np.empty((len(x), rows, columns, conv.filters))
    for row, column in np.ndindex(rows, columns):
        top, left = row * conv.stride[0], column * conv.stride[1]
        window = x[:, top : top + conv.kernel[0], left : left + conv.kernel[1]]
        result[:, row, column] = np.einsum("nhwc,hwcf->nf", window, kernel) + bias
    return np.maximum(result, 0) if conv.activation == "relu" else result


def pool_by_definition(pool: MaxPool2d, x):
    rows, columns, channels = pool.output_shape(x.shape[1:])
    result = np.empty((len(x), rows, columns, channels))
    for row, column in np.ndindex(rows, columns):
        top, left = row * pool.stride[0], column * pool.stride[1]
        result[:, row, column] = x[:, top : top + pool.size[0], left : left + pool.size[1]].max(axis=(1, 2))
    return result


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("pool", [None, *POOLS], ids=str)
def test_convolution_and_pooling_follow_their_definition(conv, pool):
    layers: tuple[LayerSpec, ...] = (conv, pool, Flatten()) if pool else (conv, Flatten())
    try:
        model = Model(SHAPE, layers, micro_batch=2, dtype=np.float64)
    except ShapeError:
        assert pool is not None
        with pytest.raises(ShapeError):
            pool.output_shape(conv.output_shape(SHAPE))
        return
    params, x = random_params(model), np.random.default_rng(0).standard_normal((3, *SHAPE))
    expected = conv_by_definition(conv, x, *params.values())
    expected = pool_by_definition(pool, expected) if pool else expected
    np.testing.assert_allclose(model.logits(params, x), expected.reshape(3, -1), rtol=1e-12, atol=1e-12)


def test_dense_and_relu_follow_their_definition():
    model = Model((4,), (Relu(), Dense(5, "relu"), Dense(3)), dtype=np.float64)
    params, x = random_params(model), np.random.default_rng(0).standard_normal((6, 4))
    first_kernel, first_bias, kernel, bias = params.values()
    expected = np.maximum(np.maximum(x, 0) @ first_kernel + first_bias, 0) @ kernel + bias
    np.testing.assert_allclose(model.logits(params, x), expected, rtol=1e-12)


@pytest.mark.parametrize("layers", MODELS, ids=lambda layers: "-".join(map(str, layers)))
def test_gradient_is_the_slope_of_the_mean_weighted_loss(layers):
    """Central differences along random directions, for every weight array on its own."""
    rng = np.random.default_rng(3)
    model = Model(SHAPE, layers, micro_batch=2, dtype=np.float64)
    params, x = random_params(model), rng.standard_normal((5, *SHAPE))
    y, weights = rng.integers(0, model.logits(params, x).shape[1], 5), rng.random(5) + 0.5
    grads = {name: grad.copy() for name, grad in model.gradient(params, x, y, weights).grads.items()}

    def mean_loss(changed: Params) -> float:
        return float(np.mean(weights * model.gradient(changed, x, y).losses))

    for name, value in params.items():
        direction = rng.standard_normal(value.shape)
        above, below = (mean_loss({**params, name: value + step * direction}) for step in (1e-6, -1e-6))
        assert (above - below) / 2e-6 == pytest.approx(float(np.sum(grads[name] * direction)), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("between", [(), (Relu(),)], ids=["fused pooling", "pooling by itself"])
def test_equal_values_in_a_pooling_window_share_one_gradient(between):
    """On a constant image all elements of a window are its maximum: the gradient must count once, not four times.

    So the pooled image must give the same gradients as the image of half the size that pooling turns it into.
    """
    conv, head = Conv2d(1, (1, 1)), (Flatten(), Dense(2))
    pooled = Model((4, 4, 1), (conv, *between, MaxPool2d((2, 2), (2, 2)), *head), dtype=np.float64)
    small = Model((2, 2, 1), (conv, *head), dtype=np.float64)
    params = {name: np.abs(value) + 0.1 for name, value in random_params(pooled).items()}
    same = dict(zip(small.initial(0), params.values(), strict=True))
    y = np.array([1])
    grads = pooled.gradient(params, np.ones((1, 4, 4, 1)), y).grads.values()
    expected = small.gradient(same, np.ones((1, 2, 2, 1)), y).grads.values()
    for grad, wanted in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad, wanted, rtol=1e-12)
