"""A training step allocates only small arrays: everything of a micro-batch's size is allocated beforehand."""

import tracemalloc

import numpy as np
import pytest

from edged.domain.nn.model import Model
from edged.domain.nn.spec import (
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    MaxPool1d,
    MaxPool2d,
)

MODELS = {
    "winograd": ((28, 28, 1), (
        Conv2d(16, (3, 3), activation="relu"), MaxPool2d((2, 2), (2, 2)), Conv2d(16, (3, 3), activation="relu"),
        MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(10),
    )),
    "winograd, same": ((28, 28, 8), (
        Conv2d(8, (3, 3), padding="same", activation="relu"), Flatten(), Dense(4, "relu"),
    )),
    "depthwise": ((32, 32, 3), (
        Conv2d(16, (3, 3), (2, 2), "same", "relu"), DepthwiseConv2d((3, 3), (1, 1), "same", "relu"),
        Conv2d(32, (1, 1), activation="relu"), DepthwiseConv2d((3, 3), (2, 2), "same", "relu"), GlobalAvgPool(),
        Dense(10),
    )),
    "others": ((32, 32, 4), (
        Conv2d(8, (5, 5), activation="tanh"), GroupNorm(2), AvgPool2d((2, 2), (2, 2)), MaxPool2d((3, 3), (1, 1)),
        Flatten(), Dense(3),
    )),
    "series": ((256, 6), (
        Conv1d(16, 5, activation="relu"), MaxPool1d(2, 2), Conv1d(16, 5, activation="relu"), Flatten(), Dense(10),
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_step_allocates_less_than_any_array_of_a_micro_batch(name):
    """Only losses, scores and sums by channel, and the chunks of 8192 elements that numpy casts and reduces by."""
    shape, layers = MODELS[name]
    model = Model(shape, layers, micro_batch=128)
    params = model.initial(0)
    x, y = np.ones((256, *shape), np.float32), np.zeros(256, np.int64)
    model.gradient(params, x, y)
    tracemalloc.start()
    try:
        model.gradient(params, x, y)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 120_000
    assert model.buffer_bytes > 30 * 120_000
