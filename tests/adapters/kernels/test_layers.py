"""Each compiled layer computes what the reference computes, whatever its geometry."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edged.adapters.kernels.backend import CompiledBackend, compiled
from edged.adapters.kernels.kernel_layer import Chain
from edged.domain.nn.layers import make_layers
from edged.domain.nn.params import Params, initial_params
from edged.domain.nn.spec import (
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    GlobalAvgPool,
    GroupNorm,
    LayerSpec,
    MaxPool1d,
    MaxPool2d,
    Shape,
    ShapeError,
)

MICRO_BATCH = 3

sizes = st.integers(1, 5)
pairs = st.tuples(sizes, sizes)
strides = st.integers(1, 3)
channels = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 32, 33, 40]))
paddings = st.sampled_from(["same", "valid"])
activations = st.sampled_from(["none", "relu", "relu6"])
images = st.tuples(st.integers(1, 12), st.integers(1, 12), channels)
series = st.tuples(st.integers(1, 30), channels)
windows = st.one_of(
    st.just(((2, 2), (2, 2))), pairs.flatmap(lambda size: st.tuples(st.just(size), st.tuples(strides, strides)))
)
convolutions = st.one_of(
    st.builds(Conv2d, channels, pairs, st.tuples(strides, strides), paddings, activations),
    st.builds(Conv2d, channels, st.just((3, 3)), st.just((1, 1)), paddings, activations),  # Winograd's
    st.builds(Conv2d, channels, st.just((1, 1)), st.just((1, 1)), paddings, activations),
)
models = st.one_of(
    st.tuples(images, st.tuples(convolutions)),
    st.tuples(images, st.tuples(convolutions, windows.map(lambda window: MaxPool2d(*window)))),
    st.tuples(series, st.tuples(st.builds(Conv1d, channels, sizes, strides, paddings, activations))),
    st.tuples(
        series,
        st.tuples(
            st.builds(Conv1d, channels, sizes, st.just(1), paddings, activations), st.builds(MaxPool1d, sizes, strides)
        ),
    ),
    st.tuples(
        images,
        st.tuples(st.builds(DepthwiseConv2d, pairs, st.tuples(strides, strides), paddings, activations)),
    ),
    st.tuples(st.tuples(st.integers(1, 300)), st.tuples(st.builds(Dense, channels, activations))),
    st.tuples(images, st.tuples(windows.map(lambda window: MaxPool2d(*window)))),
    st.tuples(images, st.tuples(windows.map(lambda window: AvgPool2d(*window)))),
    st.tuples(series, st.tuples(st.builds(MaxPool1d, sizes, strides))),
    st.tuples(series, st.tuples(st.builds(AvgPool1d, sizes, strides))),
    st.tuples(st.one_of(images, series), st.just((GlobalAvgPool(),))),
)


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


BEFORE = GroupNorm(1)
"""A layer with weights, so that the gradient of the next one's input is wanted; no compiled one."""


def layers_of(shape: Shape, specs: tuple[LayerSpec, ...], dtype, backend=None):
    made = make_layers(shape, [BEFORE, *specs], micro_batch=MICRO_BATCH, dtype=dtype, backend=backend)
    return made[1:]


@given(models, st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_outputs_and_gradients_are_the_references(backend, model, seed):
    shape, specs = model
    try:
        output = shape
        for spec in specs:
            output = spec.output_shape(output)
    except ShapeError:
        assume(False)
    rng = np.random.default_rng(seed)
    params = initial_params(shape, [BEFORE, *specs], 0)
    params = {name: value + 0.3 * rng.standard_normal(value.shape, np.float32) for name, value in params.items()}
    x = rng.standard_normal((MICRO_BATCH + 1, *shape), np.float32) * 3
    dy = rng.standard_normal((MICRO_BATCH + 1, *output), np.float32)
    compiled_layers = layers_of(shape, specs, np.float32, backend)
    assert [type(layer) for layer in compiled_layers] == [Chain]

    got = run(compiled_layers, params, x, dy)
    exact = run(
        layers_of(shape, specs, np.float64),
        {name: value.astype(np.float64) for name, value in params.items()},
        x.astype(np.float64),
        dy.astype(np.float64),
    )
    for name, array in exact.items():
        scale = max(float(np.abs(array).max(initial=0)), 1e-3)
        # Where two values of a window, or a value and an activation's corner, differ by rounding alone, either is right
        wrong = np.abs(got[name] - array) > 3e-5 * scale
        assert wrong.mean() <= (0 if name == "y" else 0.02), name
