"""A backend that computes as the reference does, but for the last bits: stands in for compiled kernels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.domain.nn.backend import LaneStep
from edged.domain.nn.buffer import Array
from edged.domain.nn.context import LayerContext
from edged.domain.nn.layer import Layer
from edged.domain.nn.layers import DenseLayer
from edged.domain.nn.loss import LossStep
from edged.domain.nn.optimizer_steps import NUMPY_STEPS, OptimizerSteps
from edged.domain.nn.params import Params
from edged.domain.nn.spec import Dense, LayerSpec, LossName, MaxPool2d


@dataclass(frozen=True)
class OtherBackend:
    """Computes dense layers without an activation, and nothing else."""

    name: str = "other/1"
    instructions: str = "none"
    left_out: Sequence[str] = ()

    def layer(self, spec: LayerSpec, pool: MaxPool2d | None, context: LayerContext) -> Layer | None:
        return OtherDense(spec, context) if isinstance(spec, Dense) and spec.activation == "none" else None

    def joined(self, layers: Sequence[Layer]) -> list[Layer]:
        return list(layers)

    def loss(self, name: LossName, dtype: npt.DTypeLike) -> LossStep | None:
        return None

    @property
    def steps(self) -> OptimizerSteps:
        return NUMPY_STEPS

    def lane_step(self, layers: Sequence[Layer], loss: LossStep, micro_batch: int) -> LaneStep | None:
        return None


class OtherDense(DenseLayer):
    def forward(self, params: Params, x: Array) -> Array:
        y = super().forward(params, x)
        return np.multiply(y, 1 + 2**-20, out=y)
