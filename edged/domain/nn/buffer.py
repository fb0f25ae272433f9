"""Memory that a layer allocates once and uses for every micro-batch, also for smaller ones.

And steps: operations on views of it that are made once, for making a view takes as long as a small operation.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""An array of the model's dtype: float32 in service, float64 where tests compare with finite differences."""


_GAP = 64
"""Elements between planes: numpy takes arrays that touch for overlapping ones, and leaves out its vector loops."""


class Buffer:
    """Flat memory for arrays of up to `size` elements, zero at first."""

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

        Between arrays that are operands of one operation. The buffer's size is to be that of `planes_size`.
        """
        each = math.prod(inner)
        flat = self._flat[: math.prod(outer) * (each + _GAP)].reshape(*outer, each + _GAP)
        return flat[..., :each].reshape(*outer, *inner)


def planes_size(num_planes: int, max_elements: int) -> int:
    """Elements of a Buffer for as many planes of up to `max_elements`."""
    return num_planes * (max_elements + _GAP)


def buffer_bytes(owner: object) -> int:
    """Bytes of all buffers among the attributes of `owner`, a layer, and of the objects that it is made of."""
    parts = getattr(owner, "__dict__", {}).values()
    return sum(part.nbytes if isinstance(part, Buffer) else buffer_bytes(part) for part in parts)


Step = tuple[Callable[..., Any], tuple[Any, ...]]
"""An operation and its arguments, the output among them."""

Steps = Sequence[Step]


def run(steps: Steps) -> None:
    """Do all of `steps`, in order."""
    for operation, arguments in steps:
        operation(*arguments)
