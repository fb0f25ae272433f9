"""The compiled kernels as a `domain.nn.backend.Backend`."""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edged.adapters.kernels.build import FOLDER, Variant
from edged.adapters.kernels.conv import ConvLayer
from edged.adapters.kernels.cross_entropy import CrossEntropy
from edged.adapters.kernels.dense import DenseLayer
from edged.adapters.kernels.depthwise import DepthwiseLayer
from edged.adapters.kernels.kernel_layer import ACTIVATIONS, Chain, KernelLayer
from edged.adapters.kernels.lane import LaneStep
from edged.adapters.kernels.library import fitting, load
from edged.adapters.kernels.optimizer_steps import CompiledSteps
from edged.adapters.kernels.pooling import MAX_MAXIMUM_SIZE, PoolLayer
from edged.adapters.kernels.self_test import DIGEST, digest_of, keeps_denormals
from edged.adapters.kernels.structs import declare
from edged.adapters.kernels.winograd import WinogradLayer, tiles_of
from edged.domain.nn.context import LayerContext
from edged.domain.nn.layer import Layer
from edged.domain.nn.layers import FlattenLayer
from edged.domain.nn.loss import LossStep
from edged.domain.nn.spec import (
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    GlobalAvgPool,
    LayerSpec,
    LossName,
    MaxPool1d,
    MaxPool2d,
)
from edged.errors import KernelsUnavailable


@cache
def compiled(folder: Path = FOLDER) -> "CompiledBackend":
    """Of the kernels in `folder`, the best that this machine runs, and that compute what they must.

    Raises KernelsUnavailable: its text says why none does, and what to do if anything can be done.
    """
    left_out: list[str] = []
    for variant in fitting(folder):
        try:
            return _proven(variant, folder, left_out)
        except KernelsUnavailable as error:
            left_out.append(str(error))
    raise KernelsUnavailable("; ".join(dict.fromkeys(left_out)))


def _proven(variant: Variant, folder: Path, left_out: Sequence[str]) -> "CompiledBackend":
    """Its backend. Raises KernelsUnavailable."""
    library = load(variant, folder)
    declare(library)
    if not keeps_denormals():
        raise KernelsUnavailable(
            "something in this process flushes denormal numbers to zero: a library compiled with -ffast-math"
        )
    backend = CompiledBackend(library, variant.instructions, left_out)
    if digest_of(backend) != DIGEST:
        raise KernelsUnavailable(
            f"{folder / variant.file} computes other bits here than elsewhere: please report this CPU and compiler"
        )
    return backend


class CompiledBackend:
    """Computes convolutions, dense layers and pooling of float32 by kernels.c."""

    def __init__(self, library: ctypes.CDLL, instructions: str = "", left_out: Sequence[str] = ()) -> None:
        self._library = library
        self.steps = CompiledSteps(library)
        self.name = f"compiled/{library.edged_kernels_numerics()}"
        self.instructions = instructions
        """The set of vector instructions that it was compiled for."""
        self.left_out = tuple(left_out)
        """Of each library that would be faster here, why it is not used."""

    @property
    def code(self) -> str:
        """Names what computes, to the byte of its source: more than `name`, which is for the bits of its results."""
        return f"{self.instructions} {self._library.edged_kernels_source().decode()}"

    def layer(self, spec: LayerSpec, pool: MaxPool2d | None, context: LayerContext) -> Layer | None:
        """See `Backend`."""
        if context.dtype != np.float32 or getattr(spec, "activation", "none") not in ACTIVATIONS:
            return None
        try:
            layer = self._layer(spec, pool, context)
        except OverflowError:  # a sample so large that the offsets in C do not reach
            return None
        return Chain(self._library, [layer]) if layer else None

    def joined(self, layers: Sequence[Layer]) -> list[Layer]:
        """See `Backend`. Between compiled layers flattening is no work: the memory is the same."""
        result: list[Layer] = []
        for layer in layers:
            before = result[-2:] if result and isinstance(result[-1], FlattenLayer) else result[-1:]
            if isinstance(layer, Chain) and before and isinstance(before[0], Chain):
                del result[-len(before) :]
                result.append(Chain(self._library, [*before[0].layers, *layer.layers]))
            else:
                result.append(layer)
        return result

    def loss(self, name: LossName, dtype: npt.DTypeLike) -> LossStep | None:
        """See `Backend`."""
        return CrossEntropy(self._library) if name == "cross_entropy" and dtype == np.float32 else None

    def lane_step(self, layers: Sequence[Layer], loss: LossStep, micro_batch: int) -> LaneStep | None:
        """See `Backend`."""
        match layers:
            case [Chain() as chain] if isinstance(loss, CrossEntropy):
                return LaneStep(self._library, chain, micro_batch)
        return None

    def _layer(self, spec: LayerSpec, pool: MaxPool2d | None, context: LayerContext) -> KernelLayer | None:
        layer: KernelLayer | None = None
        match spec:
            case Dense():
                layer = DenseLayer(spec, context)
            case Conv2d() | Conv1d():
                layer = self._conv(spec, pool, context)
            case DepthwiseConv2d():
                layer = DepthwiseLayer(spec, context)
            case AvgPool2d() | AvgPool1d() | GlobalAvgPool():
                layer = PoolLayer(spec, context)
            case MaxPool2d() | MaxPool1d() if np.prod(spec.size) < MAX_MAXIMUM_SIZE:
                layer = PoolLayer(spec, context)
        return layer

    def _conv(self, spec: Conv2d | Conv1d, pool: MaxPool2d | None, context: LayerContext) -> KernelLayer | None:
        conv = spec.as_2d if isinstance(spec, Conv1d) else spec
        if pool and np.prod(pool.size) >= MAX_MAXIMUM_SIZE:
            return None
        if tiles := tiles_of(conv, pool, context.shape):
            return WinogradLayer(self._library, spec, pool, tiles, context)
        if conv.kernel == conv.stride == (1, 1) and pool is None:
            return DenseLayer(spec, context)
        return ConvLayer(spec, pool, context)
