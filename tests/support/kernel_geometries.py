"""Layers of random geometries, small ones and odd ones, of every kind that the kernels compute."""

import numpy.typing as npt
from hypothesis import strategies as st

from edged.domain.nn.backend import Backend
from edged.domain.nn.layer import Layer
from edged.domain.nn.layers import make_layers
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
_models = st.one_of(
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


def fits(model: tuple[Shape, tuple[LayerSpec, ...]]) -> bool:
    """Whether the layers have an output."""
    try:
        output_of(*model)
    except ShapeError:
        return False
    return True


def output_of(shape: Shape, specs: tuple[LayerSpec, ...]) -> Shape:
    """The shape of the last layer's output."""
    for spec in specs:
        shape = spec.output_shape(shape)
    return shape


models = _models.filter(fits)

BEFORE = GroupNorm(1)
"""A layer with weights, so that the gradient of the next one's input is wanted; no compiled one."""


def layers_of(
    shape: Shape,
    specs: tuple[LayerSpec, ...],
    dtype: npt.DTypeLike,
    backend: Backend | None = None,
    *,
    before: tuple[LayerSpec, ...] = (BEFORE,),
) -> list[Layer]:
    """The layers of `specs` behind others, which are not among them."""
    made = make_layers(shape, [*before, *specs], micro_batch=MICRO_BATCH, dtype=dtype, backend=backend)
    return made[len(before) :]
