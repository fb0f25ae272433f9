"""Layers along a series [length, channels]: image layers that take the series as an image of one row."""

from collections.abc import Mapping

import numpy as np

from edged.domain.nn.buffer import Array
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params


class SeriesLayer(Layer):
    """`layer`, made for [1, length, channels], for samples [length, channels].

    `names`: from the layer's own names of its weights to the model's. A series' kernel has one axis fewer than the
    layer's.
    """

    def __init__(self, layer: Layer, names: Mapping[str, str] | None = None) -> None:
        self._layer, self._names = layer, names or {}

    def begin(self, params: Params) -> None:
        self._layer.begin(self._renamed(params))

    def forward(self, params: Params, x: Array) -> Array:
        return self._layer.forward(self._renamed(params), x[:, None])[:, 0]

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:
        dx = self._layer.backward(self._renamed(params), dy[:, None], self._renamed(grads))
        return None if dx is None else dx[:, 0]

    def end(self, grads: Params) -> None:
        self._layer.end(self._renamed(grads))

    def _renamed(self, params: Params) -> Params:
        """The same memory under the layer's names and shapes."""
        arrays = {own: params[name] for own, name in self._names.items()}
        return {own: array[np.newaxis] if array.ndim > 1 else array for own, array in arrays.items()}
