"""The value ranges of a trained model's layers, for choosing the scales of a quantised one."""

import math
from collections.abc import Sequence

import numpy as np

from edged.domain.nn.buffer import Array
from edged.domain.nn.layers import make_layers
from edged.domain.nn.params import Params, weight_name
from edged.domain.nn.spec import LayerSpec, Shape

_MICRO_BATCH = 8

Range = tuple[float, float]
"""Minimum and maximum."""


def output_ranges(
    sample_shape: Shape, layers: Sequence[tuple[int, LayerSpec]], params: Params, x: Array
) -> list[Range]:
    """The range of `x` and of each layer's outputs, for samples `x` float32 [n, *sample_shape], n ≥ 1.

    Each layer comes with the index of its weights in `params`; leave out dropouts. Takes the memory of training on a
    few samples.
    """
    chain, shape = [], sample_shape
    for index, layer in layers:
        own = {weight_name(0, layer, name): params[weight_name(index, layer, name)] for name in layer.weights(shape)}
        parts = make_layers(shape, [layer], micro_batch=_MICRO_BATCH, dtype=np.float32)
        for part in parts:
            part.begin(own)
        chain.append((parts, own))
        shape = layer.output_shape(shape)
    result = [(math.inf, -math.inf)] * (len(layers) + 1)
    for first in range(0, len(x), _MICRO_BATCH):
        y = x[first : first + _MICRO_BATCH]
        result[0] = _widened(result[0], y)
        for at, (parts, own) in enumerate(chain, 1):
            for part in parts:
                y = part.forward(own, y)
            result[at] = _widened(result[at], y)
    return result


def _widened(known: Range, y: Array) -> Range:
    return min(known[0], float(y.min())), max(known[1], float(y.max()))
