"""The topology: the tiers, their streams and the training jobs, as frozen values; and the topic names they imply.

A Topology is made by `config_yaml` from the file, complete and valid. Holds no behaviour beyond names and look-ups.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from edged.domain.nn.loss import LossName
from edged.domain.nn.spec import LayerSpec, Shape

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names become topics, folders and log fields; nothing else is ever allowed in them."""

_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\]):\d+", re.IGNORECASE)

Codec = Literal["raw", "jpeg", "png"]
Dtype = Literal["uint8", "float32"]
Source = Literal["archive", "live", "both"]
SamplingMode = Literal[
    "stratified", "uniform", "importance", "no_evict", "lru", "shade", "shade_published", "icache", "icache_published"
]
"""From `no_evict` on they are there to be compared with."""
ExchangeMode = Literal["none", "all_reduce", "parameter_server"]
Compression = Literal["none", "fp16", "int8", "top_k"]
DeployFormat = Literal["float32", "int8"]
Flip = Literal["none", "horizontal", "vertical", "both"]
Role = Literal["ingest", "infer", "archiver", "epoch_server"]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

MIB = 1 << 20

MOST_JOBS = 8
"""Training jobs of an edge."""

MOST_MEMBERS = 64
"""Edges that train one model together."""


@dataclass(frozen=True, slots=True)
class Security:
    """How to reach Kafka. The password is never shown by repr."""

    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Kafka:
    bootstrap: tuple[str, ...]
    security: Security = Security()

    @property
    def is_loopback(self) -> bool:
        """Whether all brokers are named as being on this machine."""
        return all(_LOOPBACK.fullmatch(server) for server in self.bootstrap)


@dataclass(frozen=True, slots=True)
class Stream:
    """What samples look like. `shape` is [height, width, channels], [length, channels] or any.

    `labels` are the classes, in order; none where samples come without.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    edge: str
    stream: str
    codec: Codec = "raw"
    transport: Literal["kafka", "mqtt"] = "kafka"


@dataclass(frozen=True, slots=True)
class Cache:
    """Bytes of samples kept in memory and on disk; `disk_writes_a_day`: bytes written to the disk for it, in 24 h."""

    memory: int = 32 * MIB
    disk: int = 1024 * MIB
    disk_writes_a_day: int = 8192 * MIB


@dataclass(frozen=True, slots=True)
class Edge:
    """`prefetch`: bytes of epoch data held ahead of the trainer. `memory_limit`: bytes of the whole daemon."""

    name: str
    cache: Cache = Cache()
    prefetch: int = 16 * MIB
    memory_limit: int = 256 * MIB


@dataclass(frozen=True, slots=True)
class Archive:
    """`flush_s`, `flush_bytes`: a file is written when this old or this large, whichever comes first."""

    name: str
    url: str
    flush_s: float = 10.0
    flush_bytes: int = 32 * MIB


@dataclass(frozen=True, slots=True)
class Sgd:
    learning_rate: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False


@dataclass(frozen=True, slots=True)
class Adam:
    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


@dataclass(frozen=True, slots=True)
class Lars:
    """`trust`: a kernel's step, as a share of the kernel."""

    learning_rate: float = 1.0
    momentum: float = 0.9
    trust: float = 0.001


Optimizer = Sgd | Adam | Lars


@dataclass(frozen=True, slots=True)
class Constant:
    """The learning rate stays. `warmup`, here and below: epochs in which it rises linearly to its full size."""

    warmup: float = 0.0


@dataclass(frozen=True, slots=True)
class Cosine:
    """It falls along half a cosine, to its `floor`-fold at the end of the last epoch."""

    warmup: float = 0.0
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """It is multiplied with `factor` after each `every` epochs."""

    every: float
    factor: float = 0.1
    warmup: float = 0.0


Schedule = Constant | Cosine | Step


@dataclass(frozen=True, slots=True)
class Augment:
    """How training samples are varied. `shift`: most pixels in each direction.

    `crop`: least share of each side that a random window keeps; the window is then stretched to the whole.
    """

    flip: Flip = "none"
    shift: int = 0
    crop: float = 1.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """`hit_share`: the share of draws that `stratified` takes from the cache; None: chosen by compute and link."""

    mode: SamplingMode = "stratified"
    hit_share: float | None = None


@dataclass(frozen=True, slots=True)
class Outer:
    """The step that the group makes of its members' rounds: Nesterov's momentum on the common weights (DiLoCo).

    Douillard et al. 2023, https://arxiv.org/abs/2311.08105, found 0.7 and 0.9 best for rounds of 500 steps; in short
    ones, whose own momentum goes on, that much swings to and fro. If not given it is the mean of the members' weights
    (local SGD, Stich 2019, https://arxiv.org/abs/1805.09767).
    """

    learning_rate: float = 1.0
    momentum: float = 0.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """How the edges train one model together; with mode `none` each trains a model of its own.

    `compression`: of the gradients; `top_k`: the share of a gradient's entries that top_k keeps. `sync_every`: steps
    that each member makes alone before the group makes one, with the `outer` step if there are several.
    `server`: the node that combines the gradients with mode `parameter_server`; None: the first archive node.
    """

    mode: ExchangeMode = "none"
    compression: Compression = "none"
    top_k: float = 0.2
    sync_every: int = 1
    outer: Outer = Outer()
    server: str | None = None


@dataclass(frozen=True, slots=True)
class Deploy:
    """`format`: what the companion's model computes in; int8 is calibrated with held-out samples."""

    format: DeployFormat = "float32"


