"""Group normalisation (Wu and He 2018, https://arxiv.org/abs/1803.08494).

Without statistics of the batch: training and prediction compute the same, and a batch may have any size.
"""

import math

import numpy as np

from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.context import LayerContext
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params, bias_name, weight_name
from edged.domain.nn.spec import GroupNorm


class GroupNormLayer(Layer):
    """(x - mean) / sqrt(variance + epsilon) by sample and group, times scale, plus bias."""

    def __init__(self, spec: GroupNorm, context: LayerContext) -> None:
        self._scale, self._bias = weight_name(context.index, spec, "scale"), bias_name(context.index, spec)
        self._spec, shape = spec, context.shape
        self._channels, self._num_positions = shape[-1], math.prod(shape[:-1])
        size = context.micro_batch * math.prod(shape)
        self._normal = Buffer(size, context.dtype)
        self._y = Buffer(size, context.dtype)
        self._rstd = Buffer(context.micro_batch * self._channels, context.dtype)

    def forward(self, params: Params, x: Array) -> Array:
        flat = x.reshape(len(x), self._num_positions, self._channels)
        normal, y, rstd = self._normal.array(*flat.shape), self._y.array(*flat.shape), self._rstd_of(len(x))
        np.subtract(flat, self._group_mean(flat.sum(axis=1))[:, None], out=normal)
        np.multiply(normal, normal, out=y)
        variance = self._group_mean(y.sum(axis=1))
        np.divide(1, np.sqrt(variance + self._spec.epsilon), out=rstd)
        normal *= rstd[:, None]
        np.multiply(normal, params[self._scale], out=y)
        y += params[self._bias]
        return y.reshape(x.shape)

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:
        flat = dy.reshape(len(dy), self._num_positions, self._channels)
        normal, product, rstd = self._normal.array(*flat.shape), self._y.array(*flat.shape), self._rstd_of(len(dy))
        scale = params[self._scale]
        np.multiply(flat, normal, out=product)
        dscale, dbias = product.sum(axis=1), flat.sum(axis=1)
        grads[self._scale] += dscale.sum(axis=0)
        grads[self._bias] += dbias.sum(axis=0)
        # The parts of the gradient that go through the mean and the variance, by sample and channel
        by_mean, by_variance = self._group_mean(dbias * scale), self._group_mean(dscale * scale)
        flat *= scale
        flat -= by_mean[:, None]
        flat -= np.multiply(normal, by_variance[:, None], out=product)
        flat *= rstd[:, None]
        return dy

    def _rstd_of(self, n: int) -> Array:
        """1 / standard deviation [n, channels] of the current micro-batch."""
        return self._rstd.array(n, self._channels)

    def _group_mean(self, sums: Array) -> Array:
        """From sums by channel [n, channels], the mean over each channel's group, also by channel."""
        groups = self._spec.groups
        means = sums.reshape(len(sums), groups, -1).sum(axis=2) * (groups / (self._num_positions * self._channels))
        return np.repeat(means, self._channels // groups, axis=1)
