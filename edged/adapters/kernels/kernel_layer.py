"""What the compiled layers have in common: how a call's arrays are checked and reach the struct that C reads."""

import ctypes
import math
from collections.abc import Sequence

import numpy as np

from edged.adapters.kernels.memory import AlignedBuffer, Tables, address_of, is_readable
from edged.domain.nn.buffer import Array
from edged.domain.nn.context import LayerContext
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params
from edged.domain.nn.spec import Shape

ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2}


class KernelLayer(Layer):
    """A layer computed by `<kind>_forward` and `<kind>_backward` of the library.

    Arrays that C cannot read as they are, because they do not lie in one piece, are copied. Raises ValueError for
    arrays of another type or shape than the layer's.
    """

    def __init__(
        self, library: ctypes.CDLL, kind: str, struct: ctypes.Structure, context: LayerContext, output: Shape
    ) -> None:
        self._forward, self._backward = getattr(library, f"{kind}_forward"), getattr(library, f"{kind}_backward")
        self._struct, self._address = struct, ctypes.addressof(struct)
        self._tables = Tables()
        self._micro_batch, self._input, self._output = context.micro_batch, context.shape, output
        self._y = AlignedBuffer(context.micro_batch * math.prod(output))
        self._dx = AlignedBuffer(context.micro_batch * math.prod(context.shape) * context.input_gradient)
        self._input_copy: AlignedBuffer | None = None
        self._gradient_copy: AlignedBuffer | None = None
        self._kept: dict[str, Array] = {}  # by field of the struct: whom its address belongs to
        self._x: Array = np.empty((0, *context.shape), np.float32)  # the last input: not changed before `backward`
        struct.y, struct.dx = self._y.address, self._dx.address

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002 - `begin` took them
        n = len(x)
        if n > self._micro_batch:
            raise ValueError(f"{n} samples for a micro-batch of {self._micro_batch}")
        if not is_readable(x, (n, *self._input)):
            self._input_copy = self._input_copy or AlignedBuffer(self._micro_batch * math.prod(self._input))
            x = _copy(x, self._input_copy)
        self._x = x
        self._forward(self._address, self._rows(n), address_of(x))
        return self._y.array(n, *self._output)

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:  # noqa: ARG002
        n = len(self._x)
        if not is_readable(dy, (n, *self._output)) or not dy.flags.writeable:
            self._gradient_copy = self._gradient_copy or AlignedBuffer(self._micro_batch * math.prod(self._output))
            dy = _copy(dy, self._gradient_copy)
        self._take_gradients(grads)
        self._backward(self._address, self._rows(n), address_of(self._x), address_of(dy))
        return self._dx.array(n, *self._input) if self._dx.address else None

    def _take_gradients(self, grads: Params) -> None:
        """Let the struct point to the gradients that `backward` adds to."""

    def _rows(self, n: int) -> int:
        """What C counts for a micro-batch of n samples."""
        return n

    def _read(self, field: str, array: Array, shape: Sequence[int]) -> None:
        """Let a pointer of the struct point to weights, which C reads until the next call."""
        if self._kept.get(field) is array:
            return
        kept = array if is_readable(array, tuple(shape)) else np.ascontiguousarray(array)
        setattr(self._struct, field, address_of(kept))
        # A copy is stale at the next `begin`, though the array is the same.
        self._kept[field] = array if kept is array else kept

    def _write(self, field: str, array: Array, shape: Sequence[int]) -> None:
        """Let a pointer of the struct point to an array that C adds to. Raises ValueError when it cannot."""
        if self._kept.get(field) is array:
            return
        if not is_readable(array, tuple(shape)) or not array.flags.writeable:
            raise ValueError("gradients that do not lie in one piece")
        setattr(self._struct, field, address_of(array))
        self._kept[field] = array


def _copy(array: Array, memory: AlignedBuffer) -> Array:
    copied = memory.array(*array.shape)
    np.copyto(copied, array)
    return copied
