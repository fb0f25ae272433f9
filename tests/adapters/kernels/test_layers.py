"""Each compiled layer computes what the reference computes, whatever its geometry."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edged.adapters.kernels.backend import CompiledBackend, compiled
from edged.adapters.kernels.kernel_layer import Chain
from edged.domain.nn.params import Params, initial_params
from edged.domain.nn.spec import Conv2d, DepthwiseConv2d
from tests.support.kernel_geometries import BEFORE, MICRO_BATCH, layers_of, models, output_of
from tests.support.properties import examples


@pytest.fixture(scope="module")
def backend() -> CompiledBackend:
    return compiled()


def run(layers, params: Params, x, dy):
    """Outputs and gradients of two micro-batches, the second smaller."""
    grads = {name: np.zeros_like(value) for name, value in params.items()}
    outputs, gradients = [], []
    for layer in layers:
        layer.begin(params)
    for part in (slice(0, MICRO_BATCH), slice(MICRO_BATCH, None)):
        y = x[part]
        for layer in layers:
            y = layer.forward(params, y)
        outputs.append(y.copy())
        back = dy[part].copy()
        for layer in reversed(layers):
            back = layer.backward(params, back, grads)
        gradients.append(back.copy())
    for layer in layers:
        layer.end(grads)
    return {"y": np.concatenate(outputs), "dx": np.concatenate(gradients), **grads}


@given(models, st.integers(0, 2**32 - 2))
# The gradient of this one's only weight is a thousandth of its terms.
@example(((4, 4, 1), (DepthwiseConv2d((1, 1), (2, 3), "same"),)), 1)
# A value beside relu6's corner, whose rounding decides the gradient of all 17 channels at its place.
@example(((2, 5, 17), (Conv2d(32, (1, 1), (1, 1), "same", "relu6"),)), 34524)
@examples(300)
def test_outputs_and_gradients_are_the_references(backend, model, seed):
    # What is wrong is so with any numbers; a corner is met with few of them.
    wrong = differences(backend, model, seed) and differences(backend, model, seed + 1)
    assert not wrong


def differences(backend, model, seed) -> dict[str, float]:
    """The share of values that are not the reference's, of each array that has more than its corners explain."""
    shape, specs = model
    rng = np.random.default_rng(seed)
    params = initial_params(shape, [BEFORE, *specs], 0)
    params = {name: value + 0.3 * rng.standard_normal(value.shape, np.float32) for name, value in params.items()}
    x = rng.standard_normal((MICRO_BATCH + 1, *shape), np.float32) * 3
    dy = rng.standard_normal((MICRO_BATCH + 1, *output_of(shape, specs)), np.float32)
    compiled_layers = layers_of(shape, specs, np.float32, backend)
    assert [type(layer) for layer in compiled_layers] == [Chain]

    got = run(compiled_layers, params, x, dy)
    exact = run(
        layers_of(shape, specs, np.float64),
        {name: value.astype(np.float64) for name, value in params.items()},
        x.astype(np.float64),
        dy.astype(np.float64),
    )
    # A sum is as exact as its terms are large, however much they cancel; a gradient's are about as large as `dy`.
    terms = float(np.abs(dy).max())
    shares = {}
    for name, array in exact.items():
        scale = max(float(np.abs(array).max(initial=0)), 1e-3 if name == "y" else terms)
        # Where two values of a window, or a value and an activation's corner, differ by rounding alone, either is right
        shares[name] = float((np.abs(got[name] - array) > 3e-5 * scale).mean())
    return {name: share for name, share in shares.items() if share > (0 if name == "y" else 0.02)}
