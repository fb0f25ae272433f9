"""A training job: values of the topology file's `training`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from edged.domain.nn.spec import LayerSpec, LossName, Shape
from edged.domain.topology.devices import Stream

Source = Literal["archive", "live", "both"]
SamplingMode = Literal[
    "stratified", "uniform", "importance", "no_evict", "lru", "shade", "shade_published", "icache", "icache_published"
]
"""From `no_evict` on: for comparison only."""

ExchangeMode = Literal["none", "all_reduce", "parameter_server"]
Compression = Literal["none", "fp16", "int8", "top_k"]
DeployFormat = Literal["float32", "int8"]
Kernels = Literal["auto", "numpy"]
Flip = Literal["none", "horizontal", "vertical", "both"]

MAX_JOBS = 8
"""Training jobs of an edge."""

MAX_MEMBERS = 64
"""Edges that train one model together."""


@dataclass(frozen=True, slots=True)
class Sgd:
    slots: ClassVar = ("velocity",)
    """Names of its state, here and below: of each there are as many numbers as there are weights."""

    learning_rate: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False


@dataclass(frozen=True, slots=True)
class Adam:
    slots: ClassVar = ("mean", "variance")

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


@dataclass(frozen=True, slots=True)
class Lars:
    """`trust`: a kernel's step, as a share of the kernel."""

    slots: ClassVar = ("velocity",)

    learning_rate: float = 1.0
    momentum: float = 0.9
    trust: float = 0.001


Optimizer = Sgd | Adam | Lars


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant learning rate. `warmup`, here and below: epochs in which it rises linearly to its full size."""

    warmup: float = 0.0


@dataclass(frozen=True, slots=True)
class Cosine:
    """The learning rate falls along half a cosine, to `floor` times its size at the end of the last epoch."""

    warmup: float = 0.0
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """The learning rate is multiplied by `factor` every `every` epochs."""

    every: float
    factor: float = 0.1
    warmup: float = 0.0


Schedule = Constant | Cosine | Step


@dataclass(frozen=True, slots=True)
class Augment:
    """How training samples are varied. `shift`: maximum in each direction, in pixels.

    `crop`: minimum share of each side that a random window keeps; the window is then stretched to the full size.
    """

    flip: Flip = "none"
    shift: int = 0
    crop: float = 1.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """`hit_share`: share of draws that `stratified` takes from the cache; None: chosen by compute time and link."""

    mode: SamplingMode = "stratified"
    hit_share: float | None = None


@dataclass(frozen=True, slots=True)
class Outer:
    """The outer step of a group, from its members' rounds: Nesterov momentum on the common weights (DiLoCo).

    Douillard et al. 2023, https://arxiv.org/abs/2311.08105, found 0.7 and 0.9 best for rounds of 500 steps; in short
    rounds, whose inner momentum continues, that oscillates. The default is the mean of the members' weights (local SGD,
    Stich 2019, https://arxiv.org/abs/1805.09767).
    """

    learning_rate: float = 1.0
    momentum: float = 0.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """How the edges train one model together; with mode `none` each trains a model of its own.

    `compression`: of the gradients; `top_k`: the share of a gradient's entries that top_k keeps. `sync_every`: local
    steps of each member for a step of the group, which is the `outer` step if that is more than 1. `server`: the node
    that combines the gradients with mode `parameter_server`; None: the first archive node.
    """

    mode: ExchangeMode = "none"
    compression: Compression = "none"
    top_k: float = 0.2
    sync_every: int = 1
    outer: Outer = Outer()
    server: str | None = None


@dataclass(frozen=True, slots=True)
class Deploy:
    """`format`: the number type of the companion's model; int8 is calibrated with held-out samples."""

    format: DeployFormat = "float32"


@dataclass(frozen=True, slots=True)
class BackboneFile:
    """From a backbone's file: the shapes of a sample and of its features, and the file's SHA-256."""

    sample_shape: Shape
    features: Shape
    sha256: str


@dataclass(frozen=True, slots=True)
class Backbone:
    """Frozen layers below the model: `model` is their file's path. `file`: None until the file is looked up."""

    model: str
    trainable: Literal["head"] = "head"
    file: BackboneFile | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """A job. `name`: "" unless given; each of several jobs has one.

    `test_fraction`: share of each edge's own samples held out; `test_samples`: maximum to test on.

    `live_epoch`: with `source: live`, samples of an epoch. `checkpoint_s`: seconds between checkpoints inside an epoch.
    `loss`: with mean_squared_error the model is an autoencoder: it learns to reconstruct its input, without labels.
    `class_weights`: weight of a sample's loss, by label; empty: all equal. `clip_norm`: maximum norm of a gradient.
    `weight_decay`: see `domain.training.optim`. `micro_batch`: samples that a core takes at once; None: as many as fit
    its caches, by a measurement. `kernels`: who computes the layers; auto: the compiled kernels where they are, see
    `domain.nn.backend`. `reference_batch`: the batch size that the learning rate is meant for; None: `global_batch`.
    """

    stream: str
    model: tuple[LayerSpec, ...]
    source: Source = "archive"
    epochs: int = 10
    global_batch: int = 128
    micro_batch: int | None = None
    kernels: Kernels = "auto"
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
        """Shape of the first layer's input; None when it depends on a backbone's file that was not looked up."""
        if self.backbone is None:
            return stream.shape
        return None if self.backbone.file is None else self.backbone.file.features
