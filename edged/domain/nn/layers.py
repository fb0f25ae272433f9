"""Builds a model's layers from their specifications; also the flatten and dense layers.

The other layers have modules of their own. See also: `layer` (what all can do), `backend` (who else computes them).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt

from edged.domain.nn.activation import ActivationLayer, Function
from edged.domain.nn.backend import Backend
from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.context import LayerContext
from edged.domain.nn.conv import conv_layer
from edged.domain.nn.depthwise import DepthwiseLayer
from edged.domain.nn.dropout import DropoutLayer
from edged.domain.nn.group_norm import GroupNormLayer
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.pooling import AvgPoolLayer, GlobalAvgPoolLayer, MaxPoolLayer
from edged.domain.nn.series import SeriesLayer
from edged.domain.nn.spec import (
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    LayerSpec,
    MaxPool1d,
    MaxPool2d,
    Relu,
    Relu6,
    Shape,
    Tanh,
    shapes,
)


def make_layers(
    sample_shape: Shape,
    specs: Sequence[LayerSpec],
    *,
    micro_batch: int,
    dtype: npt.DTypeLike,
    backend: Backend | None = None,
) -> list[Layer]:
    """The layers of `specs`, in order, a convolution and the max-pooling after it fused into one. Raises ShapeError.

    Those that `backend` does not compute are the reference's. An activation that its layer's own code does not compute
    becomes a layer of its own after it.
    """
    result: list[Layer] = []
    has_weights = False  # among the layers before this one
    num_fused = 0
    for index, (spec, shape) in enumerate(zip(specs, shapes(sample_shape, specs), strict=False)):
        if num_fused:
            num_fused -= 1
            continue
        context = LayerContext(index, shape, micro_batch, dtype, input_gradient=has_weights)
        pool = _fusible_pool(specs, index + 1) if isinstance(spec, Conv2d | Conv1d) else None
        layers, num_fused = _with_activation(spec, pool, context, backend)
        result += layers
        has_weights = has_weights or bool(spec.weights(shape))
    return backend.joined(result) if backend else result


def _with_activation(
    spec: LayerSpec, pool: MaxPool2d | None, context: LayerContext, backend: Backend | None
) -> tuple[list[Layer], int]:
    """The layers of `spec`, and how many of the specifications after it are fused with them."""
    if backend and (layer := backend.layer(spec, pool, context)):
        return [layer], int(pool is not None)
    linear, activation = _without_activation(spec)
    if activation is None:
        return [_layer(spec, pool, context)], int(pool is not None)
    layer = (backend and backend.layer(linear, None, context)) or _layer(linear, None, context)
    return [layer, ActivationLayer(activation, replace(context, shape=spec.output_shape(context.shape)))], 0


def _without_activation(spec: LayerSpec) -> tuple[LayerSpec, Function | None]:
    """The layer with only the activation that its own code computes, and the one that remains, if any."""
    if not isinstance(spec, Conv2d | Conv1d | DepthwiseConv2d | Dense) or spec.activation == "none":
        return spec, None
    if spec.activation == "relu":
        return spec, None
    return replace(spec, activation="none"), spec.activation


def _layer(spec: LayerSpec, pool: MaxPool2d | None, context: LayerContext) -> Layer:
    """The layer of `spec`, with the `pool` that a convolution is fused with."""
    layer: Layer
    match spec:
        case Conv2d():
            layer = conv_layer(spec, pool, context)
        case Conv1d():
            conv = spec.as_2d
            names = {name(context.index, conv): name(context.index, spec) for name in (kernel_name, bias_name)}
            layer = SeriesLayer(conv_layer(conv, pool, _as_image(context)), names)
        case DepthwiseConv2d():
            layer = DepthwiseLayer(spec, context)
        case Dense():
            layer = DenseLayer(spec, context)
        case GroupNorm():
            layer = GroupNormLayer(spec, context)
        case Dropout():
            layer = DropoutLayer(spec, context)
        case _:
            layer = _unweighted(spec, context)
    return layer


def _unweighted(spec: LayerSpec, context: LayerContext) -> Layer:
    layer: Layer
    match spec:
        case MaxPool2d():
            layer = MaxPoolLayer(spec, context)
        case AvgPool2d():
            layer = AvgPoolLayer(spec, context)
        case MaxPool1d() | AvgPool1d():
            layer = SeriesLayer(_unweighted(spec.as_2d, _as_image(context)))
        case GlobalAvgPool():
            layer = GlobalAvgPoolLayer(context)
        case Relu() | Relu6() | Tanh():
            layer = ActivationLayer(cast("Function", spec.kind), context)
        case Flatten():
            layer = FlattenLayer(context)
        case _:
            raise AssertionError(spec)
    return layer


def _as_image(context: LayerContext) -> LayerContext:
    """The context of a series' layer with the series as an image of one row."""
    return replace(context, shape=(1, *context.shape))


def _fusible_pool(specs: Sequence[LayerSpec], index: int) -> MaxPool2d | None:
    """The max-pooling at `index`, if there is one and its windows do not overlap."""
    spec = specs[index] if index < len(specs) else None
    pool = spec.as_2d if isinstance(spec, MaxPool1d) else spec
    if isinstance(pool, MaxPool2d) and pool.stride[0] >= pool.size[0] and pool.stride[1] >= pool.size[1]:
        return pool
    return None


class FlattenLayer(Layer):
    """All axes of a sample into one."""

    def __init__(self, context: LayerContext) -> None:
        self._shape = context.shape
        self._y = Buffer(context.micro_batch * math.prod(context.shape), context.dtype)

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002 - one signature for all layers
        if not x.flags.c_contiguous:
            y = self._y.array(*x.shape)
            np.copyto(y, x)
            x = y
        return x.reshape(len(x), math.prod(self._shape))

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        return dy.reshape(len(dy), *self._shape)


class DenseLayer(Layer):
    """x·W + b, then the activation."""

    def __init__(self, spec: Dense, context: LayerContext) -> None:
        (num_inputs,), micro_batch, dtype = context.shape, context.micro_batch, context.dtype
        self._kernel, self._bias = kernel_name(context.index, spec), bias_name(context.index, spec)
        self._input_gradient = context.input_gradient
        self._num_inputs, self._units = num_inputs, spec.units
        self._x: Array = np.empty((0, num_inputs), dtype)  # the last input: it is not changed before `backward`
        self._y = Buffer(micro_batch * spec.units, dtype)
        self._dkernel = Buffer(num_inputs * spec.units, dtype)
        self._dx = Buffer(micro_batch * num_inputs * context.input_gradient, dtype)
        has_relu = spec.activation == "relu"
        self._relu = ActivationLayer("relu", replace(context, shape=(spec.units,))) if has_relu else None

    def forward(self, params: Params, x: Array) -> Array:
        self._x, y = x, self._y.array(len(x), self._units)
        np.matmul(x, params[self._kernel], out=y)
        np.add(y, params[self._bias], out=y)
        return self._relu.forward(params, y) if self._relu else y

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:
        if self._relu:
            dy = self._relu.backward(params, dy, grads)
        x = self._x
        grads[self._bias] += dy.sum(axis=0)
        grads[self._kernel] += np.matmul(x.T, dy, out=self._dkernel.array(self._num_inputs, self._units))
        if not self._input_gradient:
            return None
        return np.matmul(dy, params[self._kernel].T, out=self._dx.array(*x.shape))
