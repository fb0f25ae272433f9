"""Model files that are as edged writes them but for one number, which TFLite trusts."""

import struct

import tflite

from edged.adapters.tflite.writer import to_tflite
from edged.domain.nn.params import initial_params
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec, MaxPool2d, Shape

SHAPE = (8, 8, 1)
LABELS = ("no", "yes")


def sound(shape: Shape = SHAPE, labels: tuple[str, ...] = LABELS) -> bytes:
    """A classifier as edged writes it."""
    layers: list[LayerSpec] = [Conv2d(4, (3, 3), activation="relu"), MaxPool2d((2, 2), (2, 2)), Flatten()]
    layers.append(Dense(len(labels)))
    return to_tflite(shape, layers, initial_params(shape, layers, seed=0), labels=labels)


def crashing(shape: Shape = SHAPE, labels: tuple[str, ...] = LABELS, *, channels: int = 4096) -> bytes:
    """The same, but for the channels of its input: TFLite divides by what is left of the kernel's for each group."""
    content = bytearray(sound(shape, labels))
    graph = tflite.Model.GetRootAs(content, 0).Subgraphs(0)
    table = graph.Tensors(graph.Inputs(0))._tab
    axes = table.Vector(table.Offset(4))
    struct.pack_into("<i", content, axes + 4 * len(shape), channels)
    return bytes(content)