@dataclass(frozen=True, slots=True)
class BackboneFile:
    """What a backbone's file says: the shapes of a sample and of its features, and the file's SHA-256."""

    sample_shape: Shape
    features: Shape
    sha256: str


@dataclass(frozen=True, slots=True)
class Backbone:
    """Frozen layers below the model: `model` is their file's path. `file`: None until somebody has looked into it."""

    model: str
    trainable: Literal["head"] = "head"
    file: BackboneFile | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """A job. `name`: where there are several.

    `test_fraction`: share of each edge's own samples held out; `test_samples`: most to test on.

    `live_epoch`: with `source: live`, after how many samples an epoch ends. `checkpoint_s`: seconds between
    checkpoints inside an epoch. `loss`: with mean_squared_error the model is an autoencoder: it learns to give its
    input back, and labels do not matter. `class_weights`: what a sample's loss counts, by label; empty: all the same.
    `clip_norm`: most norm of a gradient. `weight_decay`: see `domain.optim`. `micro_batch`: samples that a core takes
    at once; None: as many as suit its caches, by a measurement. `reference_batch`: the batch that the learning rate
    is meant for; None: `global_batch`.
    """

    stream: str
    model: tuple[LayerSpec, ...]
    source: Source = "archive"
    epochs: int = 10
    global_batch: int = 128
    micro_batch: int | None = None
    reference_batch: int | None = None
    seed: int = 0
    loss: LossName = "cross_entropy"
    class_weights: tuple[float, ...] = ()
    optimizer: Optimizer = Sgd()
    schedule: Schedule = Constant()
    weight_decay: float = 0.0
    clip_norm: float | None = None
    augment: Augment = Augment()
    sampling: Sampling = Sampling()
    exchange: Exchange = Exchange()
    test_fraction: float = 0.1
    test_samples: int = 10_000
    live_epoch: int = 10_000
    checkpoint_s: float = 300.0
    deploy: Deploy = Deploy()
    backbone: Backbone | None = None
    name: str = ""

    def input_shape(self, stream: Stream) -> Shape | None:
        """What reaches the model's first layer; None when it is in a backbone's file that nobody has looked into."""
        if self.backbone is None:
            return stream.shape
        return None if self.backbone.file is None else self.backbone.file.features


@dataclass(frozen=True, slots=True)
class Topology:
    """`jobs`: what each edge trains, all at the same time; none: the site only collects."""

    site: str
    kafka: Kafka
    streams: tuple[Stream, ...]
    iot: tuple[Device, ...]
    edges: tuple[Edge, ...]
    archive: tuple[Archive, ...]
    jobs: tuple[Training, ...] = ()

    def stream(self, name: str) -> Stream:
        return next(stream for stream in self.streams if stream.name == name)

    def edge(self, name: str) -> Edge:
        return next(edge for edge in self.edges if edge.name == name)

    def device(self, name: str) -> Device:
        return next(device for device in self.iot if device.name == name)

    def devices_of(self, edge: str) -> tuple[Device, ...]:
        """The edge's devices, in the file's order."""
        return tuple(device for device in self.iot if device.edge == edge)

    def tier_of(self, node: str) -> Literal["iot", "edge", "archive"] | None:
        """The tier that `node` is in; None when no node is called so."""
        if any(device.name == node for device in self.iot):
            return "iot"
        if any(edge.name == node for edge in self.edges):
            return "edge"
        return "archive" if any(archive.name == node for archive in self.archive) else None

    def server_of(self, job: Training) -> str | None:
        """The node that combines the job's gradients; None where the members do so themselves."""
        if job.exchange.mode != "parameter_server":
            return None
        return job.exchange.server or next((archive.name for archive in self.archive), None)

    def device_topic(self, device: str) -> str:
        """What the device publishes: key = label or null, value = payload."""
        return f"{self.site}.iot.{device}"

    def archive_topic(self, stream: str, edge: str) -> str:
        """Packs of one edge's samples of one stream; its only writer is that edge, so ACLs can prove the source."""
        return f"{self.site}.archive.{stream}.{edge}"

    def group(self, role: Role, node: str, job: str = "") -> str:
        """The consumer group under which the node's `role` commits its positions; no name holds a ':'."""
        return f"{self.site}.{role}.{node}" + (f":{job}" if job else "")

    @property
    def requests_topic(self) -> str:
        """What edges ask of the archive."""
        return f"{self.site}.archive.requests"

    def epochs_topic(self, edge: str) -> str:
        """What the archive sends to one edge."""
        return f"{self.site}.epochs.{edge}"

    def predictions_topic(self, edge: str, job: str = "") -> str:
        """Predictions of one edge, by the model of one job; key = the device."""
        return f"{self.site}.predictions.{edge}" + (f".{job}" if job else "")

    def dead_letters_topic(self, edge: str) -> str:
        """Records that one edge could not use, with their reason."""
        return f"{self.site}.dead-letters.{edge}"

    def train_topic(self, job: Training) -> str:
        """The log that the job's weights are a fold over."""
        return f"{self.site}.train.{job.name or job.stream}"

    def gradients_topic(self, job: Training) -> str:
        """What the members send to the job's parameter server."""
        return f"{self.site}.gradients.{job.name or job.stream}"

    def checkpoints_topic(self, job: Training) -> str:
        """The group's newest checkpoints, by slot; compacted."""
        return f"{self.site}.checkpoints.{job.name or job.stream}"
