"""What a model is made of, as written in the topology file: layer specifications and the shapes they give.

Holds no weights and computes nothing but shapes and counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Activation = Literal["none", "relu"]
Padding = Literal["same", "valid"]
Shape = tuple[int, ...]


class ShapeError(ValueError):
    """A layer does not fit the shape that reaches it."""


@dataclass(frozen=True, slots=True)
class Conv2d:
    """Correlation of [height, width, channels] with `filters` kernels, bias, then the activation."""

    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = "valid"
    activation: Activation = "none"

    def output_shape(self, shape: Shape) -> Shape:
        height, width, _ = _image(shape, "conv2d")
        return (*_windows((height, width), self.kernel, self.stride, self.padding, "conv2d"), self.filters)

    def num_parameters(self, shape: Shape) -> int:
        return math.prod(self.kernel) * shape[2] * self.filters + self.filters


@dataclass(frozen=True, slots=True)
class MaxPool2d:
    """Maximum over windows of `size`; positions that do not fill a window are dropped."""

    size: tuple[int, int]
    stride: tuple[int, int]

    def output_shape(self, shape: Shape) -> Shape:
        height, width, channels = _image(shape, "max_pool2d")
        return (*_windows((height, width), self.size, self.stride, "valid", "max_pool2d"), channels)

    def num_parameters(self, shape: Shape) -> int:  # noqa: ARG002 - one signature for all layers
        return 0


@dataclass(frozen=True, slots=True)
class Flatten:
    """All axes into one."""

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def num_parameters(self, shape: Shape) -> int:  # noqa: ARG002
        return 0


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, 0)."""

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def num_parameters(self, shape: Shape) -> int:  # noqa: ARG002
        return 0


@dataclass(frozen=True, slots=True)
class Dense:
    """x·W + b, then the activation."""

    units: int
    activation: Activation = "none"

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(f"dense takes one axis, not {_text(shape)}; put flatten before it")
        return (self.units,)

    def num_parameters(self, shape: Shape) -> int:
        return shape[0] * self.units + self.units


LayerSpec = Conv2d | MaxPool2d | Flatten | Relu | Dense


def shapes(sample_shape: Shape, layers: Sequence[LayerSpec]) -> list[Shape]:
    """The shape before the first layer and after each one. Raises ShapeError."""
    result = [sample_shape]
    for layer in layers:
        result.append(layer.output_shape(result[-1]))
    return result


def num_parameters(sample_shape: Shape, layers: Sequence[LayerSpec]) -> int:
    """Weights and biases of the whole model."""
    before = shapes(sample_shape, layers)
    return sum(layer.num_parameters(shape) for layer, shape in zip(layers, before, strict=False))


def _image(shape: Shape, name: str) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ShapeError(f"{name} takes [height, width, channels], not {_text(shape)}")
    return shape[0], shape[1], shape[2]


def _windows(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int], padding: Padding, name: str
) -> tuple[int, int]:
    if padding == "same":
        return -(-size[0] // stride[0]), -(-size[1] // stride[1])
    rows, columns = ((n - w) // s + 1 for n, w, s in zip(size, window, stride, strict=True))
    if rows < 1 or columns < 1:
        raise ShapeError(f"{name}: a window of {_text(window)} does not fit into {_text(size)}")
    return rows, columns


def _text(shape: Sequence[int]) -> str:
    return "×".join(str(n) for n in shape)
