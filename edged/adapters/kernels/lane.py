"""All of a lane's micro-batches in one call: between them Python costs more than small layers, and waits for others."""

import ctypes

from edged.adapters.kernels.cross_entropy import checked
from edged.adapters.kernels.kernel_layer import Chain
from edged.adapters.kernels.memory import AlignedBuffer, address_of, readable
from edged.domain.nn.buffer import Array
from edged.domain.nn.params import Params


class LaneStep:
    """A `domain.nn.backend.LaneStep` of a model that is one chain, and of cross-entropy. Raises as these do."""

    def __init__(self, library: ctypes.CDLL, chain: Chain, micro_batch: int) -> None:
        self._function, self._chain, self._micro_batch = library.edged_lane, chain, micro_batch
        (self._classes,) = chain.output_shape
        self._gradient = AlignedBuffer(micro_batch * self._classes)

    def __call__(self, x: Array, targets: Array, scale: Array, losses: Array, scores: Array, grads: Params) -> int:
        chain, n = self._chain, len(x)
        x = readable(x, (n, *chain.input_shape))
        classes_of = checked(n, self._classes, targets, scale, losses, scores)
        chain.take_gradients(grads)
        samples = (self._micro_batch, n, x.size // max(n, 1), address_of(x))
        written = map(address_of, (scale, losses, scores))
        of_loss = (self._classes, address_of(classes_of), *written, self._gradient.address)
        return int(self._function(*chain.steps, *samples, *of_loss))
