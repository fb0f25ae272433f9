"""What the compiled layers have in common, and how those that follow each other are computed in one call."""

import ctypes
import math
from collections.abc import Sequence

import numpy as np

from edged.adapters.kernels.memory import AlignedBuffer, Tables, address_of, check_writable, is_readable, readable
from edged.adapters.kernels.structs import KINDS, Step
from edged.domain.counted import counted
from edged.domain.nn.buffer import Array
from edged.domain.nn.context import LayerContext
from edged.domain.nn.layer import Layer
from edged.domain.nn.params import Params
from edged.domain.nn.spec import Shape

ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2}


class KernelLayer:
    """A layer as C knows it, by a struct; a part of a `Chain`.

    `rows`: of a sample, as C counts them.
    """

    def __init__(self, struct: ctypes.Structure, context: LayerContext, output: Shape, *, rows: int = 1) -> None:
        self._struct = struct
        self._tables = Tables()
        self._kept: dict[str, Array] = {}  # by field of the struct: whom its address belongs to
        self._y = AlignedBuffer(context.micro_batch * math.prod(output))
        self._dx = AlignedBuffer(context.micro_batch * math.prod(context.shape) * context.input_gradient)
        struct.y, struct.dx = self._y.address, self._dx.address
        self.micro_batch, self.input_shape, self.output_shape = context.micro_batch, context.shape, output
        self.step = Step(KINDS[type(struct)], rows, ctypes.addressof(struct), self._y.address, self._dx.address)

    def begin(self, params: Params) -> None:
        """As of a Layer."""

    def end(self, grads: Params) -> None:
        """As of a Layer."""

    def take_gradients(self, grads: Params) -> None:
        """Let the struct point to the gradients that C adds to. Raises ValueError when it cannot."""

    def y(self, n: int) -> Array:
        """The last outputs, of n samples."""
        return self._y.array(n, *self.output_shape)

    def dx(self, n: int) -> Array | None:
        """The gradients of the last inputs, of n samples, if they are wanted."""
        return self._dx.array(n, *self.input_shape) if self._dx.address else None

    def _read(self, field: str, array: Array, shape: Sequence[int]) -> None:
        """Let a pointer of the struct point to weights, which C reads until the next call."""
        if self._kept.get(field) is array:
            return
        kept = readable(array, tuple(shape))
        setattr(self._struct, field, address_of(kept))
        self._kept[field] = kept  # a copy is made again at the next call: what it was made of may have changed

    def _write(self, field: str, array: Array, shape: Sequence[int]) -> None:
        """Let a pointer of the struct point to an array that C adds to. Raises ValueError when it cannot."""
        if self._kept.get(field) is array:
            return
        check_writable(array, tuple(shape))
        setattr(self._struct, field, address_of(array))
        self._kept[field] = array


class Chain(Layer):
    """Compiled layers that follow each other, in one call for all of them, forward or backward.

    Arrays that C cannot read as they are, because they do not lie in one piece, are copied. Raises ValueError for
    arrays of another type or shape than the layers', and for more samples than a micro-batch. `steps`: what C calls it.
    """

    def __init__(self, library: ctypes.CDLL, layers: Sequence[KernelLayer]) -> None:
        self.layers, self._micro_batch = list(layers), layers[0].micro_batch
        self._steps = (Step * len(layers))(*(layer.step for layer in layers))
        self.steps = (ctypes.addressof(self._steps), len(layers))
        self.input_shape, self.output_shape = layers[0].input_shape, layers[-1].output_shape
        self._forward, self._backward = library.edged_forward, library.edged_backward
        self._x: Array = np.empty((0, *layers[0].input_shape), np.float32)  # not changed before `backward`
        self._x_copy: AlignedBuffer | None = None
        self._dy_copy: AlignedBuffer | None = None

    def begin(self, params: Params) -> None:
        for layer in self.layers:
            layer.begin(params)

    def forward(self, params: Params, x: Array) -> Array:  # noqa: ARG002 - `begin` took them
        n, shape = len(x), self.input_shape
        if n > self._micro_batch:
            raise ValueError(f"{counted(n, 'sample')} for a micro-batch of {self._micro_batch}")
        if not is_readable(x, (n, *shape)):
            self._x_copy = self._x_copy or AlignedBuffer(self._micro_batch * math.prod(shape))
            x = _copy(x, self._x_copy)
        self._x = x
        self._forward(*self.steps, n, address_of(x))
        return self.layers[-1].y(n)

    def backward(self, params: Params, dy: Array, grads: Params) -> Array | None:  # noqa: ARG002
        n, shape = len(self._x), self.output_shape
        if not is_readable(dy, (n, *shape)) or not dy.flags.writeable:
            self._dy_copy = self._dy_copy or AlignedBuffer(self._micro_batch * math.prod(shape))
            dy = _copy(dy, self._dy_copy)
        self.take_gradients(grads)
        self._backward(*self.steps, n, address_of(self._x), address_of(dy))
        return self.layers[0].dx(n)

    def take_gradients(self, grads: Params) -> None:
        """Let C add to these. Raises ValueError when it cannot."""
        for layer in self.layers:
            layer.take_gradients(grads)

    def end(self, grads: Params) -> None:
        for layer in self.layers:
            layer.end(grads)


def _copy(array: Array, memory: AlignedBuffer) -> Array:
    copied = memory.array(*array.shape)
    np.copyto(copied, array)
    return copied
