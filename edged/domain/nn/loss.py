"""Softmax and its cross-entropy, the loss of all models."""

import numpy as np
import numpy.typing as npt

from edged.domain.nn.buffer import Array


def softmax(logits: Array) -> Array:
    """Probabilities [n, classes] of `logits` [n, classes]; finite for any finite logits."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = powers / powers.sum(axis=1, keepdims=True)
    return result


def cross_entropy(logits: Array, y: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """-log softmax(logits)[y] per sample [n], and its gradient by the logits [n, classes].

    `y` [n] holds class numbers; one outside the classes raises IndexError or counts from the end, as numpy does.
    """
    rows = np.arange(len(y))
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    sums = powers.sum(axis=1, keepdims=True)
    losses = np.log(sums[:, 0]) - shifted[rows, y]
    gradient = powers / sums
    gradient[rows, y] -= 1
    return losses, gradient
