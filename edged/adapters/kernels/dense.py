"""Dense layers, and convolutions with a 1×1 kernel, which are dense layers of pixels."""

import math

import numpy as np

from edged.adapters.kernels.kernel_layer import ACTIVATIONS, KernelLayer
from edged.adapters.kernels.memory import AlignedBuffer
from edged.adapters.kernels.structs import TERMS
from edged.adapters.kernels.structs import Dense as DenseStruct
from edged.domain.nn.context import LayerContext
from edged.domain.nn.params import Params, bias_name, kernel_name
from edged.domain.nn.spec import Conv1d, Conv2d, Dense


class DenseLayer(KernelLayer):
    """x·W + b of each sample, or of each of its pixels, and the activation."""

    def __init__(self, spec: Dense | Conv2d | Conv1d, context: LayerContext) -> None:
        struct, output = DenseStruct(), spec.output_shape(context.shape)
        super().__init__(struct, context, output, rows=math.prod(context.shape[:-1]))
        inputs, units = context.shape[-1], output[-1]
        self._kernel, self._bias = kernel_name(context.index, spec), bias_name(context.index, spec)
        self._shape, self._units = spec.weights(context.shape)["kernel"], units
        self._transposed = AlignedBuffer(inputs * units * context.input_gradient)
        ones = np.arange(max(TERMS, inputs, units))
        struct.inputs, struct.units, struct.activation = inputs, units, ACTIVATIONS[spec.activation]
        struct.by_input = self._tables.add(ones[: max(TERMS, units)] * inputs)
        struct.by_unit = self._tables.add(ones[: max(TERMS, inputs)] * units)
        struct.ones, struct.wt = self._tables.add(ones), self._transposed.address
        self._inputs = inputs

    def begin(self, params: Params) -> None:
        self._read("w", params[self._kernel], self._shape)
        self._read("bias", params[self._bias], (self._units,))
        if self._transposed.address:
            kernel = params[self._kernel].reshape(self._inputs, self._units)
            np.copyto(self._transposed.array(self._units, self._inputs), kernel.T)

    def take_gradients(self, grads: Params) -> None:
        self._write("dw", grads[self._kernel], self._shape)
        self._write("dbias", grads[self._bias], (self._units,))
