"""Layer specifications, as written in the topology file, and the shapes they produce.

Holds no weights and computes nothing but shapes and counts. A sample is an image [height, width, channels], a series
[length, channels] or has any other axes; the last axis is always the channels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from edged.domain.counted import counted
from edged.domain.named_fields import to_named

Activation = Literal["none", "relu", "relu6", "tanh"]
Padding = Literal["same", "valid"]
LossName = Literal["cross_entropy", "mean_squared_error"]
Shape = tuple[int, ...]


class ShapeError(ValueError):
    """A layer does not fit the shape that reaches it."""


class _Layer:
    """What layers have in common; those without weights leave `weights` as it is."""

    __slots__ = ()

    kind: ClassVar[str]
    """The layer's name in the topology file and in the names of its weights."""

    def weights(self, shape: Shape) -> dict[str, Shape]:  # noqa: ARG002 - one signature for all layers
        """The shapes of the layer's weights by name, for an input of `shape`."""
        return {}

    def num_parameters(self, shape: Shape) -> int:
        """Values in all weights, for an input of `shape`."""
        return sum(math.prod(weight) for weight in self.weights(shape).values())


class _SameShape(_Layer):
    """A layer that changes values, not the shape."""

    __slots__ = ()

    def output_shape(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True, slots=True)
class Conv2d(_Layer):
    """Correlation of [height, width, channels] with `filters` kernels, bias, then the activation."""

    kind: ClassVar[str] = "conv2d"
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = "valid"
    activation: Activation = "none"

    def output_shape(self, shape: Shape) -> Shape:
        height, width, _ = _image(shape, self.kind)
        return (*_windows((height, width), self.kernel, self.stride, self.padding, self.kind), self.filters)

    def weights(self, shape: Shape) -> dict[str, Shape]:
        """Kernel [rows, columns, channels, filters] and bias."""
        return {"kernel": (*self.kernel, shape[2], self.filters), "bias": (self.filters,)}


@dataclass(frozen=True, slots=True)
class DepthwiseConv2d(_Layer):
    """Correlation of each channel of [height, width, channels] with a kernel of its own, bias, then the activation."""

    kind: ClassVar[str] = "depthwise_conv2d"
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = "valid"
    activation: Activation = "none"

    def output_shape(self, shape: Shape) -> Shape:
        height, width, channels = _image(shape, self.kind)
        return (*_windows((height, width), self.kernel, self.stride, self.padding, self.kind), channels)

    def weights(self, shape: Shape) -> dict[str, Shape]:
        """Kernel [rows, columns, channels] and bias."""
        return {"kernel": (*self.kernel, shape[2]), "bias": (shape[2],)}


@dataclass(frozen=True, slots=True)
class Conv1d(_Layer):
    """Correlation of [length, channels] with `filters` kernels, bias, then the activation."""

    kind: ClassVar[str] = "conv1d"
    filters: int
    kernel: int
    stride: int = 1
    padding: Padding = "valid"
    activation: Activation = "none"

    def output_shape(self, shape: Shape) -> Shape:
        length, _ = _series(shape, self.kind)
        return (*_windows((length,), (self.kernel,), (self.stride,), self.padding, self.kind), self.filters)

    def weights(self, shape: Shape) -> dict[str, Shape]:
        """Kernel [length, channels, filters] and bias."""
        return {"kernel": (self.kernel, shape[1], self.filters), "bias": (self.filters,)}

    @property
    def as_2d(self) -> Conv2d:
        """The same for [1, length, channels]."""
        return Conv2d(self.filters, (1, self.kernel), (1, self.stride), self.padding, self.activation)


@dataclass(frozen=True, slots=True)
class _Pool2d(_Layer):
    """Windows of `size` over an image; positions that do not fill a window are dropped."""

    size: tuple[int, int]
    stride: tuple[int, int]

    def output_shape(self, shape: Shape) -> Shape:
        height, width, channels = _image(shape, self.kind)
        return (*_windows((height, width), self.size, self.stride, "valid", self.kind), channels)


@dataclass(frozen=True, slots=True)
class MaxPool2d(_Pool2d):
    """Maximum over windows of an image."""

    kind: ClassVar[str] = "max_pool2d"


@dataclass(frozen=True, slots=True)
class AvgPool2d(_Pool2d):
    """Mean over windows of an image."""

    kind: ClassVar[str] = "avg_pool2d"


@dataclass(frozen=True, slots=True)
class _Pool1d(_Layer):
    """Windows of `size` along a series; positions that do not fill a window are dropped."""

    size: int
    stride: int

    def output_shape(self, shape: Shape) -> Shape:
        length, channels = _series(shape, self.kind)
        return (*_windows((length,), (self.size,), (self.stride,), "valid", self.kind), channels)


@dataclass(frozen=True, slots=True)
class MaxPool1d(_Pool1d):
    """Maximum over windows of a series."""

    kind: ClassVar[str] = "max_pool1d"

    @property
    def as_2d(self) -> MaxPool2d:
        """The same for [1, length, channels]."""
        return MaxPool2d((1, self.size), (1, self.stride))


@dataclass(frozen=True, slots=True)
class AvgPool1d(_Pool1d):
    """Mean over windows of a series."""

    kind: ClassVar[str] = "avg_pool1d"

    @property
    def as_2d(self) -> AvgPool2d:
        """The same for [1, length, channels]."""
        return AvgPool2d((1, self.size), (1, self.stride))


