"""Who computes a model's layers: the reference in this folder, or another that computes some of them instead."""

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from edged.domain.nn.buffer import Array
from edged.domain.nn.context import LayerContext
from edged.domain.nn.layer import Layer
from edged.domain.nn.loss import LossStep
from edged.domain.nn.optimizer_steps import OptimizerSteps
from edged.domain.nn.params import Params
from edged.domain.nn.spec import LayerSpec, LossName, MaxPool2d

NUMPY = "numpy"
"""The name of the reference."""

_NAME = re.compile(r"[a-z]{1,32}(/\d{1,4})?")


def is_backend(name: Any) -> bool:
    """Whether it can be a backend's name, which another version of edged may have, or another machine."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


class LaneStep(Protocol):
    """Forward, loss and backward of all of a lane's micro-batches, between `begin` and `end` of its layers."""

    num_computed: int
    """Samples so far, also while it is called: others look at it."""

    def __call__(self, x: Array, targets: Array, scale: Array, losses: Array, scores: Array, grads: Params, /) -> int:
        """Add to `grads`; else as a LossStep."""
        ...


class Backend(Protocol):
    """Computes some layers, as the reference does but for the last bits."""

    @property
    def name(self) -> str:
        """Names the bits of its results: the same name, the same bits, on every machine that has it."""
        ...

    def layer(self, spec: LayerSpec, pool: MaxPool2d | None, context: LayerContext) -> Layer | None:
        """The layer of `spec`, its activation and the `pool` fused with it; None: the reference computes it.

        `pool`: its windows do not overlap. A series' pool is that of an image of one row.
        """
        ...

    def joined(self, layers: Sequence[Layer]) -> list[Layer]:
        """The same layers in order, of which some may have become one."""
        ...

    def loss(self, name: LossName, dtype: npt.DTypeLike) -> LossStep | None:
        """The loss and what comes of it; None: the reference computes it."""
        ...

    @property
    def steps(self) -> OptimizerSteps:
        """The optimizers' arithmetic, to the reference's bits."""
        ...

    def lane_step(self, layers: Sequence[Layer], loss: LossStep, micro_batch: int) -> LaneStep | None:
        """What `layers` and `loss` compute one after the other, to the bit; None: let them."""
        ...
