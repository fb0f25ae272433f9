"""The layers that a Model is made of and how they follow from the specification; flatten and dense themselves.

A layer owns the buffers of one micro-batch and nothing else: weights come with every call. Activations are NHWC.
What a call returns is a view of a buffer, valid until the layer's next call; `backward` follows the `forward` of the
same micro-batch and may overwrite the gradient that it is given. Every other layer has a module of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from edged.domain.nn.activation import ActivationLayer, Function
from edged.domain.nn.avg_pool import AvgPoolLayer, GlobalAvgPoolLayer
from edged.domain.nn.buffer import Array, Buffer
from edged.domain.nn.conv import conv_layer
from edged.domain.nn.depthwise import DepthwiseLayer
from edged.domain.nn.dropout import DropoutLayer
from edged.domain.nn.group_norm import GroupNormLayer
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.pooling import PoolLayer
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
from edged.domain.nn.winograd import WinogradLayer


class Layer(Protocol):
    """One step of the model, forward and backward."""

    @property
    def buffer_bytes(self) -> int:
        """Memory that the layer holds."""

    def forward(self, params: Params, x: Array) -> Array:
        """The output for micro-batch `x` [n, …]; n is at most the micro-batch that the layer was made for."""

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:
        """Add the weights' gradients to `grads`; return the input's, or None when nothing before has weights."""


def make_layers(
    sample_shape: Shape, specs: Sequence[LayerSpec], *, micro_batch: int, dtype: npt.DTypeLike
) -> list[Layer]:
    """The layers of `specs`, in order, a convolution and the pooling behind it as one. Raises ShapeError.

    An activation that its layer's own code does not compute becomes a layer behind it.
    """
    result: list[Layer] = []
    layer: Layer
    below = False  # whether a layer before has weights, and so needs this one's input gradient
    taken_in = False
    for index, (spec, shape) in enumerate(zip(specs, shapes(sample_shape, specs), strict=False)):
        if taken_in:
            taken_in = False
            continue
        spec_alone, activation = _without_activation(spec)
        match spec_alone:
            case Conv2d() | Conv1d():
                pool = None if activation else _pool_to_take_in(specs, index + 1)
                taken_in = pool is not None
                layer = _conv(index, spec_alone, pool, shape, micro_batch, dtype, input_gradient=below)
            case DepthwiseConv2d():
                layer = DepthwiseLayer(
                    index, spec_alone, shape, micro_batch=micro_batch, dtype=dtype, input_gradient=below
                )
            case Dense():
                layer = DenseLayer(index, spec_alone, shape, micro_batch=micro_batch, dtype=dtype, input_gradient=below)
            case GroupNorm():
                layer = GroupNormLayer(index, spec_alone, shape, micro_batch=micro_batch, dtype=dtype)
            case Dropout():
                layer = DropoutLayer(index, spec_alone, shape, micro_batch=micro_batch, dtype=dtype)
            case _:
                layer = _unweighted(spec_alone, shape, micro_batch, dtype)
        result.append(layer)
        if activation is not None:
            result.append(ActivationLayer(activation, spec.output_shape(shape), micro_batch=micro_batch, dtype=dtype))
        below = below or bool(spec.weights(shape))
    return result


def begin(layers: Sequence[Layer], params: Params) -> None:
    """Let `layers` do what is the same for all micro-batches with these weights; before the first `forward`."""
    for layer in layers:
        if isinstance(layer, WinogradLayer):
            layer.begin(params)


def end(layers: Sequence[Layer], grads: Params) -> None:
    """Let `layers` add to `grads` what they gathered since `begin`; behind the last `backward`."""
    for layer in layers:
        if isinstance(layer, WinogradLayer):
            layer.end(grads)


def _without_activation(spec: LayerSpec) -> tuple[LayerSpec, Function | None]:
    """The layer with no activation but one that its own code computes, and the activation that is left to do."""
    if not isinstance(spec, Conv2d | Conv1d | DepthwiseConv2d | Dense) or spec.activation == "none":
        return spec, None
    if spec.activation == "relu":
        return spec, None
    return replace(spec, activation="none"), spec.activation


def _conv(
    index: int,
    spec: Conv2d | Conv1d,
    pool: MaxPool2d | None,
    shape: Shape,
    micro_batch: int,
    dtype: npt.DTypeLike,
    *,
    input_gradient: bool,
) -> Layer:
    conv = spec if isinstance(spec, Conv2d) else spec.as_2d
    layer = conv_layer(
        index, conv, pool, _image(shape), micro_batch=micro_batch, dtype=dtype, input_gradient=input_gradient
    )
    if isinstance(spec, Conv2d):
        return layer
    return SeriesLayer(layer, {name(index, conv): name(index, spec) for name in (kernel_name, bias_name)})


def _unweighted(spec: LayerSpec, shape: Shape, micro_batch: int, dtype: npt.DTypeLike) -> Layer:
    layer: Layer
    match spec:
        case MaxPool2d():
            layer = PoolLayer(spec, shape, micro_batch=micro_batch, dtype=dtype)
        case AvgPool2d():
            layer = AvgPoolLayer(spec, shape, micro_batch=micro_batch, dtype=dtype)
        case MaxPool1d() | AvgPool1d():
            layer = SeriesLayer(_unweighted(spec.as_2d, _image(shape), micro_batch, dtype))
        case GlobalAvgPool():
            layer = GlobalAvgPoolLayer(shape, micro_batch=micro_batch, dtype=dtype)
        case Relu() | Relu6() | Tanh():
            layer = ActivationLayer(cast("Function", spec.kind), shape, micro_batch=micro_batch, dtype=dtype)
        case Flatten():
            layer = FlattenLayer(shape, micro_batch=micro_batch, dtype=dtype)
        case _:
            raise AssertionError(spec)
    return layer


def _image(shape: Shape) -> Shape:
    """A series as an image of one row; anything else as it is."""
    return (1, *shape) if len(shape) == 2 else shape


def _pool_to_take_in(specs: Sequence[LayerSpec], index: int) -> MaxPool2d | None:
    spec = specs[index] if index < len(specs) else None
    pool = spec.as_2d if isinstance(spec, MaxPool1d) else spec
    if isinstance(pool, MaxPool2d) and pool.stride[0] >= pool.size[0] and pool.stride[1] >= pool.size[1]:
        return pool
    return None


class FlattenLayer:
    """All axes of a sample into one."""

    def __init__(self, shape: Shape, *, micro_batch: int, dtype: npt.DTypeLike) -> None:
        self._shape = shape
        self._y = Buffer(micro_batch * math.prod(shape), dtype)

    @property
    def buffer_bytes(self) -> int:
        return self._y.nbytes

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002 - one signature for all layers
        if not x.flags.c_contiguous:
            y = self._y.array(*x.shape)
            np.copyto(y, x)
            x = y
        return x.reshape(len(x), math.prod(self._shape))

    def backward(self, params: Params, dy: Array, grads: Params) -> Array:  # noqa: ARG002
        return dy.reshape(len(dy), *self._shape)


class DenseLayer:
    """x·W + b, then the activation."""

    def __init__(
        self, index: int, spec: Dense, shape: Shape, *, micro_batch: int, dtype: npt.DTypeLike, input_gradient: bool
    ) -> None:
        self._kernel, self._bias = kernel_name(index, spec), bias_name(index, spec)
        self._input_gradient = input_gradient
        self._num_inputs, self._units = shape[0], spec.units
        self._x: Array = np.empty((0, shape[0]), dtype)  # the last input: it is not changed before `backward`
        self._y = Buffer(micro_batch * spec.units, dtype)
        self._dkernel = Buffer(shape[0] * spec.units, dtype)
        self._dx = Buffer(micro_batch * shape[0] * input_gradient, dtype)
        self._relu = (
            ActivationLayer("relu", (spec.units,), micro_batch=micro_batch, dtype=dtype)
            if spec.activation == "relu"
            else None
        )

    @property
    def buffer_bytes(self) -> int:
        own = self._y.nbytes + self._dkernel.nbytes + self._dx.nbytes
        return own + (self._relu.buffer_bytes if self._relu else 0)

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
