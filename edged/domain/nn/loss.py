"""Losses, each with its gradient with respect to the model's outputs; and softmax."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edged.domain.nn.buffer import Array
from edged.domain.nn.spec import LossName


def softmax(logits: Array) -> Array:
    """Probabilities [n, classes] of `logits` [n, classes]; finite for any finite logits."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = powers / powers.sum(axis=1, keepdims=True)
    return result


def cross_entropy(logits: Array, y: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """-log softmax(logits)[y] per sample [n], and its gradient with respect to the logits [n, classes].

    `y` [n] holds class numbers; one outside the classes raises IndexError or counts from the end, as numpy does.
    """
    rows = np.arange(len(y))
    gradient: Array = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    shifted = gradient[rows, y]
    np.exp(gradient, out=gradient)
    sums = np.add.reduce(gradient, axis=1, keepdims=True)
    losses = np.log(sums[:, 0]) - shifted
    gradient /= sums
    gradient[rows, y] -= 1
    return losses, gradient


def mean_squared_error(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Mean over the outputs of (output - target)² per sample [n], and its gradient with respect to the outputs.

    `outputs`, `targets` and the gradient: [n, outputs].
    """
    gradient = outputs - targets
    losses = np.einsum("ij,ij->i", gradient, gradient) / outputs.shape[1]
    gradient *= 2 / outputs.shape[1]
    return losses, gradient


LOSSES: Mapping[LossName, Callable[[Array, Any], tuple[Array, Array]]] = {
    "cross_entropy": cross_entropy,
    "mean_squared_error": mean_squared_error,
}
"""From outputs and targets: the loss per sample, and its gradient with respect to the outputs."""


class LossStep(Protocol):
    """A loss with all that training takes from it, for a micro-batch of n samples."""

    def __call__(
        self, outputs: Array, targets: Array, scale: Array, losses: Array, scores: Array, /
    ) -> tuple[Array, int]:
        """The gradient of scale × loss with respect to `outputs`, and how many outputs are largest at their target.

        `scale`: [n, 1]. Fills in `losses` [n] and `scores` [n]: the gradient's norm by sample, without the scale.
        """
        ...


def loss_step(name: LossName) -> LossStep:
    """The reference's."""
    loss = LOSSES[name]

    def step(outputs: Array, targets: Array, scale: Array, losses: Array, scores: Array, /) -> tuple[Array, int]:
        is_correct = outputs.argmax(axis=1) == targets if name == "cross_entropy" else ()
        losses[:], gradient = loss(outputs, targets)
        scores[:] = np.sqrt(np.einsum("ij,ij->i", gradient, gradient))
        gradient *= scale
        return gradient, int(np.count_nonzero(is_correct))

    return step
