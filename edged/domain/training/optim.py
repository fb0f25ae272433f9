"""Optimizers: the arithmetic that turns a gradient into a step of the weights, in place.

Weight decay applies to kernels only, not to biases and scales. All of an optimizer's state lives in named slots, each
with the names and shapes of the weights. See also: `domain.topology.training` for their settings.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.domain.nn.optimizer_steps import NUMPY_STEPS, AdaptiveMoments, Momentum, OptimizerSteps
from edged.domain.topology import Adam, Lars, Optimizer, Sgd

Array = npt.NDArray[Any]
Params = Mapping[str, Array]
Slots = Mapping[str, Params]

_LARGEST = float(np.finfo(np.float32).max)  # beyond it versions of numpy differ in what they make of a factor


def initial_slots(optimizer: Optimizer, params: Params) -> dict[str, dict[str, Array]]:
    """The state before the first step: zeros for each of `params`."""
    return {slot: {name: np.zeros_like(param) for name, param in params.items()} for slot in optimizer.slots}


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
    steps: OptimizerSteps = NUMPY_STEPS,
) -> None:
    """Update `params` and `slots` in place; `grads` is not changed. All have the same names and shapes.

    `learning_rate`: of this step, instead of the optimizer's own; `step`: number of steps before this one; `steps`: who
    computes, to the same bits.
    """
    for name, grad in grads.items():
        param = params[name]
        decay = weight_decay if param.ndim > 1 else 0.0
        match optimizer:
            case Sgd():
                by = Momentum(decay, 1.0, optimizer.momentum, learning_rate, optimizer.nesterov)
                steps.momentum(param, slots["velocity"][name], grad, by)
            case Lars():
                by = Momentum(decay, _trusted(optimizer, param, grad, decay), optimizer.momentum, learning_rate, False)
                steps.momentum(param, slots["velocity"][name], grad, by)
            case Adam():
                moments = _moments(optimizer, learning_rate, decay, step)
                steps.adam(param, slots["mean"][name], slots["variance"][name], grad, moments)


def _trusted(lars: Lars, param: Array, grad: Array, decay: float) -> float:
    """Layer-wise rates: You, Gitman and Ginsburg 2017, https://arxiv.org/abs/1708.03888.

    A kernel's gradient, with L2 weight decay, is scaled by trust·|p| / (|g| + decay·|p|); biases and scales are not.
    """
    if param.ndim < 2:
        return 1.0
    param_norm, grad_norm = math.sqrt(_sum_of_squares(param)), math.sqrt(_sum_of_squares(grad))
    divisor = grad_norm + decay * param_norm
    rate = lars.trust * param_norm / divisor if param_norm and divisor else 1.0
    return min(rate, _LARGEST)


def _moments(adam: Adam, learning_rate: float, decay: float, step: int) -> AdaptiveMoments:
    """Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1, with the bias corrections of step + 1.

    Weight decay is decoupled from the gradient: p ← p - learning_rate·decay·p first (AdamW: Loshchilov and Hutter
    2019, https://arxiv.org/abs/1711.05101).
    """
    return AdaptiveMoments(
        kept=1 - learning_rate * decay,
        beta1=adam.beta1,
        rest1=1 - adam.beta1,
        beta2=adam.beta2,
        rest2=1 - adam.beta2,
        corrected=1 - adam.beta2 ** (step + 1),
        epsilon=adam.epsilon,
        learning_rate=learning_rate / (1 - adam.beta1 ** (step + 1)),
    )
