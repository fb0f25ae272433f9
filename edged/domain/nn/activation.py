"""Activations as layers: ReLU, ReLU6 and tanh."""

import math
from typing import Literal

import numpy as np

from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.context import LayerContext
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params

Function = Literal["relu", "relu6", "tanh"]


class ActivationLayer(Layer):
    """An activation, value by value. ReLU's gradient at 0 is 0, ReLU6's at 6 too."""

    def __init__(self, function: Function, context: LayerContext) -> None:
        size = context.micro_batch * math.prod(context.shape)
        self._function = function
        self._y = Buffer(size, context.dtype)
        self._mask = Buffer(size * (function != "tanh"), np.bool_)
        self._below_six = Buffer(size * (function == "relu6"), np.bool_)
        self._slope = Buffer(size * (function == "tanh"), context.dtype)

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002 - one signature for all layers
        y = self._y.array(*x.shape)
        if self._function == "tanh":
            return np.tanh(x, out=y)
        np.maximum(x, 0, out=y)
        return np.minimum(y, 6, out=y) if self._function == "relu6" else y

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        y = self._y.array(*dy.shape)
        if self._function == "tanh":
            slope = np.multiply(y, y, out=self._slope.array(*dy.shape))
            return np.multiply(dy, np.subtract(1, slope, out=slope), out=dy)
        passed = np.greater(y, 0, out=self._mask.array(*dy.shape))
        if self._function == "relu6":
            passed &= np.less(y, 6, out=self._below_six.array(*dy.shape))
        return np.multiply(dy, passed, out=dy)
