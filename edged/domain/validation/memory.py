"""The memory that a topology needs on an edge, estimated before anything runs.

The estimate serves to refuse a topology that cannot fit. See also: `services.node.monitor`, which measures the actual
use.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edged.domain.cache.entry import ENTRY_OVERHEAD_BYTES
from edged.domain.mqtt.identity import TEXT_IDS_BYTES
from edged.domain.mqtt.limits import unasked_bytes
from edged.domain.nn.spec import Flatten, LayerSpec, Shape, num_parameters, shapes
from edged.domain.topology import MIB, Archive, Cache, Edge, SamplingMode, Stream, Topology, Training

BASE = 76 * MIB
"""Of the daemon beside the parts below: 50 when it idles (the interpreter, NumPy, the Kafka client), the rest at work:
messages on their way, mini-batches, the heap's slack. With full caches the examples of config/ peaked at up to 69
beside their parts (tests/bench/README.md); tests/slow/test_footprint.py holds each to its sum."""

DISK_STORE = 2 * MIB
"""A cache's disk store: its page cache and one transaction."""

ARCHIVE_BASE = 100 * MIB
"""Of an archive node: the interpreter, NumPy, Arrow, the Kafka client, and the heap's slack."""

BLOCK_CACHE = 32 * MIB
"""Blocks that an archive node keeps, for all edges that ask."""

READ_AHEAD = 12 * MIB
"""Blocks that it reads ahead of what it sends: eight of at most 768 KiB, as they are stored and as they were read."""

_REPLY = MIB
"""Of each edge: what is made of its reply, and what is sent."""

_INDEX_BYTES: dict[SamplingMode, int] = {"stratified": 64, "lru": 64}
_MAX_INDEX_BYTES = 112
"""Of a cached sample in the tables and in the epoch's plan, as measured at 300,000 samples."""

_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Bytes for training a model, all float32. `slots`: values of optimizer state for each weight.

    `activations`: the input and every layer's output for a whole batch. Micro-batches hold fewer at a time, and need
    about as much for gradients and unfolded windows.
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
    """Bytes of an edge's daemon by purpose, and its limit.

    `exchange`: the gradients of a group's step. `cache`: its memory tier and disk store. `mqtt`: packets that are not
    in Kafka yet, and known ids.
    """

    base: int
    model: int
    exchange: int
    prefetch: int
    cache: int
    mqtt: int
    limit: int

    @property
    def parts(self) -> dict[str, int]:
        """The parts of `total`, by name; exchange and MQTT only where there is any."""
        exchange = {"exchange": self.exchange} if self.exchange else {}
        mqtt = {"mqtt": self.mqtt} if self.mqtt else {}
        kept = {"prefetch": self.prefetch, "cache": self.cache}
        return {"base": self.base, "model": self.model, **exchange, **kept, **mqtt}

    @property
    def total(self) -> int:
        """Bytes needed whatever the size of the data set."""
        return sum(self.parts.values())


def model_memory(sample_shape: Shape, layers: Sequence[LayerSpec], batch: int, slots: int = 1) -> ModelMemory:
    """Memory for training on batches of `batch` samples. Raises spec.ShapeError."""
    outputs = shapes(sample_shape, layers)
    held = [outputs[0]] + [
        shape for layer, shape in zip(layers, outputs[1:], strict=True) if not isinstance(layer, Flatten)
    ]
    activations = sum(math.prod(shape) for shape in held) * batch * _FLOAT32
    return ModelMemory(num_parameters(sample_shape, layers), activations, slots)


def training_memory(job: Training, stream: Stream) -> ModelMemory | None:
    """Of the job's model at its batch size; None if its backbone's file was not looked up. Raises spec.ShapeError."""
    shape, slots = job.input_shape(stream), len(job.optimizer.slots)
    return None if shape is None else model_memory(shape, job.model, job.global_batch, slots)


def edge_budget(topology: Topology, edge: Edge, models: Sequence[ModelMemory | None]) -> Budget:
    """Of the edge's daemon, with `models`, those of the topology's jobs, all trained at the same time.

    Each model has its own prefetched epoch data. None: a model whose memory is not known.
    """
    cache = edge.cache.memory + (DISK_STORE if edge.cache.disk else 0)
    prefetch = edge.prefetch * max(len(models), 1)
    exchange = sum(
        exchange_memory(topology, job, edge.name, model)
        for job, model in zip(topology.jobs, models, strict=True)
        if model
    )
    trained = sum(model.total for model in models if model)
    return Budget(BASE, trained, exchange, prefetch, cache, mqtt_memory(topology, edge.name), edge.memory_limit)


def archive_memory(topology: Topology, archive: Archive) -> dict[str, int]:
    """Bytes that an archive node holds, by purpose; `flush`: what it has read and not written, and its file."""
    replies = READ_AHEAD + _REPLY * len(topology.edges)
    return {"base": ARCHIVE_BASE, "flush": 2 * archive.flush_bytes, "blocks": BLOCK_CACHE, "replies": replies}


def mqtt_memory(topology: Topology, edge: str) -> int:
    """Bytes that the edge's bridge holds: of each device a window of packets, some of QoS 0, and ids that are texts."""
    mqtt, devices = topology.mqtt, topology.mqtt_devices_of(edge)
    if mqtt is None:
        return 0
    window = mqtt.window * mqtt.packet_bytes + unasked_bytes(mqtt.window, mqtt.packet_bytes)
    return len(devices) * window + sum(device.id == "text" for device in devices) * TEXT_IDS_BYTES


def exchange_memory(topology: Topology, job: Training, node: str, model: ModelMemory) -> int:
    """Bytes of gradients that the node holds during a step of the job's group.

    Each arrives as a payload of at most its own size, and is decoded. A node that combines them holds those of all
    members; with a parameter server a member holds only the combined one. With rounds of several steps a member also
    keeps the common weights and the velocity of the outer step.
    """
    exchange = job.exchange
    if exchange.mode == "none":
        return 0
    members = len(topology.edges)
    copies = 2 * members if topology.server_of(job) == node else 0
    if topology.tier_of(node) == "edge":
        copies += 2 * (members if exchange.mode == "all_reduce" else 1) + (2 if exchange.sync_every > 1 else 0)
    return copies * model.weights


def cache_index(cache: Cache, sample_bytes: int, mode: SamplingMode) -> int:
    """Bytes of a full cache's index, which is not part of the budget; less while it holds fewer samples."""
    num_samples = (cache.memory + cache.disk) // (sample_bytes + ENTRY_OVERHEAD_BYTES)
    return num_samples * _INDEX_BYTES.get(mode, _MAX_INDEX_BYTES)


def mebibytes(num_bytes: int) -> str:
    """`num_bytes` for messages: "19.3 MiB"."""
    return f"{num_bytes / MIB:.1f} MiB"
