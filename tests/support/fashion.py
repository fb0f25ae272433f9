"""The packaged images of Fashion-MNIST as arrays, and the example's model trained on them briefly."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.adapters.datasets.registry import open_dataset
from edged.domain.nn.model import Model
from edged.domain.nn.params import Params
from edged.domain.nn.spec import Conv2d, Dense, Flatten, LayerSpec, MaxPool2d, Shape
from edged.ports import Dataset
from tests.support.kernels import chosen_backend

SHAPE = (28, 28, 1)
LAYERS: tuple[LayerSpec, ...] = (
    Conv2d(32, (3, 3), activation="relu"), MaxPool2d((2, 2), (2, 2)), Conv2d(64, (3, 3), activation="relu"),
    MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(10),
)  # fmt: skip


@dataclass
class Images:
    """Normalised samples float32 [n, 28, 28, 1] and their classes int64 [n]."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    labels: tuple[str, ...]

    def of(self, classes: tuple[int, ...]) -> "Images":
        """Only samples of these classes, renumbered in this order."""
        rows = np.isin(self.y, classes)
        numbers = np.array([classes.index(y) for y in self.y[rows].tolist()], np.int64)
        return Images(self.x[rows], numbers, tuple(self.labels[c] for c in classes))


def images(split: str, name: str = "fashion-mnist-small") -> Images:
    """A split ("train" or "test") of the packaged data set, or of the full one."""
    dataset = open_dataset(name)
    return _images(dataset, split)


def _images(dataset: Dataset, split: str) -> Images:
    items = [dataset.sample(split, index) for index in range(dataset.count(split))]
    pixels = np.frombuffer(b"".join(item.payload for item in items), np.uint8).reshape(-1, *SHAPE)
    y = np.array([dataset.labels.index(item.label or "") for item in items], np.int64)
    return Images((pixels / np.float32(255)).astype(np.float32), y, dataset.labels)


def train(layers: tuple[LayerSpec, ...], data: Images, epochs: int, *, shape: Shape = SHAPE, batch: int = 64) -> Params:
    """Weights after `epochs` epochs of SGD with momentum; deterministic."""
    model, rng = Model(shape, layers, backend=chosen_backend()), np.random.default_rng(0)
    params: Params = model.initial(0)
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    for _ in range(epochs):
        order = rng.permutation(len(data.y))
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            grads = model.gradient(params, data.x[rows], data.y[rows]).grads
            for name, grad in grads.items():
                velocity[name] = 0.9 * velocity[name] + grad
                params[name] -= np.float32(0.05) * velocity[name]
    return params


def accuracy(outputs: npt.NDArray[Any], y: npt.NDArray[np.int64]) -> float:
    """Share of samples whose largest output is that of their class."""
    return float((outputs.argmax(axis=1) == y).mean())


@cache
def trained_params() -> Params:
    """LAYERS after two epochs of the packaged training images."""
    return train(LAYERS, images("train"), epochs=2)
