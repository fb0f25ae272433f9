"""How much memory a topology asks of an edge, estimated before anything runs.

The estimate is for refusing a topology that cannot fit; what the daemon really uses is measured by its monitor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edged.domain.nn.spec import Flatten, LayerSpec, Shape, num_parameters, shapes
from edged.domain.optim import num_slots
from edged.domain.topology import MIB, Edge, Topology

BASE = 110 * MIB
"""The interpreter, NumPy, the Kafka client with its fetch buffers, and the heap's slack."""

_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Bytes that training a model holds, all float32; `slots`: numbers of the optimizer's state for each weight.

    `activations` counts the input and every layer's output for a whole batch. Micro-batches hold fewer at a time,
    and spend about as much on gradients and unfolded windows.
    """

    parameters: int
    activations: int
    slots: int = 1

    @property
    def weights(self) -> int:
        """Bytes of the weights and biases."""
        return self.parameters * _FLOAT32

    @property
    def optimizer(self) -> int:
        """Bytes of the optimizer's state."""
        return self.slots * self.weights

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.activations


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of an edge's daemon by what they are for, beside its limit."""

    base: int
    model: int
    prefetch: int
    cache: int
    limit: int

    @property
    def total(self) -> int:
        return self.base + self.model + self.prefetch + self.cache


def model_memory(sample_shape: Shape, layers: Sequence[LayerSpec], batch: int, slots: int = 1) -> ModelMemory:
    """Memory for training on batches of `batch` samples. Raises spec.ShapeError."""
    outputs = shapes(sample_shape, layers)
    held = [outputs[0]] + [
        shape for layer, shape in zip(layers, outputs[1:], strict=True) if not isinstance(layer, Flatten)
    ]
    activations = sum(math.prod(shape) for shape in held) * batch * _FLOAT32
    return ModelMemory(num_parameters(sample_shape, layers), activations, slots)


def training_memory(topology: Topology) -> ModelMemory | None:
    """The topology's model at its batch size; None without a training job or a look into its backbone's file.

    Raises spec.ShapeError.
    """
    training = topology.training
    if training is None:
        return None
    shape, slots = training.input_shape(topology.stream(training.stream)), num_slots(training.optimizer)
    return None if shape is None else model_memory(shape, training.model, training.global_batch, slots)


def edge_budget(edge: Edge, model: ModelMemory | None) -> Budget:
    """What the edge's daemon will hold, with `model` trained on it."""
    return Budget(BASE, model.total if model else 0, edge.prefetch, edge.cache.memory, edge.memory_limit)


def mebibytes(num_bytes: int) -> str:
    """The number of bytes for people: "19.3 MiB"."""
    return f"{num_bytes / MIB:.1f} MiB"
