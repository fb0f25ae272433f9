"""Dropout whose masks neither threads nor the division into micro-batches change."""

import math
from dataclasses import dataclass

import numpy as np

from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.context import LayerContext
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params
from edged.domain.nn.spec import Dropout


@dataclass(frozen=True, slots=True)
class Noise:
    """Seeds the randomness inside a model; both numbers are from 0 to 2^64 - 1."""

    seed: int
    step: int


class DropoutLayer(Layer):
    """Passes everything through until `set_noise` sets some.

    A sample's mask depends only on the noise, the layer's index and the sample's number in the mini-batch
    (Philox, a counter-based generator: Salmon et al. 2011).
    """

    def __init__(self, spec: Dropout, context: LayerContext) -> None:
        self._index, self._rate, self._size = context.index, spec.rate, math.prod(context.shape)
        self._uniform = Buffer(self._size, np.float32)
        self._factors = Buffer(context.micro_batch * self._size, context.dtype)
        self._y = Buffer(context.micro_batch * self._size, context.dtype)
        self._noise: Noise | None = None
        self._first = 0

    def set_noise(self, noise: Noise | None, first: int) -> None:
        """Use `noise` for micro-batches whose first sample is number `first` of the mini-batch; None: drop nothing."""
        self._noise, self._first = noise, first

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002 - one signature for all layers
        if self._noise is None:
            return x
        factors, uniform = self._factors.array(len(x), self._size), self._uniform.array(self._size)
        for row, kept in enumerate(factors):
            rng = np.random.Generator(
                np.random.Philox(
                    key=[self._noise.seed, self._index], counter=[0, 0, self._noise.step, self._first + row]
                )
            )
            rng.random(dtype=np.float32, out=uniform)
            np.greater_equal(uniform, self._rate, out=kept, casting="unsafe")
        factors *= 1 / (1 - self._rate)
        return np.multiply(x, factors.reshape(x.shape), out=self._y.array(*x.shape))

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        if self._noise is None:
            return dy
        return np.multiply(dy, self._factors.array(*dy.shape), out=dy)
