"""The arithmetic of the optimizers on one array of weights and its slots, in place: what a backend may compute instead.

Unlike its layers, to the bit: all members of a group make the same step, whatever they compute it by.
See also: `domain.training.optim`.
"""

from typing import NamedTuple, Protocol

import numpy as np

from edged.domain.nn.buffer import Array

SMALLEST = float(np.finfo(np.float32).smallest_normal)
"""Numbers of a smaller magnitude are denormal in float32, and CPUs compute with them many times more slowly."""


class Momentum(NamedTuple):
    """Sutskever et al. 2013 as in PyTorch, where a change of the learning rate acts at once. Decay is the L2 penalty.

    g ← rate·(gradient + decay·p); v ← momentum·v + g; p ← p - learning_rate·v, with Nesterov's of g + momentum·v.
    """

    decay: float
    rate: float
    momentum: float
    learning_rate: float
    nesterov: bool


class AdaptiveMoments(NamedTuple):
    """Adam's, with the bias corrections and the decay worked out.

    p ← kept·p; m ← beta1·m + rest1·g; v ← beta2·v + rest2·g²; p ← p - learning_rate·m / (√(v / corrected) + epsilon).
    """

    kept: float
    beta1: float
    rest1: float
    beta2: float
    rest2: float
    corrected: float
    epsilon: float
    learning_rate: float


class OptimizerSteps(Protocol):
    """Changes weights `param` and their slots by the gradient `grad`, all of one shape.

    Slots hold no denormal numbers, to which those of weights without a gradient shrink, but 0.
    """

    def momentum(self, param: Array, velocity: Array, grad: Array, by: Momentum) -> None:
        """A step of SGD."""
        ...

    def adam(self, param: Array, mean: Array, variance: Array, grad: Array, by: AdaptiveMoments) -> None:
        """A step of Adam."""
        ...


class NumpySteps:
    """The reference."""

    def momentum(self, param: Array, velocity: Array, grad: Array, by: Momentum) -> None:
        """See `OptimizerSteps`."""
        if by.decay:
            grad = grad + by.decay * param
        grad = by.rate * grad
        _decay(velocity, by.momentum, grad)
        param -= by.learning_rate * (grad + by.momentum * velocity if by.nesterov else velocity)

    def adam(self, param: Array, mean: Array, variance: Array, grad: Array, by: AdaptiveMoments) -> None:
        """See `OptimizerSteps`."""
        _decay(mean, by.beta1, by.rest1 * grad)
        _decay(variance, by.beta2, by.rest2 * np.square(grad))
        root = np.sqrt(variance / by.corrected)
        root += by.epsilon
        param *= by.kept
        param -= by.learning_rate * (mean / root)


NUMPY_STEPS = NumpySteps()


def _decay(slot: Array, factor: float, added: Array) -> None:
    """Multiply by `factor` and add; what is denormal becomes 0."""
    slot *= factor
    slot += added
    np.copyto(slot, 0, where=np.abs(slot) < SMALLEST)
