"""The topology file, described once: its sections, keys, ranges and what each is for.

Reading and the JSON Schema both follow from it. Defaults are those of the values in `domain.topology`.
"""

from dataclasses import replace
from typing import Any, NamedTuple, get_args

from edged.domain.nn.loss import LossName
from edged.domain.nn.spec import (
    Activation,
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dense,
    DepthwiseConv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    MaxPool1d,
    MaxPool2d,
    Padding,
    Relu,
    Relu6,
    Tanh,
)
from edged.domain.topology import (
    MAX_JOBS,
    MIB,
    Adam,
    Archive,
    Augment,
    Backbone,
    Cache,
    Codec,
    Compression,
    Constant,
    Cosine,
    Deploy,
    DeployFormat,
    Device,
    Dtype,
    Edge,
    Exchange,
    ExchangeMode,
    Flip,
    Kafka,
    Lars,
    Mechanism,
    Outer,
    Protocol,
    Sampling,
    SamplingMode,
    Security,
    Sgd,
    Source,
    Step,
    Stream,
    Topology,
    Training,
)
from edged.topology_file.kinds import (
    ADDRESS,
    NAME,
    Choice,
    Key,
    Listing,
    Named,
    Number,
    OneOf,
    OneOrMore,
    Pair,
    Schema,
    Section,
    Short,
    Switch,
    Text,
    Whole,
    Word,
    duration,
    section,
    size,
)

SCHEMA = 1
"""The version of the file's format."""

_TIB = MIB << 20
_FILE = Text("the path of a file")


class _Sample(NamedTuple):
    shape: tuple[int, ...]
    dtype: Dtype


def _topology(*, schema: int, training: tuple[Training, ...], **sections: Any) -> Topology:
    del schema  # read for its check alone
    return Topology(jobs=training, **sections)


class _Sampling(NamedTuple):
    mode: SamplingMode | None = None
    hit_share: float | None = None


def _training(*, sampling: _Sampling, exchange: Exchange, **settings: Any) -> Training:
    """A group shares out samples that are drawn uniformly; an edge alone asks its cache first."""
    usual: SamplingMode = "stratified" if exchange.mode == "none" else "uniform"
    job = _JOB.make(sampling=Sampling(sampling.mode or usual, sampling.hit_share), exchange=exchange, **settings)
    assert isinstance(job, Training)
    return job


def _stream(*, name: str, sample: _Sample, labels: tuple[str, ...]) -> Stream:
    return Stream(name, sample.shape, sample.dtype, labels)


_SECURITY = section(
    Security,
    "How to reach Kafka. Each node may use other credentials: they come from its own environment.",
    protocol=Key(Choice(get_args(Protocol)), "PLAINTEXT only where nobody else is on the network"),
    mechanism=Key(Choice(get_args(Mechanism)), "how the password is proved"),
    username=Key(Text(), "the node's Kafka user"),
    password=Key(Text(secret=True), 'the user\'s password, as "${cred:NAME}" or "${VARIABLE}"'),
    ca=Key(_FILE, "certificates of the authority that signed the brokers', PEM"),
    certificate=Key(_FILE, "the node's own certificate, PEM"),
    key=Key(_FILE, "the key of the node's certificate, PEM"),
)

_KAFKA = section(
    Kafka,
    "Where Apache Kafka is.",
    bootstrap=Key(Listing(ADDRESS, 1, 64, distinct=True), "some of the brokers, host:port"),
    security=Key(_SECURITY, "encryption and authentication"),
)

_STREAM = Section(
    _stream,
    "A stream: what its samples look like and which classes they may be of.",
    {
        "sample": Key(
            Section(
                _Sample,
                "One sample.",
                {
                    "shape": Key(
                        Listing(Whole(1, 4096), 1, 4),
                        "[height, width, channels], [length, channels], or any 1 to 4 axes",
                    ),
                    "dtype": Key(Choice(get_args(Dtype)), "the type of its numbers"),
                },
            ),
            "shape and type of one sample",
        ),
        "labels": Key(
            Listing(Text("a label", max_bytes=256, integers=True), 1, 65_536, distinct=True),
            "the classes, in the order of the model's outputs; left out where samples have none",
        ),
    },
    {"labels": ()},
)

