"""The check for every layer: its gradient is the slope of the loss, however the mini-batch is divided."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from edged.domain.nn.model import Model, Noise
from edged.domain.nn.params import Params
from edged.domain.nn.spec import Activation, LayerSpec, LossName

NOISE = Noise(seed=7, step=3)

FUNCTIONS: Mapping[Activation, Callable[[Any], Any]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "tanh": np.tanh,
}
"""The functions of the activations."""


def random_params(model: Model, seed: int = 1) -> Params:
    """Weights with biases that are not zero, so that the biases' part shows."""
    rng = np.random.default_rng(seed)
    return {name: value + 0.1 * rng.standard_normal(value.shape) for name, value in model.initial(seed).items()}


def assert_gradient_is_the_slope(
    shape: tuple[int, ...], layers: Sequence[LayerSpec], *, loss: LossName = "cross_entropy", n: int = 5
) -> None:
    """Central differences along random directions, for every weight array on its own.

    Mini-batches are divided into uneven micro-batches, so that what one leaves in the buffers would affect the next.
    """
    rng = np.random.default_rng(3)
    model = Model(shape, layers, micro_batch=2, dtype=np.float64, loss=loss)
    params, x = random_params(model), rng.standard_normal((n, *shape))
    num_outputs = model.logits(params, x).shape[1]
    y = rng.integers(0, num_outputs, n) if loss == "cross_entropy" else rng.standard_normal((n, num_outputs))
    weights = rng.random(n) + 0.5
    grads = {name: grad.copy() for name, grad in model.gradient(params, x, y, weights, noise=NOISE).grads.items()}

    def mean_loss(changed: Params) -> float:
        return float(np.mean(weights * model.gradient(changed, x, y, noise=NOISE).losses))

    for name, value in params.items():
        direction = rng.standard_normal(value.shape)
        above, below = (mean_loss({**params, name: value + step * direction}) for step in (1e-6, -1e-6))
        assert (above - below) / 2e-6 == pytest.approx(float(np.sum(grads[name] * direction)), rel=1e-5, abs=1e-8)
