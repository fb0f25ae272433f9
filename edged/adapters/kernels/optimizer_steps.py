"""The optimizers' steps in C: one pass over the memory instead of a dozen."""

import ctypes

import numpy as np

from edged.adapters.kernels.memory import address_of
from edged.domain.nn.buffer import Array
from edged.domain.nn.optimizer_steps import NUMPY_STEPS, AdaptiveMoments, Momentum


class CompiledSteps:
    """`domain.nn.optimizer_steps.OptimizerSteps`: the reference's bits; arrays that are not for C are left to it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._momentum, self._adam = library.edged_momentum, library.edged_adam

    def momentum(self, param: Array, velocity: Array, grad: Array, by: Momentum) -> None:
        """See `OptimizerSteps`."""
        if _are_for_c(param, velocity, grad):
            self._momentum(param.size, *map(address_of, (param, velocity, grad)), *by)
        else:
            NUMPY_STEPS.momentum(param, velocity, grad, by)

    def adam(self, param: Array, mean: Array, variance: Array, grad: Array, by: AdaptiveMoments) -> None:
        """See `OptimizerSteps`."""
        if _are_for_c(param, mean, variance, grad):
            self._adam(param.size, *map(address_of, (param, mean, variance, grad)), *by)
        else:
            NUMPY_STEPS.adam(param, mean, variance, grad, by)


def _are_for_c(*arrays: Array) -> bool:
    """Whether C can read and write them where they are; the last one it only reads."""
    shape = arrays[0].shape
    return all(
        array.dtype == np.float32 and array.shape == shape and array.flags.c_contiguous and array.flags.aligned
        for array in arrays
    ) and all(array.flags.writeable for array in arrays[:-1])