_DEVICE = section(
    Device,
    "An IoT device. It belongs to exactly one edge.",
    name=Key(NAME, "the device's name, unique among all nodes"),
    edge=Key(NAME, "the edge that takes its samples"),
    stream=Key(NAME, "the stream that it publishes"),
    codec=Key(Choice(get_args(Codec)), "how its payloads are written"),
    transport=Key(Choice(("kafka", "mqtt")), "how its payloads reach Kafka"),
)

_EDGE = section(
    Edge,
    "An edge device: it trains, archives and infers.",
    name=Key(NAME, "the edge's name, unique among all nodes"),
    cache=Key(
        section(
            Cache,
            "Bytes for samples kept at the edge.",
            memory=Key(size(MIB, _TIB, zero=True), "the part in memory"),
            disk=Key(size(MIB, 1024 * _TIB, zero=True), "the part on disk"),
            disk_writes_per_day=Key(size(MIB, 1024 * _TIB, zero=True), "most bytes written for it: SD cards wear out"),
        ),
        "how much of the data set the edge keeps",
    ),
    prefetch=Key(size(MIB, _TIB), "epoch data held ahead of the trainer"),
    memory_limit=Key(size(64 * MIB, _TIB), "most memory of the whole daemon"),
)

_ARCHIVE = section(
    Archive,
    "The archive: it keeps all samples and streams epochs of them back.",
    name=Key(NAME, "the archive's name, unique among all nodes"),
    url=Key(Text("a URL such as file:///srv/edged"), "the folder on the distributed file system"),
    flush=Key(duration(0.1, 3600), "a file is written when its first sample is this old"),
    flush_bytes=Key(size(64 * 1024, 1024 * MIB), "or when its samples fill this much"),
)

_ACTIVATION = Key(Choice(get_args(Activation)), "applied to the layer's output")
_PADDING = Key(Choice(get_args(Padding)), "same keeps the size, valid drops the border")
_WINDOW = Key(Pair(Whole(1, 64)), "size of the window: n or [rows, columns]")
_STRIDE = Key(Pair(Whole(1, 64)), "steps of the window: n or [rows, columns]")
_LENGTH = Key(Whole(1, 4096), "length of the window")
_STEP = Key(Whole(1, 4096), "steps of the window")
_FILTERS = Key(Whole(1, 4096), "output channels")


def _pool(kind: type, doc: str, size: Key, stride: Key) -> Short:
    """Without a stride, windows lie side by side."""

    def make(*, size: Any, stride: Any) -> Any:
        return kind(size, stride or size)

    return Short("size", Section(make, doc, {"size": size, "stride": stride}, {"stride": None}))


_LAYER = OneOf(
    "layer",
    {
        "conv2d": section(
            Conv2d,
            "Convolution of [height, width, channels].",
            filters=_FILTERS,
            kernel=_WINDOW,
            stride=_STRIDE,
            padding=_PADDING,
            activation=_ACTIVATION,
        ),
        "depthwise_conv2d": section(
            DepthwiseConv2d,
            "Convolution of each channel of [height, width, channels] on its own.",
            kernel=_WINDOW,
            stride=_STRIDE,
            padding=_PADDING,
            activation=_ACTIVATION,
        ),
        "conv1d": section(
            Conv1d,
            "Convolution of a series [length, channels].",
            filters=_FILTERS,
            kernel=_LENGTH,
            stride=_STEP,
            padding=_PADDING,
            activation=_ACTIVATION,
        ),
        "max_pool2d": _pool(MaxPool2d, "Maximum over windows of an image.", _WINDOW, _STRIDE),
        "avg_pool2d": _pool(AvgPool2d, "Mean over windows of an image.", _WINDOW, _STRIDE),
        "max_pool1d": _pool(MaxPool1d, "Maximum over windows of a series.", _LENGTH, _STEP),
        "avg_pool1d": _pool(AvgPool1d, "Mean over windows of a series.", _LENGTH, _STEP),
        "global_avg_pool": Word(GlobalAvgPool()),
        "group_norm": Short(
            "groups",
            section(
                GroupNorm,
                "Mean 0 and variance 1 over groups of channels, then a scale and a bias.",
                groups=Key(Whole(1, 4096), "number of groups; it divides the channels"),
                epsilon=Key(Number(0, 1, above_least=True), "added to the variance"),
            ),
        ),
        "dropout": Short(
            "rate",
            section(
                Dropout, "Values left out at random in training.", rate=Key(Number(0, 1), "share that is left out")
            ),
        ),
        "flatten": Word(Flatten()),
        "relu": Word(Relu()),
        "relu6": Word(Relu6()),
        "tanh": Word(Tanh()),
        "dense": Short(
            "units",
            section(
                Dense,
                "Every input to every unit.",
                units=Key(Whole(1, 1 << 20), "number of outputs"),
                activation=_ACTIVATION,
            ),
        ),
    },
)

