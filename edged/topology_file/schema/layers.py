"""The layers of a model."""

from typing import Any, get_args

from edged.domain.nn.spec import (
    Activation,
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
    MaxPool1d,
    MaxPool2d,
    Padding,
    Relu,
    Relu6,
    Tanh,
)
from edged.topology_file.kinds.alternatives import OneOf, Short, Word
from edged.topology_file.kinds.lists import Pair
from edged.topology_file.kinds.scalars import Choice, Number, Whole
from edged.topology_file.kinds.sections import Key, Section, section

_ACTIVATION = Key(Choice(get_args(Activation)), "applied to the layer's output")
_PADDING = Key(Choice(get_args(Padding)), "same keeps the size, valid drops the border")
_WINDOW = Key(Pair(Whole(1, 64)), "size of the window: n or [rows, columns]")
_STRIDE = Key(Pair(Whole(1, 64)), "steps of the window: n or [rows, columns]")
_LENGTH = Key(Whole(1, 4096), "length of the window")
_STEP = Key(Whole(1, 4096), "steps of the window")
_FILTERS = Key(Whole(1, 4096), "output channels")


def _pool(kind: type, doc: str, size: Key, stride: Key) -> Short:
    """A pooling layer. The default stride is the window's size."""

    def make(*, size: Any, stride: Any) -> Any:
        return kind(size, stride or size)

    return Short("size", Section(make, doc, {"size": size, "stride": stride}, {"stride": None}))


LAYER = OneOf(
    "layer",
    {
        "conv2d": section(
            Conv2d,
            "Convolution of [height, width, channels].",
            filters=_FILTERS,
            kernel=_WINDOW,
            stride=_STRIDE,
            padding=_PADDING,
            activation=_ACTIVATION,
        ),
        "depthwise_conv2d": section(
            DepthwiseConv2d,
            "Convolution of each channel of [height, width, channels] on its own.",
            kernel=_WINDOW,
            stride=_STRIDE,
            padding=_PADDING,
            activation=_ACTIVATION,
        ),
        "conv1d": section(
            Conv1d,
            "Convolution of a series [length, channels].",
            filters=_FILTERS,
            kernel=_LENGTH,
            stride=_STEP,
            padding=_PADDING,
            activation=_ACTIVATION,
        ),
        "max_pool2d": _pool(MaxPool2d, "Maximum over windows of an image.", _WINDOW, _STRIDE),
        "avg_pool2d": _pool(AvgPool2d, "Mean over windows of an image.", _WINDOW, _STRIDE),
        "max_pool1d": _pool(MaxPool1d, "Maximum over windows of a series.", _LENGTH, _STEP),
        "avg_pool1d": _pool(AvgPool1d, "Mean over windows of a series.", _LENGTH, _STEP),
        "global_avg_pool": Word(GlobalAvgPool()),
        "group_norm": Short(
            "groups",
            section(
                GroupNorm,
                "Mean 0 and variance 1 over groups of channels, then a scale and a bias.",
                groups=Key(Whole(1, 4096), "number of groups; it divides the channels"),
                epsilon=Key(Number(0, 1, excludes_minimum=True), "added to the variance"),
            ),
        ),
        "dropout": Short(
            "rate",
            section(
                Dropout, "Values left out at random in training.", rate=Key(Number(0, 1), "share that is left out")
            ),
        ),
        "flatten": Word(Flatten()),
        "relu": Word(Relu()),
        "relu6": Word(Relu6()),
        "tanh": Word(Tanh()),
        "dense": Short(
            "units",
            section(
                Dense,
                "Every input to every unit.",
                units=Key(Whole(1, 1 << 20), "number of outputs"),
                activation=_ACTIVATION,
            ),
        ),
    },
)
