"""Optimizers: how a gradient becomes a step of the weights, in place.

Which there are and their settings are `topology`'s; this is their arithmetic. Weight decay concerns kernels alone,
not biases and scales. All values of the optimizer's state live in named slots, each like the weights in names and
shapes.
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

_SLOTS = {Sgd: ("velocity",), Lars: ("velocity",), Adam: ("mean", "variance")}


def num_slots(optimizer: Optimizer) -> int:
    """Numbers of state for each weight."""
    return len(_SLOTS[type(optimizer)])


def initial_slots(optimizer: Optimizer, params: Params) -> dict[str, dict[str, Array]]:
    """The state before the first step: zero for each of `params`."""
    return {slot: {name: np.zeros_like(param) for name, param in params.items()} for slot in _SLOTS[type(optimizer)]}


def clip(grads: Params, most: float) -> float:
    """Scale all of `grads` in place so that their common norm is at most `most`; the norm that it was."""
    norm = math.sqrt(sum(_sum_of_squares(grad) for grad in grads.values()))
    if norm > most:
        for grad in grads.values():
            np.multiply(grad, most / norm, out=grad)
    return norm


def _sum_of_squares(array: Array) -> float:
    """The same bits on every machine, unlike BLAS: squares of float32 are exact in float64, and are added in one order.

    For the members of a group make the same step, each on its own CPU.
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
    """Update `params` and `slots` in place; `grads` is left as it is. All have the same names and shapes.

    `learning_rate` is that of this step, in place of the optimizer's own; `step`: how many came before.
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
    """The form of Sutskever et al. 2013 that PyTorch has: v ← momentum·v + g; p ← p - learning_rate·v.

    A change of the learning rate so acts at once. With Nesterov's momentum the step is g + momentum·v. Weight decay is
    the classic L2 penalty: g is the gradient plus decay·p.
    """
    if decay:
        grad = grad + decay * param
    velocity *= sgd.momentum
    velocity += grad
    param -= learning_rate * (grad + sgd.momentum * velocity if sgd.nesterov else velocity)


def _lars(lars: Lars, param: Array, velocity: Array, grad: Array, learning_rate: float, decay: float) -> None:
    """Layer-wise rates (You, Gitman and Ginsburg 2017, https://arxiv.org/abs/1708.03888), in the form of `_sgd`.

    A kernel's gradient, with L2 weight decay, counts trust·|p| / (|g| + decay·|p|) times; biases and scales once.
    """
    if param.ndim > 1:
        param_norm, grad_norm = math.sqrt(_sum_of_squares(param)), math.sqrt(_sum_of_squares(grad))
        divisor = grad_norm + decay * param_norm
        rate = lars.trust * param_norm / divisor if param_norm and divisor else 1.0
        grad = rate * (grad + decay * param)
    velocity *= lars.momentum
    velocity += grad
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
    mean *= adam.beta1
    mean += (1 - adam.beta1) * grad
    variance *= adam.beta2
    variance += (1 - adam.beta2) * np.square(grad)
    root = np.sqrt(variance / (1 - adam.beta2 ** (step + 1)))
    root += adam.epsilon
    param -= learning_rate / (1 - adam.beta1 ** (step + 1)) * (mean / root)
