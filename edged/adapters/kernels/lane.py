"""All of a lane's micro-batches in one call: between them Python costs more than small layers, and waits for others."""

import ctypes
from time import perf_counter

from edged.adapters.kernels.cross_entropy import checked
from edged.adapters.kernels.kernel_layer import Chain
from edged.adapters.kernels.memory import AlignedBuffer, address_of, readable
from edged.domain.nn.buffer import Array
from edged.domain.nn.params import Params

_SIGN_S = 5.0
"""As long as one call may take: until it returns, nobody sees that anything is done."""


class LaneStep:
    """A `domain.nn.backend.LaneStep` of a model that is one chain, and of cross-entropy. Raises as these do."""

    def __init__(self, library: ctypes.CDLL, chain: Chain, micro_batch: int) -> None:
        self._function, self._chain, self._micro_batch = library.edged_lane, chain, micro_batch
        (self._classes,) = chain.output_shape
        self._gradient = AlignedBuffer(micro_batch * self._classes)
        self._at_once = micro_batch  # samples, before it is known how long they take
        self.num_computed = 0

    def __call__(self, x: Array, targets: Array, scale: Array, losses: Array, scores: Array, grads: Params) -> int:
        chain, n = self._chain, len(x)
        x = readable(x, (n, *chain.input_shape))
        classes_of = checked(n, self._classes, targets, scale, losses, scores)
        chain.take_gradients(grads)
        per_sample, begins = x.size // max(n, 1), list(map(address_of, (x, classes_of, scale, losses, scores)))
        steps = [x.itemsize * per_sample, *(array.itemsize for array in (classes_of, scale, losses, scores))]
        first = num_correct = 0
        while first < n:
            begun_s, some = perf_counter(), min(self._at_once, n - first)
            x_at, *others = (begin + first * step for begin, step in zip(begins, steps, strict=True))
            samples = (self._micro_batch, some, per_sample, x_at)
            num_correct += self._function(*chain.steps, *samples, self._classes, *others, self._gradient.address)
            first, self.num_computed = first + some, self.num_computed + some
            affordable = int(_SIGN_S * some / max(perf_counter() - begun_s, 1e-6))
            self._at_once = max(affordable // self._micro_batch, 1) * self._micro_batch
        return int(num_correct)
