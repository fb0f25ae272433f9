"""The loss of classes and its gradient, in one call."""

import ctypes

import numpy as np

from edged.adapters.kernels.memory import address_of
from edged.domain.counted import counted
from edged.domain.nn.buffer import Array


class CrossEntropy:
    """A `domain.nn.loss.LossStep`. Raises IndexError for a target that is no class, ValueError for other arrays."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._function = library.edged_cross_entropy

    def __call__(self, outputs: Array, targets: Array, scale: Array, losses: Array, scores: Array) -> tuple[Array, int]:
        n, classes = outputs.shape
        if outputs.dtype != np.float32 or not outputs.flags.c_contiguous:
            raise ValueError("float32 in one piece expected")
        classes_of = checked(n, classes, targets, scale, losses, scores)
        gradient = np.empty((n, classes), np.float32)
        addresses = map(address_of, (outputs, classes_of, scale, losses, scores, gradient))
        return gradient, int(self._function(n, classes, *addresses))


def checked(n: int, classes: int, targets: Array, scale: Array, losses: Array, scores: Array) -> Array:
    """The targets as C reads them. Raises as CrossEntropy where the arrays are not of n samples, or not for C."""
    if targets.size and not 0 <= targets.min() <= targets.max() < classes:
        raise IndexError(f"classes from {targets.min()} to {targets.max()} for a model of {classes}")
    written = [array for array in (losses, scores) if not array.flags.writeable]
    arrays = (scale, losses, scores)
    if written or any(array.dtype != np.float32 or not array.flags.c_contiguous for array in arrays):
        raise ValueError("float32 in one piece expected")
    if targets.shape != (n,) or any(array.size != n for array in (scale, losses, scores)):
        raise ValueError(f"{counted(n, 'output')} for {len(targets)} targets")
    return np.ascontiguousarray(targets, np.int64)
