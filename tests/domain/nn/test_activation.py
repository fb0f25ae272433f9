"""ReLU, ReLU6 and tanh, as layers and as activations of other layers."""

import numpy as np
import pytest

from edged.domain.nn.model import Model
from edged.domain.nn.spec import (
    Activation,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Flatten,
    LayerSpec,
    MaxPool2d,
    Relu,
    Relu6,
    Tanh,
)
from tests.support.slopes import FUNCTIONS, assert_gradient_is_the_slope, random_params

LAYER_OF: dict[Activation, LayerSpec] = {"relu": Relu(), "relu6": Relu6(), "tanh": Tanh()}
SHAPE = (6, 6, 2)


@pytest.mark.parametrize("name", LAYER_OF)
def test_the_layer_computes_its_function(name):
    model = Model((4,), (LAYER_OF[name], Dense(3)), dtype=np.float64)
    params, x = random_params(model), 5 * np.random.default_rng(0).standard_normal((6, 4))
    expected = FUNCTIONS[name](x) @ params["1.dense.kernel"] + params["1.dense.bias"]
    np.testing.assert_allclose(model.logits(params, x), expected, rtol=1e-12)


@pytest.mark.parametrize("name", LAYER_OF)
@pytest.mark.parametrize(
    "layer",
    [Conv2d(3, (3, 3)), Conv2d(3, (2, 2), padding="same"), DepthwiseConv2d((3, 3))],
    ids=str,
)
@pytest.mark.parametrize("pooling", [(), (MaxPool2d((2, 2), (2, 2)),), (MaxPool2d((2, 2), (1, 1)),)], ids=str)
def test_an_activation_in_a_layer_equals_one_in_a_layer_after_it(name, layer, pooling):
    fields = {field: getattr(layer, field) for field in layer.__dataclass_fields__ if field != "kind"}
    fused = Model(SHAPE, (type(layer)(**{**fields, "activation": name}), *pooling, Flatten()), dtype=np.float64)
    separate = Model(SHAPE, (layer, LAYER_OF[name], *pooling, Flatten()), dtype=np.float64)
    params, x = random_params(fused), 5 * np.random.default_rng(0).standard_normal((4, *SHAPE))
    y = np.array([0, 1, 2, 3])
    np.testing.assert_allclose(fused.logits(params, x), separate.logits(params, x), rtol=1e-12, atol=1e-12)
    for got, expected in zip(
        fused.gradient(params, x, y).grads.values(), separate.gradient(params, x, y).grads.values(), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LAYER_OF)
def test_gradient_is_the_slope_of_the_loss(name):
    assert_gradient_is_the_slope(SHAPE, (Conv2d(3, (3, 3), activation=name), LAYER_OF[name], Flatten(), Dense(3)))
    assert_gradient_is_the_slope((5,), (Dense(6, name), Dense(4), LAYER_OF[name], Dense(3)))


@pytest.mark.parametrize(("value", "slope"), [(-1.0, 0.0), (0.0, 0.0), (3.0, 1.0), (6.0, 0.0), (7.0, 0.0)])
def test_relu6_passes_the_gradient_between_its_limits_only(value, slope):
    """One weight of 1 before it, one of 1 after it: mean squared error to 0 has the gradient 2·y·slope·x."""
    model = Model((1,), (Dense(1), Relu6(), Dense(1)), dtype=np.float64, loss="mean_squared_error")
    params = {name: np.ones_like(array) if array.ndim > 1 else array for name, array in model.initial(0).items()}
    gradient = model.gradient(params, np.array([[value]]), np.zeros((1, 1)))
    expected = 2 * min(max(value, 0), 6) * slope * value
    np.testing.assert_allclose(gradient.grads["0.dense.kernel"], [[expected]])
