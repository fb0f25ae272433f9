"""Stochastic gradient descent with momentum, in place.

v ← momentum·v + g; p ← p - learning_rate·v: the form of Sutskever et al. 2013 as PyTorch's SGD computes it, so that a
change of the learning rate acts at once.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Params = Mapping[str, npt.NDArray[np.float32]]


def initial_velocity(params: Params) -> dict[str, npt.NDArray[np.float32]]:
    """A velocity of zero for each of `params`."""
    return {name: np.zeros_like(param) for name, param in params.items()}


def sgd_step(params: Params, velocity: Params, grads: Params, *, learning_rate: float, momentum: float) -> None:
    """Update `params` and `velocity` in place; `grads` is left as it is. All three have the same names and shapes."""
    for name, grad in grads.items():
        param, speed = params[name], velocity[name]
        speed *= momentum
        speed += grad
        param -= learning_rate * speed
