"""Pooling that is not fused with a convolution: by maximum, by mean, and the mean over all places."""

import math

import numpy as np

from edged.adapters.kernels.kernel_layer import KernelLayer
from edged.adapters.kernels.memory import AlignedBuffer
from edged.adapters.kernels.structs import Pool
from edged.domain.nn.context import LayerContext
from edged.domain.nn.spec import AvgPool1d, AvgPool2d, GlobalAvgPool, MaxPool1d, MaxPool2d

MAX_MAXIMUM_SIZE = 255
"""Places of a window of which the largest is remembered in a byte."""

PoolSpec = MaxPool2d | AvgPool2d | MaxPool1d | AvgPool1d | GlobalAvgPool


class PoolLayer(KernelLayer):
    """Windows that may overlap. A maximum's gradient goes to the first place that has it."""

    def __init__(self, spec: PoolSpec, context: LayerContext) -> None:
        struct, output = Pool(), spec.output_shape(context.shape)
        super().__init__(struct, context, output)
        channels = context.shape[-1]
        is_maximum = isinstance(spec, MaxPool2d | MaxPool1d)
        self._places = AlignedBuffer(context.micro_batch * math.prod(output) * is_maximum, np.uint8)
        windows = _windows(spec, context.shape[:-1])
        struct.channels, struct.inputs = channels, math.prod(context.shape)
        struct.windows, struct.size = windows.shape
        struct.at_x, struct.places = self._tables.add(windows * channels), self._places.address


def _windows(spec: PoolSpec, shape: tuple[int, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """The numbers of each window's places [windows, size], by row and column."""
    places = np.arange(math.prod(shape)).reshape(shape)
    if isinstance(spec, GlobalAvgPool):
        return places.reshape(1, -1)
    size = (spec.size,) if isinstance(spec, MaxPool1d | AvgPool1d) else spec.size
    stride = (spec.stride,) if isinstance(spec, MaxPool1d | AvgPool1d) else spec.stride
    windows = np.lib.stride_tricks.sliding_window_view(places, size)
    kept = windows[tuple(slice(None, None, step) for step in stride)]
    return kept.reshape(-1, math.prod(size))
