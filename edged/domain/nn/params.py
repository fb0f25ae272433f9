"""A model's weights: their names, shapes and initial values."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edged.domain.nn.spec import (
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    GroupNorm,
    LayerSpec,
    Relu,
    Relu6,
    Shape,
    shapes,
)

Params = dict[str, npt.NDArray[np.float32]]
"""Weights, in the layers' order, by "<index of the layer>.<kind>.<weight>".

A convolution's kernel is [rows, columns, channels, filters], that along a series [length, channels, filters], a
depthwise one's [rows, columns, channels], a dense layer's [inputs, units]; a group_norm has scale and bias.
"""


def weight_name(index: int, layer: LayerSpec, weight: str) -> str:
    """The name of a weight of `layer`, the model's layer number `index` (layers without weights count too)."""
    return f"{index}.{layer.kind}.{weight}"


def kernel_name(index: int, layer: LayerSpec) -> str:
    """The name of the kernel of `layer`, the model's layer number `index`."""
    return weight_name(index, layer, "kernel")


def bias_name(index: int, layer: LayerSpec) -> str:
    """The name of the bias of `layer`, the model's layer number `index`."""
    return weight_name(index, layer, "bias")


def parameter_shapes(sample_shape: Shape, layers: Sequence[LayerSpec]) -> dict[str, Shape]:
    """The shape of every weight, in the order of Params. Raises ShapeError."""
    return {
        weight_name(index, layer, weight): weight_shape
        for index, (layer, shape) in enumerate(zip(layers, shapes(sample_shape, layers), strict=False))
        for weight, weight_shape in layer.weights(shape).items()
    }


def initial_params(
    sample_shape: Shape, layers: Sequence[LayerSpec], seed: int, dtype: npt.DTypeLike = np.float32
) -> Params:
    """Initial values, a pure function of the arguments: zero biases, scales of one, random kernels.

    Kernels before a ReLU: normal with variance 2/fan_in (He et al. 2015, https://arxiv.org/abs/1502.01852); others:
    uniform with variance 2/(fan_in + fan_out) (Glorot and Bengio 2010).
    """
    result: Params = {}
    for name, shape in parameter_shapes(sample_shape, layers).items():
        index, _, weight = name.split(".")
        if weight == "kernel":
            values = _kernel(shape, int(index), layers, seed)
        else:
            values = np.full(shape, 1.0 if weight == "scale" else 0.0)
        result[name] = values.astype(dtype)
    return result


def _kernel(shape: Shape, index: int, layers: Sequence[LayerSpec], seed: int) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng((seed, index))
    if isinstance(layers[index], DepthwiseConv2d):
        fan_in = fan_out = math.prod(shape[:-1])
    else:
        receptive = math.prod(shape[:-2])
        fan_in, fan_out = receptive * shape[-2], receptive * shape[-1]
    if _feeds_relu(index, layers):
        return rng.normal(0.0, math.sqrt(2 / fan_in), shape)
    limit = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape)


def _feeds_relu(index: int, layers: Sequence[LayerSpec]) -> bool:
    """Whether the outputs of layer `index` go into a ReLU, directly or after a normalisation."""
    layer = layers[index]
    assert isinstance(layer, Conv2d | Conv1d | DepthwiseConv2d | Dense)
    if layer.activation != "none":
        return layer.activation in {"relu", "relu6"}
    after = next((each for each in layers[index + 1 :] if not isinstance(each, GroupNorm)), None)
    return isinstance(after, Relu | Relu6)
