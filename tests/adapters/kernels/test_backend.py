"""Whole models by compiled kernels: as exact as the reference, the same bits however they are called."""

from typing import Any

import numpy as np
import pytest

from edged.adapters.kernels.backend import CompiledBackend, compiled
from edged.adapters.kernels.kernel_layer import Chain
from edged.adapters.kernels.lane import LaneStep
from edged.domain.nn.context import LayerContext
from edged.domain.nn.loss import loss_step
from edged.domain.nn.model import Model
from edged.domain.nn.spec import (
    AvgPool1d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    MaxPool1d,
    MaxPool2d,
)

MODELS = {
    "cnn": ((28, 28, 1), (
        Conv2d(32, (3, 3), activation="relu"), MaxPool2d((2, 2), (2, 2)), Conv2d(64, (3, 3), activation="relu"),
        MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(10),
    )),
    "mobile net": ((33, 32, 3), (
        Conv2d(16, (3, 3), (2, 2), "same", "relu6"), DepthwiseConv2d((3, 3), (1, 1), "same", "relu6"),
        Conv2d(24, (1, 1)), DepthwiseConv2d((3, 3), (2, 2), "same", "relu6"), Conv2d(40, (1, 1), activation="relu6"),
        GlobalAvgPool(), Dense(10),
    )),
    "series": ((128, 6), (
        Conv1d(32, 5, activation="relu"), MaxPool1d(2, 2), Conv1d(33, 3, padding="same", activation="relu"),
        AvgPool1d(3, 2), Conv1d(8, 4, activation="tanh"), Flatten(), Dense(7, "relu"), Dense(3),
    )),
    "with layers of the reference": ((12, 11, 5), (
        Conv2d(8, (3, 3)), GroupNorm(2), Dropout(0.3), Conv2d(9, (2, 2), activation="tanh"), Flatten(), Dense(4),
    )),
    "wide": ((7, 6, 40), (
        Conv2d(290, (3, 3), (1, 1), "same", "relu"), Conv2d(270, (1, 1), activation="relu"),
        Conv2d(8, (3, 3), (2, 2), "same"), Flatten(), Dense(5),
    )),
}  # fmt: skip


@pytest.fixture(scope="module")
def backend() -> CompiledBackend:
    return compiled()


class OneByOne:
    """A backend whose layers and loss are called one after the other."""

    def __init__(self, backend: CompiledBackend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def lane_step(self, *_: object) -> None:
        return None


def gradient(name: str, dtype, backend=None, **settings):
    """The gradient of one mini-batch; its losses."""
    shape, layers = MODELS[name]
    rng = np.random.default_rng(0)
    model = Model(shape, layers, dtype=dtype, backend=backend, **settings)
    params = {
        name: value + 0.1 * rng.standard_normal(value.shape).astype(dtype) for name, value in model.initial(0).items()
    }
    x, y = rng.random((37, *shape)).astype(dtype), rng.integers(0, 3, 37)
    result = model.gradient(params, x, y, rng.random(37).astype(dtype) + 0.5)
    return {name: value.copy() for name, value in result.grads.items()}, result.losses.copy()


def largest_errors(got, exact) -> dict[str, float]:
    return {name: float(np.abs(got[name] - exact[name]).max() / np.abs(exact[name]).max()) for name in exact}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_as_exact_as_the_references(backend, name):
    exact, exact_losses = gradient(name, np.float64, micro_batch=16)
    reference, _ = gradient(name, np.float32, micro_batch=16)
    got, losses = gradient(name, np.float32, backend, micro_batch=16)

    np.testing.assert_allclose(losses, exact_losses, rtol=1e-5, atol=1e-5)
    allowed = max(4 * max(largest_errors(reference, exact).values()), 3e-6)
    assert max(largest_errors(got, exact).values()) < allowed


@pytest.mark.parametrize("name", MODELS)
def test_the_same_micro_batches_and_lanes_give_the_same_bits(backend, name):
    first, losses = gradient(name, np.float32, backend, micro_batch=8, lanes=2)
    again, losses_again = gradient(name, np.float32, backend, micro_batch=8, lanes=2)

    assert all(np.array_equal(first[weight], again[weight]) for weight in first)
    assert np.array_equal(losses, losses_again)


@pytest.mark.parametrize("name", ["cnn", "mobile net", "wide"])
@pytest.mark.parametrize("num_samples", [1, 8, 37])
def test_a_lane_in_one_call_has_the_bits_of_its_layers_and_loss_one_by_one(backend, name, num_samples):
    shape, layers = MODELS[name]
    rng = np.random.default_rng(num_samples)
    x, y = rng.random((num_samples, *shape), np.float32), rng.integers(0, 5, num_samples)
    results = []
    for chosen in (backend, OneByOne(backend)):
        model = Model(shape, layers, micro_batch=8, lanes=2, backend=chosen)
        result = model.gradient(model.initial(0), x, y, np.full(num_samples, 0.5, np.float32))
        results.append([*result.grads.values(), result.losses, result.scores, np.array(result.num_correct)])

    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


def test_what_is_no_chain_or_has_another_loss_is_computed_one_by_one(backend):
    chain = Model(*MODELS["cnn"], backend=backend)._lanes[0]._layers
    loss = backend.loss("cross_entropy", np.float32)
    assert isinstance(backend.lane_step(chain, loss, 8), LaneStep)
    assert backend.lane_step(chain, loss_step("cross_entropy"), 8) is None
    assert backend.lane_step(Model(*MODELS["with layers of the reference"])._lanes[0]._layers, loss, 8) is None


def test_weights_that_change_in_place_or_by_another_array_are_seen(backend):
    shape, layers = MODELS["cnn"]
    model = Model(shape, layers, micro_batch=4, backend=backend)
    params, x = model.initial(0), np.random.default_rng(0).random((6, *shape), np.float32)
    before = model.logits(params, x)
    for value in params.values():
        np.multiply(value, 0.5, out=value)
    halved = model.logits(params, x)
    other = model.logits({name: np.asfortranarray(value * 2) for name, value in params.items()}, x)

    assert not np.allclose(halved, before)
    np.testing.assert_array_equal(other, before)


def test_layers_that_follow_each_other_are_one_call(backend):
    model = Model(*MODELS["cnn"], backend=backend)
    assert len(model._lanes[0]._layers) == 1


def test_float64_is_left_to_the_reference(backend):
    exact, _ = gradient("cnn", np.float64, micro_batch=16)
    got, _ = gradient("cnn", np.float64, backend, micro_batch=16)
    assert all(np.array_equal(got[name], exact[name]) for name in exact)


def test_a_dense_layer_behind_a_large_image_is_compiled(backend):
    """As many inputs as 256×256 pixels have values: their square is no offset."""
    context = LayerContext(0, (256 * 256 * 3,), 2, np.float32, input_gradient=True)
    assert isinstance(backend.layer(Dense(4), None, context), Chain)
