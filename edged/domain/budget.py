"""How much memory a topology asks of an edge, estimated before anything runs.

The estimate is for refusing a topology that cannot fit; what the daemon really uses is measured by its monitor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edged.domain.cache_entry import ENTRY_OVERHEAD_BYTES
from edged.domain.nn.spec import Flatten, LayerSpec, Shape, num_parameters, shapes
from edged.domain.optim import num_slots
from edged.domain.topology import MIB, Cache, Edge, SamplingMode, Stream, Training

BASE = 110 * MIB
"""The interpreter, NumPy, the Kafka client with its fetch buffers, and the heap's slack."""

DISK_STORE = 2 * MIB
"""A cache's disk store: its page cache and what one transaction holds."""

_INDEX_BYTES: dict[SamplingMode, int] = {"stratified": 64, "lru": 64}
_MOST_INDEX_BYTES = 112
"""Of a cached sample's place in the tables and in the epoch's plan, as measured at 300,000 samples."""

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
    """Bytes of an edge's daemon by what they are for, beside its limit. `cache`: its memory tier and disk store."""

    base: int
    model: int
    prefetch: int
    cache: int
    limit: int

    @property
    def total(self) -> int:
        """What is taken however large the data set is."""
        return self.base + self.model + self.prefetch + self.cache


def model_memory(sample_shape: Shape, layers: Sequence[LayerSpec], batch: int, slots: int = 1) -> ModelMemory:
    """Memory for training on batches of `batch` samples. Raises spec.ShapeError."""
    outputs = shapes(sample_shape, layers)
    held = [outputs[0]] + [
        shape for layer, shape in zip(layers, outputs[1:], strict=True) if not isinstance(layer, Flatten)
    ]
    activations = sum(math.prod(shape) for shape in held) * batch * _FLOAT32
    return ModelMemory(num_parameters(sample_shape, layers), activations, slots)


def training_memory(job: Training, stream: Stream) -> ModelMemory | None:
    """The job's model at its batch size; None without a look into its backbone's file. Raises spec.ShapeError."""
    shape, slots = job.input_shape(stream), num_slots(job.optimizer)
    return None if shape is None else model_memory(shape, job.model, job.global_batch, slots)


def edge_budget(edge: Edge, models: Sequence[ModelMemory | None]) -> Budget:
    """What the edge's daemon will hold, with `models` trained on it at the same time.

    Each has epoch data of its own ahead. None: a model whose memory is not known.
    """
    cache = edge.cache.memory + (DISK_STORE if edge.cache.disk else 0)
    prefetch = edge.prefetch * max(len(models), 1)
    return Budget(BASE, sum(model.total for model in models if model), prefetch, cache, edge.memory_limit)


def cache_index(cache: Cache, sample_bytes: int, mode: SamplingMode) -> int:
    """Bytes beside the budget that knowing a full cache's samples takes; less while it holds fewer."""
    num_samples = (cache.memory + cache.disk) // (sample_bytes + ENTRY_OVERHEAD_BYTES)
    return num_samples * _INDEX_BYTES.get(mode, _MOST_INDEX_BYTES)


def mebibytes(num_bytes: int) -> str:
    """The number of bytes for people: "19.3 MiB"."""
    return f"{num_bytes / MIB:.1f} MiB"
