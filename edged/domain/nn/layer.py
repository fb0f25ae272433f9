"""What every layer can do, whoever computes it."""

from typing import Protocol

from edged.domain.nn.buffer import Array
from edged.domain.nn.params import Params


class Layer(Protocol):
    """One step of the model, forward and backward, for micro-batches that follow each other between `begin` and `end`.

    It owns the buffers of one micro-batch and nothing else: weights are passed to every call. Activations are NHWC.
    A call returns a view of a buffer, valid until the layer's next call; `backward` follows the `forward` of the same
    micro-batch and may overwrite the gradient passed to it.
    """

    def begin(self, params: Params) -> None:  # noqa: ARG002 - most layers have nothing to prepare
        """Do the work that all micro-batches with these weights share; called before the first `forward`."""
        return

    def forward(self, params: Params, x: Array) -> Array:
        """The output for micro-batch `x` [n, …]; n is at most the context's micro-batch."""
        ...

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:
        """Add the weights' gradients to `grads`; return the input's, or None when no earlier layer has weights."""
        ...

    def end(self, grads: Params) -> None:  # noqa: ARG002
        """Add to `grads` what was accumulated since `begin`; called after the last `backward`."""
        return
