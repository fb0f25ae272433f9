"""A model's weights by name: which there are, their shapes, and their first values."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edged.domain.nn.spec import Conv2d, Dense, LayerSpec, Relu, Shape, shapes

Params = dict[str, npt.NDArray[np.float32]]
"""Weights, in the layers' order, by "<index of the layer>.<kind>.<kernel or bias>".

A convolution's kernel is [rows, columns, channels, filters], a dense layer's [inputs, units].
"""

_KIND = {Conv2d: "conv2d", Dense: "dense"}


def kernel_name(index: int, layer: Conv2d | Dense) -> str:
    """The name of the kernel of `layer`, the model's layer number `index` (layers without weights count too)."""
    return f"{index}.{_KIND[type(layer)]}.kernel"


def bias_name(index: int, layer: Conv2d | Dense) -> str:
    """The name of the bias of `layer`, the model's layer number `index`."""
    return f"{index}.{_KIND[type(layer)]}.bias"


def parameter_shapes(sample_shape: Shape, layers: Sequence[LayerSpec]) -> dict[str, Shape]:
    """The shape of every weight, in the order of Params. Raises ShapeError."""
    result: dict[str, Shape] = {}
    for index, (layer, shape) in enumerate(zip(layers, shapes(sample_shape, layers), strict=False)):
        if isinstance(layer, Conv2d):
            result[kernel_name(index, layer)] = (*layer.kernel, shape[2], layer.filters)
            result[bias_name(index, layer)] = (layer.filters,)
        elif isinstance(layer, Dense):
            result[kernel_name(index, layer)] = (shape[0], layer.units)
            result[bias_name(index, layer)] = (layer.units,)
    return result


def initial_params(
    sample_shape: Shape, layers: Sequence[LayerSpec], seed: int, dtype: npt.DTypeLike = np.float32
) -> Params:
    """First values, a pure function of the arguments: zero biases, random kernels.

    Kernels before a ReLU: normal with variance 2/fan_in (He et al. 2015, https://arxiv.org/abs/1502.01852); others:
    uniform with variance 2/(fan_in + fan_out) (Glorot and Bengio 2010).
    """
    result: Params = {}
    for name, shape in parameter_shapes(sample_shape, layers).items():
        index = int(name.partition(".")[0])
        values = _kernel(shape, index, layers, seed) if len(shape) > 1 else np.zeros(shape)
        result[name] = values.astype(dtype)
    return result


def _kernel(shape: Shape, index: int, layers: Sequence[LayerSpec], seed: int) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng((seed, index))
    receptive = math.prod(shape[:-2])
    fan_in, fan_out = receptive * shape[-2], receptive * shape[-1]
    if _meets_relu(index, layers):
        return rng.normal(0.0, math.sqrt(2 / fan_in), shape)
    limit = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape)


def _meets_relu(index: int, layers: Sequence[LayerSpec]) -> bool:
    layer = layers[index]
    assert isinstance(layer, Conv2d | Dense)
    return layer.activation == "relu" or isinstance(next(iter(layers[index + 1 : index + 2]), None), Relu)
