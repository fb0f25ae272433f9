"""Shapes and parameter counts of models as they are written in the topology file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.nn.spec import Conv2d, Dense, Flatten, MaxPool2d, Relu, ShapeError, num_parameters, shapes

FASHION = (
    Conv2d(32, (3, 3), activation="relu"),
    MaxPool2d((2, 2), (2, 2)),
    Conv2d(64, (3, 3), activation="relu"),
    MaxPool2d((2, 2), (2, 2)),
    Flatten(),
    Dense(10),
)


def test_the_example_model_has_the_shapes_and_parameters_known_from_keras():
    assert shapes((28, 28, 1), FASHION) == [
        (28, 28, 1), (26, 26, 32), (13, 13, 32), (11, 11, 64), (5, 5, 64), (1600,), (10,),
    ]  # fmt: skip
    assert num_parameters((28, 28, 1), FASHION) == 320 + 18_496 + 16_010


def test_without_layers_the_shape_is_the_samples():
    assert shapes((4,), ()) == [(4,)]
    assert num_parameters((4,), ()) == 0


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4))
def test_valid_windows_are_those_that_fit_completely(size, window, stride):
    starts = [at for at in range(0, size, stride) if at + window <= size]
    layer = MaxPool2d((window, 1), (stride, 1))

    if starts:
        assert layer.output_shape((size, 1, 3)) == (len(starts), 1, 3)
    else:
        with pytest.raises(ShapeError, match="does not fit into"):
            layer.output_shape((size, 1, 3))


@pytest.mark.parametrize(("size", "stride", "expected"), [(5, 1, 5), (5, 2, 3), (4, 2, 2), (1, 3, 1)])
def test_same_padding_gives_one_output_per_started_stride(size, stride, expected):
    layer = Conv2d(2, (3, 3), (stride, stride), "same")

    assert layer.output_shape((size, size, 1)) == (expected, expected, 2)


def test_parameters_are_the_kernels_weights_and_one_bias_per_filter():
    assert Conv2d(8, (3, 5)).num_parameters((9, 9, 4)) == 3 * 5 * 4 * 8 + 8
    assert Dense(7).num_parameters((5,)) == 5 * 7 + 7
    assert [layer.num_parameters((4, 4, 2)) for layer in (MaxPool2d((2, 2), (2, 2)), Flatten(), Relu())] == [0, 0, 0]


@pytest.mark.parametrize(
    ("shape", "layer", "message"),
    [
        ((28, 28), Conv2d(1, (3, 3)), r"conv2d takes \[height, width, channels\], not 28×28"),
        ((64,), MaxPool2d((2, 2), (2, 2)), r"max_pool2d takes \[height, width, channels\], not 64"),
        ((2, 9, 1), Conv2d(1, (3, 3)), "conv2d: a window of 3×3 does not fit into 2×9"),
        ((5, 5, 1), Dense(10), "dense takes one axis, not 5×5×1; put flatten before it"),
    ],
)
def test_a_layer_that_does_not_fit_reports_why(shape, layer, message):
    with pytest.raises(ShapeError, match=message):
        layer.output_shape(shape)


def test_flatten_and_relu_keep_the_number_of_values():
    assert Flatten().output_shape((3, 4, 5)) == (int(np.prod([3, 4, 5])),)
    assert Relu().output_shape((3, 4, 5)) == (3, 4, 5)
