"""What follows a convolution's matrix products: max-pooling, bias, activation, and their backward pass.

The products come as one matrix per *phase*: phase (a, b) holds the outputs at row a, column b of every pooling window.
So pooling and its backward pass are element-wise operations on contiguous matrices, and bias and activation, which
commute with the maximum, are applied to the pooled outputs only. Without pooling there is one phase.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from edged.domain.nn.buffer import Array, Buffer, Step, Steps, run
from edged.domain.nn.spec import Activation


class Epilogue:
    """The memory for pooling `num_phases` products and for bias and activation of up to `outputs` pooled ones."""

    def __init__(
        self, num_phases: int, outputs: int, filters: int, activation: Activation, dtype: npt.DTypeLike
    ) -> None:
        self.has_relu = activation == "relu"
        self.overtakes = Buffer((num_phases - 1) * outputs * filters, np.bool_)
        self.passes = Buffer(outputs * filters * self.has_relu, np.bool_)
        self.ones = Buffer(outputs, dtype)
        self.ones.array(outputs).fill(1)
        self.dbias = Buffer(filters, dtype)

    def of(self, products: Sequence[Array], y: Array) -> "BoundEpilogue":
        """The epilogue from `products` to `y` [rows, columns, n, filters], each of that shape and contiguous.

        A lone product and `y` are one array.
        """
        return BoundEpilogue(self, products, y)


class BoundEpilogue:
    """The epilogue of one size of micro-batch."""

    def __init__(self, memory: Epilogue, products: Sequence[Array], y: Array) -> None:
        filters = y.shape[-1]
        positions = y.shape[0] * y.shape[1]
        self._y = y
        self._flat = y.reshape(positions, -1)
        # One row for n samples' biases or zeros: numpy adds short rows slowly, and has no fast maximum with a scalar.
        self._row = np.zeros(y.shape[2:], y.dtype)
        self._zeros = np.zeros(self._flat.shape[1], y.dtype)
        self._passes = memory.passes.array(*y.shape) if memory.has_relu else None
        self._dy = products[0]  # overwritten by `backward`, which reads y before (they may be one array)
        self._dy_matrix = self._dy.reshape(-1, filters)
        self._ones, self._dbias = memory.ones.array(len(self._dy_matrix)), memory.dbias.array(filters)
        overtakes = memory.overtakes.array(len(products) - 1, y.size)
        flat = [product.reshape(-1) for product in products]
        self._pool = _pool(flat, overtakes, y.reshape(-1))
        self._unpool = _unpool(overtakes, flat)

    def forward(self, bias: Array) -> None:
        """Compute y from the products."""
        run(self._pool)
        np.copyto(self._row, bias)
        np.add(self._flat, self._row.reshape(-1), out=self._flat)
        if self._passes is not None:
            np.maximum(self._flat, self._zeros, out=self._flat)

    def backward(self, dy: Array) -> Array:
        """Overwrite the products with their gradients; return the bias's [filters].

        A window's gradient goes to its first maximum. `dy` has y's shape and may lie in any order in memory.
        """
        if self._passes is not None:
            np.greater(self._y, 0, out=self._passes)
            run(_gate(dy, self._passes, self._dy))
        else:
            np.copyto(self._dy, dy)
        dbias = np.matmul(self._ones, self._dy_matrix, out=self._dbias)  # a product sums faster than `sum`
        run(self._unpool)
        return dbias


def _pool(products: Sequence[Array], overtakes: Array, y: Array) -> Steps:
    """The maximum of all products, recording which of them overtook those before it."""
    before = products[0]
    steps: list[Step] = []
    for product, overtook in zip(products[1:], overtakes, strict=True):
        steps += [partial(np.greater, product, before, out=overtook), partial(np.maximum, product, before, out=y)]
        before = y
    return steps


def _unpool(overtakes: Array, dproducts: Sequence[Array]) -> Steps:
    """Move each window's gradient from the first phase, which holds them all, to the last one that overtook."""
    steps: list[Step] = []
    for dproduct, overtook in zip(reversed(dproducts[1:]), reversed(overtakes), strict=True):
        steps += [
            *_gate(dproducts[0], overtook, dproduct),
            partial(np.subtract, dproducts[0], dproduct, out=dproducts[0]),
        ]
    return steps


def _gate(x: Array, opens: Array, result: Array) -> Steps:
    """Pass x where the gate `opens`, else 0; in two steps, as a product of floats and booleans is slower."""
    return [partial(np.copyto, result, opens), partial(np.multiply, result, x, out=result)]
