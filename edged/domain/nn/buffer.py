"""Memory that a layer allocates once and uses for every micro-batch, also for smaller ones."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""An array of the model's dtype: float32 in service, float64 where tests compare with finite differences."""


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