_LEARNING_RATE = Key(Number(0, 1000, above_least=True), "size of a step")
_MOMENTUM = Key(Number(0, 1), "share of the last step in the next")
_DECAY_RATE = Number(0, 1)

_OPTIMIZER = OneOf(
    "optimizer",
    {
        "sgd": section(
            Sgd,
            "Stochastic gradient descent.",
            learning_rate=_LEARNING_RATE,
            momentum=_MOMENTUM,
            nesterov=Key(Switch(), "look ahead along the momentum"),
        ),
        "adam": section(
            Adam,
            "Adam; with weight_decay, AdamW.",
            learning_rate=_LEARNING_RATE,
            beta1=Key(_DECAY_RATE, "memory of the gradient's mean"),
            beta2=Key(_DECAY_RATE, "memory of the gradient's square"),
            epsilon=Key(Number(0, 1, above_least=True), "added to the root of the square"),
        ),
        "lars": section(
            Lars,
            "Layer-wise adaptive rates, for large batches.",
            learning_rate=_LEARNING_RATE,
            momentum=_MOMENTUM,
            trust=Key(Number(0, 1, above_least=True), "a kernel's step, as a share of the kernel"),
        ),
    },
)

_WARMUP = Key(Number(0, 1_000_000), "epochs in which the learning rate rises to its full size")

_SCHEDULE = OneOf(
    "schedule",
    {
        "constant": section(Constant, "The learning rate stays.", warmup=_WARMUP),
        "cosine": section(
            Cosine,
            "It falls along half a cosine until the last epoch ends.",
            warmup=_WARMUP,
            floor=Key(Number(0, 1), "what share is left at the end"),
        ),
        "step": section(
            Step,
            "It falls in steps.",
            every=Key(Number(0.001, 1_000_000), "epochs between two steps"),
            factor=Key(Number(0, 1, above_least=True), "what share each step leaves"),
            warmup=_WARMUP,
        ),
    },
)

_AUGMENT = section(
    Augment,
    "Training samples varied at random, anew in each epoch.",
    flip=Key(Choice(get_args(Flip)), "mirrored or not"),
    shift=Key(Whole(0, 4096), "moved by up to so many pixels in each direction"),
    crop=Key(
        Number(0, 1, above_least=True, with_most=True),
        "least share of each side that is kept, and stretched to the whole",
    ),
)