@dataclass(frozen=True, slots=True)
class GlobalAvgPool(_Layer):
    """The mean of each channel over [height, width] or [length]."""

    kind: ClassVar[str] = "global_avg_pool"

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) not in {2, 3}:
            raise ShapeError(
                f"{self.kind} takes [height, width, channels] or [length, channels], not {shape_text(shape)}"
            )
        return shape[-1:]


@dataclass(frozen=True, slots=True)
class GroupNorm(_SameShape):
    """Mean 0 and variance 1 over each sample's groups of channels, then scale and bias by channel (Wu and He 2018).

    A group is `channels / groups` neighbouring channels, over all of the other axes.
    """

    kind: ClassVar[str] = "group_norm"
    groups: int
    epsilon: float = 1e-5

    def output_shape(self, shape: Shape) -> Shape:
        if shape[-1] % self.groups:
            raise ShapeError(f"group_norm: {counted(shape[-1], 'channel')} cannot be divided into {self.groups} groups")
        return shape

    def weights(self, shape: Shape) -> dict[str, Shape]:
        """Scale and bias, [channels]."""
        return {"scale": shape[-1:], "bias": shape[-1:]}


@dataclass(frozen=True, slots=True)
class Dropout(_SameShape):
    """In training, each value is 0 with probability `rate`, else divided by 1 - rate; otherwise nothing happens."""

    kind: ClassVar[str] = "dropout"
    rate: float


@dataclass(frozen=True, slots=True)
class Flatten(_Layer):
    """All axes into one."""

    kind: ClassVar[str] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@dataclass(frozen=True, slots=True)
class Relu(_SameShape):
    """max(x, 0)."""

    kind: ClassVar[str] = "relu"


@dataclass(frozen=True, slots=True)
class Relu6(_SameShape):
    """min(max(x, 0), 6)."""

    kind: ClassVar[str] = "relu6"


@dataclass(frozen=True, slots=True)
class Tanh(_SameShape):
    """The hyperbolic tangent."""

    kind: ClassVar[str] = "tanh"


@dataclass(frozen=True, slots=True)
class Dense(_Layer):
    """x·W + b, then the activation."""

    kind: ClassVar[str] = "dense"
    units: int
    activation: Activation = "none"

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(f"dense takes one axis, not {shape_text(shape)}; put flatten before it")
        return (self.units,)

    def weights(self, shape: Shape) -> dict[str, Shape]:
        """Kernel [inputs, units] and bias."""
        return {"kernel": (shape[0], self.units), "bias": (self.units,)}


LayerSpec = (
    Conv2d
    | DepthwiseConv2d
    | Conv1d
    | MaxPool2d
    | AvgPool2d
    | MaxPool1d
    | AvgPool1d
    | GlobalAvgPool
    | GroupNorm
    | Dropout
    | Flatten
    | Relu
    | Relu6
    | Tanh
    | Dense
)


Described = tuple[str, tuple[str, ...]]
"""What digests call a class, and each of its fields in their order: data, so that classes and fields may be renamed."""

DESCRIBED: Mapping[type[LayerSpec], Described] = {
    Conv2d: ("Conv2d", ("filters", "kernel", "stride", "padding", "activation")),
    DepthwiseConv2d: ("DepthwiseConv2d", ("kernel", "stride", "padding", "activation")),
    Conv1d: ("Conv1d", ("filters", "kernel", "stride", "padding", "activation")),
    MaxPool2d: ("MaxPool2d", ("size", "stride")),
    AvgPool2d: ("AvgPool2d", ("size", "stride")),
    MaxPool1d: ("MaxPool1d", ("size", "stride")),
    AvgPool1d: ("AvgPool1d", ("size", "stride")),
    GlobalAvgPool: ("GlobalAvgPool", ()),
    GroupNorm: ("GroupNorm", ("groups", "epsilon")),
    Dropout: ("Dropout", ("rate",)),
    Flatten: ("Flatten", ()),
    Relu: ("Relu", ()),
    Relu6: ("Relu6", ()),
    Tanh: ("Tanh", ()),
    Dense: ("Dense", ("units", "activation")),
}


def shapes(sample_shape: Shape, layers: Sequence[LayerSpec]) -> list[Shape]:
    """The shape before the first layer and after each one. Raises ShapeError."""
    result = [sample_shape]
    for layer in layers:
        result.append(layer.output_shape(result[-1]))
    return result


def settings(layer: LayerSpec) -> dict[str, Any]:
    """The layer's settings under the names that model files have for them."""
    return to_named(layer, DESCRIBED[type(layer)][1])


def num_parameters(sample_shape: Shape, layers: Sequence[LayerSpec]) -> int:
    """Weights and biases of the whole model."""
    before = shapes(sample_shape, layers)
    return sum(layer.num_parameters(shape) for layer, shape in zip(layers, before, strict=False))


def _image(shape: Shape, name: str) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ShapeError(f"{name} takes [height, width, channels], not {shape_text(shape)}")
    return shape[0], shape[1], shape[2]


def _series(shape: Shape, name: str) -> tuple[int, int]:
    if len(shape) != 2:
        raise ShapeError(f"{name} takes [length, channels], not {shape_text(shape)}")
    return shape[0], shape[1]


def _windows(size: Shape, window: Shape, stride: Shape, padding: Padding, name: str) -> Shape:
    """The number of windows along each axis."""
    if padding == "same":
        return tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    counts = tuple((n - w) // s + 1 for n, w, s in zip(size, window, stride, strict=True))
    if min(counts) < 1:
        raise ShapeError(f"{name}: a window of {shape_text(window)} does not fit into {shape_text(size)}")
    return counts


def shape_text(shape: Sequence[int]) -> str:
    """The shape for messages: 28×28×1."""
    return "×".join(str(n) for n in shape)
