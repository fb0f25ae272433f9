"""What every layer is built with besides its own settings."""

from dataclasses import dataclass

import numpy.typing as npt

from edged.domain.nn.spec import Shape


@dataclass(frozen=True, slots=True)
class LayerContext:
    """A layer's position in its model, and how it is computed."""

    index: int
    """The layer's number in the model, for the names of its weights."""
    shape: Shape
    """Of one sample at the layer's input."""
    micro_batch: int
    """The largest number of samples per call; it determines the size of the buffers."""
    dtype: npt.DTypeLike
    input_gradient: bool
    """Whether an earlier layer has weights, so that `backward` must return the input's gradient."""