_JOB = section(
    Training,
    "A training job of all edges.",
    name=Key(NAME, "the job's name, where there are several"),
    stream=Key(NAME, "the stream to train on"),
    model=Key(Listing(_LAYER, 1, 256), "the layers, first to last; the last is dense"),
    source=Key(Choice(get_args(Source)), "epochs from the archive, samples as they arrive, or both"),
    epochs=Key(Whole(1, 1_000_000), "passes over the data"),
    global_batch=Key(Whole(1, 65_536), "samples in one step, over all edges"),
    micro_batch=Key(Whole(1, 4096), "samples that a core takes at once; measured if not given"),
    reference_batch=Key(
        Whole(1, 65_536),
        "the batch that learning_rate is meant for, which is scaled to global_batch; global_batch if not given",
    ),
    seed=Key(Whole(0, (1 << 63) - 1), "of the weights and the order; the same seed gives the same run"),
    loss=Key(
        Choice(get_args(LossName)),
        "mean_squared_error trains an autoencoder: the model gives its input back, predictions are anomaly scores",
    ),
    class_weights=Key(
        Listing(Number(0, 1_000_000), 1, 65_536), "what each label's samples count, in the labels' order"
    ),
    optimizer=Key(_OPTIMIZER, "how gradients become steps"),
    schedule=Key(_SCHEDULE, "how the learning rate goes on, counted in epochs"),
    weight_decay=Key(Number(0, 1), "pull of the kernels towards 0: L2 with sgd and lars, decoupled with adam"),
    clip_norm=Key(Number(0, 1_000_000, above_least=True), "most norm of a gradient; longer ones are scaled down"),
    augment=Key(_AUGMENT, "how training samples are varied"),
    sampling=Key(
        Section(
            _Sampling,
            "The order of samples.",
            {
                "mode": Key(
                    Choice(get_args(SamplingMode)),
                    "how an epoch's samples are drawn; stratified, or with an exchange uniform, if not given",
                ),
                "hit_share": Key(
                    Number(0, 1), "share of draws that stratified takes from the cache; chosen if not given"
                ),
            },
            {"mode": None, "hit_share": None},
        ),
        "the order of samples",
    ),
    exchange=Key(
        section(
            Exchange,
            "Training together.",
            mode=Key(
                Choice(get_args(ExchangeMode)),
                "how the edges combine their gradients; with none each trains a model of its own",
            ),
            compression=Key(Choice(get_args(Compression)), "how gradients are made smaller on their way"),
            top_k=Key(
                Number(0, 1, above_least=True, with_most=True),
                "share of a gradient's entries that top_k sends, two bytes each",
            ),
            sync_every=Key(Whole(1, 10_000), "steps that each edge makes alone between two exchanges"),
            outer=Key(
                section(
                    Outer,
                    "The step that the group makes after sync_every steps of its members, with Nesterov's momentum.",
                    learning_rate=Key(Number(0, 10, above_least=True), "share of the members' mean way that is gone"),
                    momentum=_MOMENTUM,
                ),
                "the group's step, with sync_every above 1",
            ),
            server=Key(NAME, "with parameter_server: the edge or archive node that it is; the first archive node"),
        ),
        "how edges train together",
    ),
    test_fraction=Key(Number(0, 1), "share of each edge's own samples held out for testing"),
    test_samples=Key(Whole(0, 1_000_000), "most samples to test on"),
    live_epoch=Key(Whole(1, 1 << 40), "with source live: samples in an epoch"),
    checkpoint=Key(duration(1, 86_400), "time between checkpoints inside an epoch"),
    deploy=Key(
        section(
            Deploy,
            "The model that the companion gets.",
            format=Key(Choice(get_args(DeployFormat)), "what it computes in; int8 is smaller by three quarters"),
        ),
        "the model that the companion gets",
    ),
    backbone=Key(
        Section(
            Backbone,
            "Layers that are trained already, below the model.",
            {
                "model": Key(
                    _FILE, "a .tflite file beside this one; of a model.tflite of edged's all but the last layer"
                ),
                "trainable": Key(Choice(("head",)), "the model on top alone"),
            },
            {"trainable": "head"},
        ),
        "frozen layers whose features the model learns from",
    ),
)
_TRAINING = replace(_JOB, make=_training, defaults={**_JOB.defaults, "sampling": _Sampling()})

FILE = Section(
    _topology,
    "The topology of edged: the three tiers, their streams and the training jobs.",
    {
        "schema": Key(Whole(SCHEMA, SCHEMA), f"version of the file's format: {SCHEMA}"),
        "site": Key(NAME, "prefix of every topic"),
        "kafka": Key(_KAFKA, "where Apache Kafka is"),
        "streams": Key(Named(_STREAM, "stream"), "what the devices publish, by name"),
        "iot": Key(Listing(_DEVICE), "tier 1: the devices, each with exactly one edge"),
        "edges": Key(Listing(_EDGE, 1), "tier 2: the edges"),
        "archive": Key(Listing(_ARCHIVE), "tier 3: the archive, one node"),
        "training": Key(
            OneOrMore(_TRAINING, MAX_JOBS),
            "what to train: a job or a list of them; without it the site only collects",
        ),
    },
    {"training": ()},
)


def json_schema() -> Schema:
    """The JSON Schema (2020-12) of the topology file, for editors.

    It knows the form of each section; what holds between sections only `edged check` knows.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edged topology",
        **FILE.schema(),
    }
