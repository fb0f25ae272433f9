"""Optimizers: the arithmetic that turns a gradient into a step of the weights, in place.

Weight decay applies to kernels only, not to biases and scales. All of an optimizer's state lives in named slots, each
with the names and shapes of the weights. See also: `domain.topology.training` for their settings.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.domain.topology import Adam, Lars, Optimizer, Sgd

Array = npt.NDArray[Any]
Params = Mapping[str, Array]
Slots = Mapping[str, Params]

SMALLEST = float(np.finfo(np.float32).smallest_normal)
"""Numbers of a smaller magnitude are denormal in float32, and CPUs compute with them many times more slowly."""

_SLOTS = {Sgd: ("velocity",), Lars: ("velocity",), Adam: ("mean", "variance")}


def num_slots(optimizer: Optimizer) -> int:
    """Numbers of optimizer state per weight."""
    return len(_SLOTS[type(optimizer)])


def initial_slots(optimizer: Optimizer, params: Params) -> dict[str, dict[str, Array]]:
    """The state before the first step: zeros for each of `params`."""
    return {slot: {name: np.zeros_like(param) for name, param in params.items()} for slot in _SLOTS[type(optimizer)]}


def clip(grads: Params, max_norm: float) -> float:
    """Scale all of `grads` in place so that their global norm is at most `max_norm`; return the norm before."""
    norm = math.sqrt(sum(_sum_of_squares(grad) for grad in grads.values()))
    if norm > max_norm:
        for grad in grads.values():
            np.multiply(grad, max_norm / norm, out=grad)
    return norm


def _sum_of_squares(array: Array) -> float:
    """The same bits on every machine, unlike BLAS: squares of float32 are exact in float64, and the order is fixed.

    Needed because all members of a group make the same step, each on its own CPU.
    """
    return float(np.square(array.ravel(), dtype=np.float64).sum())


def update(
    optimizer: Optimizer,
    params: Params,
    slots: Slots,
    grads: Params,
    *,
    learning_rate: float,
    step: int,
    weight_decay: float = 0.0,
) -> None:
    """Update `params` and `slots` in place; `grads` is not changed. All have the same names and shapes.

    Slots hold no denormal numbers, to which those of weights without a gradient shrink, but 0.

    `learning_rate`: of this step, instead of the optimizer's own; `step`: number of steps before this one.
    """
    for name, grad in grads.items():
        param = params[name]
        decay = weight_decay if param.ndim > 1 else 0.0
        match optimizer:
            case Sgd():
                _sgd(optimizer, param, slots["velocity"][name], grad, learning_rate, decay)
            case Lars():
                _lars(optimizer, param, slots["velocity"][name], grad, learning_rate, decay)
            case Adam():
                _adam(optimizer, param, slots["mean"][name], slots["variance"][name], grad, learning_rate, decay, step)


def _sgd(sgd: Sgd, param: Array, velocity: Array, grad: Array, learning_rate: float, decay: float) -> None:
    """Sutskever et al. 2013 as in PyTorch: v ← momentum·v + g; p ← p - learning_rate·v.

    In this form a change of the learning rate acts at once. With Nesterov's momentum the step is g + momentum·v.
    Weight decay is the classic L2 penalty: g is the gradient plus decay·p.
    """
    if decay:
        grad = grad + decay * param
    _decay(velocity, sgd.momentum, grad)
    param -= learning_rate * (grad + sgd.momentum * velocity if sgd.nesterov else velocity)


def _lars(lars: Lars, param: Array, velocity: Array, grad: Array, learning_rate: float, decay: float) -> None:
    """Layer-wise rates (You, Gitman and Ginsburg 2017, https://arxiv.org/abs/1708.03888), in the form of `_sgd`.

    A kernel's gradient, with L2 weight decay, is scaled by trust·|p| / (|g| + decay·|p|); biases and scales are not.
    """
    if param.ndim > 1:
        param_norm, grad_norm = math.sqrt(_sum_of_squares(param)), math.sqrt(_sum_of_squares(grad))
        divisor = grad_norm + decay * param_norm
        rate = lars.trust * param_norm / divisor if param_norm and divisor else 1.0
        grad = rate * (grad + decay * param)
    _decay(velocity, lars.momentum, grad)
    param -= learning_rate * velocity


def _adam(
    adam: Adam,
    param: Array,
    mean: Array,
    variance: Array,
    grad: Array,
    learning_rate: float,
    decay: float,
    step: int,
) -> None:
    """Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1, with the bias corrections of step + 1.

    Weight decay is decoupled from the gradient: p ← p - learning_rate·decay·p first (AdamW: Loshchilov and Hutter
    2019, https://arxiv.org/abs/1711.05101).
    """
    if decay:
        param *= 1 - learning_rate * decay
    _decay(mean, adam.beta1, (1 - adam.beta1) * grad)
    _decay(variance, adam.beta2, (1 - adam.beta2) * np.square(grad))
    root = np.sqrt(variance / (1 - adam.beta2 ** (step + 1)))
    root += adam.epsilon
    param -= learning_rate / (1 - adam.beta1 ** (step + 1)) * (mean / root)


def _decay(slot: Array, factor: float, added: Array) -> None:
    """Multiply by `factor` and add; what is denormal becomes 0."""
    slot *= factor
    slot += added
    np.copyto(slot, 0, where=np.abs(slot) < SMALLEST)
