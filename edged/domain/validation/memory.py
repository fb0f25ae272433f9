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
from edged.domain.nn.micro_batch import MAX_LANE_BYTES, SIZES
from edged.domain.nn.spec import (
    Conv1d,
    Conv2d,
    DepthwiseConv2d,
    Flatten,
    MaxPool1d,
    MaxPool2d,
    Shape,
    num_parameters,
    shapes,
)
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

LANES = 4
"""A Raspberry Pi's cores, each of which has one; a core more takes as much again."""

_CONVOLUTION = MIB // 2
"""Of a lane for each: what kernels transform at a time, and tables."""

_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Bytes for training a model, all float32. `slots`: values of optimizer state for each weight.

    `lanes`: the buffers of all lanes, which hold a micro-batch each, and their gradients, at most. `batches`: the
    mini-batch that is trained on, and the one that is assembled meanwhile.
    """

    parameters: int
    lanes: int
    batches: int
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
        return self.weights + self.optimizer + self.lanes + self.batches


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


def training_memory(job: Training, stream: Stream) -> ModelMemory | None:
    """Of the job's model; None if its backbone's file was not looked up. Raises spec.ShapeError."""
    shape = job.input_shape(stream)
    if shape is None:
        return None
    parameters = num_parameters(shape, job.model)
    batches = 2 * job.global_batch * math.prod(shape) * _FLOAT32
    return ModelMemory(parameters, LANES * _lane(job, shape), batches, len(job.optimizer.slots))


def _lane(job: Training, shape: Shape) -> int:
    """Bytes of a lane with the largest micro-batch that it may get."""
    convolutions = sum(isinstance(layer, Conv1d | Conv2d | DepthwiseConv2d) for layer in job.model)
    fixed = convolutions * _CONVOLUTION + 2 * num_parameters(shape, job.model) * _FLOAT32
    sample = _lane_sample(job, shape)
    if job.micro_batch:
        return fixed + job.micro_batch * sample
    first, *others = SIZES
    largest = max([first, *(size for size in others if size <= -(-job.global_batch // LANES))])
    return min(fixed + largest * sample, max(fixed + first * sample, MAX_LANE_BYTES))


def _lane_sample(job: Training, shape: Shape) -> int:
    """Bytes of a sample in a lane's buffers: the layers' outputs and their gradients.

    The kernels pool as they go, and copy some outputs into padding; NumPy keeps windows unfolded.
    """
    sizes = [math.prod(output) for output in shapes(shape, job.model)[1:]]
    if job.kernels == "numpy":
        return 4 * sum(sizes) * _FLOAT32
    pooled = [isinstance(after, MaxPool1d | MaxPool2d) for after in (*job.model[1:], None)]
    held = [
        size
        for layer, size, is_pooled in zip(job.model, sizes, pooled, strict=True)
        if not is_pooled and not isinstance(layer, Flatten)
    ]
    return 3 * sum(held) * _FLOAT32


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
