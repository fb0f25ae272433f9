"""Memory that a layer allocates once and reuses for every micro-batch, also for smaller ones.

Also steps: operations whose views of that memory are created once, as creating a view takes as long as a small
operation.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""An array of the model's dtype: float32 in production, float64 where tests compare with finite differences."""


_GAP = 64
"""Elements between planes: numpy treats arrays that touch as overlapping and skips its vectorised loops."""


class Buffer:
    """Flat memory for arrays of up to `size` elements, initially zero."""

    def __init__(self, size: int, dtype: npt.DTypeLike) -> None:
        self._flat: Array = np.zeros(size, dtype)

    @property
    def nbytes(self) -> int:
        return self._flat.nbytes

    def array(self, *shape: int) -> Array:
        """The first elements as a contiguous array of `shape`; all arrays of a buffer share their memory."""
        return self._flat[: math.prod(shape)].reshape(shape)

    def planes(self, outer: tuple[int, ...], inner: tuple[int, ...]) -> Array:
        """Contiguous planes of shape `inner`, `outer` of them, with gaps between them: an array [*outer, *inner].

        For planes that are operands of one operation. The buffer needs `planes_size` elements.
        """
        size = math.prod(inner)
        flat = self._flat[: math.prod(outer) * (size + _GAP)].reshape(*outer, size + _GAP)
        return flat[..., :size].reshape(*outer, *inner)


def planes_size(num_planes: int, max_elements: int) -> int:
    """Elements of a Buffer for `num_planes` planes of up to `max_elements` each."""
    return num_planes * (max_elements + _GAP)


def buffer_bytes(owner: object) -> int:
    """Bytes of all buffers that `owner`, a layer, and the objects in its attributes hold."""
    parts = owner if isinstance(owner, list) else getattr(owner, "__dict__", {}).values()
    return sum(part.nbytes if isinstance(part, Buffer) else buffer_bytes(part) for part in parts)


Step = Callable[[], object]
"""An operation with its arguments and its output: a `functools.partial`."""

Steps = Sequence[Step]


def run(steps: Steps) -> None:
    """Execute `steps` in order."""
    for step in steps:
        step()
