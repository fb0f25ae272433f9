"""Training jobs: the model, how it learns, and how edges train together."""

from dataclasses import replace
from typing import Any, NamedTuple, get_args

from edged.domain.nn.spec import LossName
from edged.domain.topology import (
    Adam,
    Augment,
    Backbone,
    Compression,
    Constant,
    Cosine,
    Deploy,
    DeployFormat,
    Exchange,
    ExchangeMode,
    Flip,
    Kernels,
    Lars,
    Outer,
    Sampling,
    SamplingMode,
    Sgd,
    Source,
    Step,
    Training,
)
from edged.topology_file.kinds.alternatives import OneOf
from edged.topology_file.kinds.lists import Listing
from edged.topology_file.kinds.scalars import FILE_PATH, NAME, Choice, Number, Switch, Whole, duration
from edged.topology_file.kinds.sections import Key, Section, section
from edged.topology_file.schema.layers import LAYER


class _Sampling(NamedTuple):
    mode: SamplingMode | None = None
    hit_share: float | None = None


def _training(*, sampling: _Sampling, exchange: Exchange, **settings: Any) -> Training:
    """The default sampling depends on the exchange: uniform in a group, stratified for an edge alone."""
    default: SamplingMode = "stratified" if exchange.mode == "none" else "uniform"
    job = _JOB.make(sampling=Sampling(sampling.mode or default, sampling.hit_share), exchange=exchange, **settings)
    assert isinstance(job, Training)
    return job


_LEARNING_RATE = Key(Number(0, 1000, excludes_minimum=True), "size of a step")
_MOMENTUM = Key(Number(0, 1), "share of the previous step in the next")
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
            beta1=Key(_DECAY_RATE, "decay of the gradient's running mean"),
            beta2=Key(_DECAY_RATE, "decay of the gradient's running square"),
            epsilon=Key(Number(0, 1, excludes_minimum=True), "added to the root of the square"),
        ),
        "lars": section(
            Lars,
            "Layer-wise adaptive rates, for large batches.",
            learning_rate=_LEARNING_RATE,
            momentum=_MOMENTUM,
            trust=Key(Number(0, 1, excludes_minimum=True), "a kernel's step, as a share of the kernel"),
        ),
    },
)

_WARMUP = Key(Number(0, 1_000_000), "epochs in which the learning rate rises linearly to its full size")

_SCHEDULE = OneOf(
    "schedule",
    {
        "constant": section(Constant, "The learning rate stays.", warmup=_WARMUP),
        "cosine": section(
            Cosine,
            "It falls along half a cosine to the end of the last epoch.",
            warmup=_WARMUP,
            floor=Key(Number(0, 1), "share of it that is left at the end"),
        ),
        "step": section(
            Step,
            "It falls in steps.",
            every=Key(Number(0.001, 1_000_000), "epochs between two steps"),
            factor=Key(Number(0, 1, excludes_minimum=True), "factor of each step"),
            warmup=_WARMUP,
        ),
    },
)

_AUGMENT = section(
    Augment,
    "Training samples varied at random, differently in each epoch.",
    flip=Key(Choice(get_args(Flip)), "mirrored at random, or not"),
    shift=Key(Whole(0, 4096), "maximum shift in each direction, in pixels"),
    crop=Key(
        Number(0, 1, excludes_minimum=True, includes_maximum=True),
        "minimum share of each side that a random window keeps; it is stretched to the full size",
    ),
)

_JOB = section(
    Training,
    "A training job of all edges.",
    name=Key(NAME, "the job's name, where there are several"),
    stream=Key(NAME, "the stream to train on"),
    model=Key(Listing(LAYER, 1, 256), "the layers, first to last; the last is dense"),
    source=Key(Choice(get_args(Source)), "epochs from the archive, samples as they arrive, or both"),
    epochs=Key(Whole(1, 1_000_000), "passes over the data"),
    global_batch=Key(Whole(1, 65_536), "samples in one step, over all edges"),
    micro_batch=Key(Whole(1, 4096), "samples that a core takes at once; measured if not given"),
    kernels=Key(Choice(get_args(Kernels)), "auto: the compiled kernels, where they are installed; numpy: never"),
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
        Listing(Number(0, 1_000_000), 1, 65_536), "weight of each label's samples in the loss, in the labels' order"
    ),
    optimizer=Key(_OPTIMIZER, "how gradients become steps"),
    schedule=Key(_SCHEDULE, "how the learning rate changes, in epochs"),
    weight_decay=Key(Number(0, 1), "decay of the kernels towards 0: L2 with sgd and lars, decoupled with adam"),
    clip_norm=Key(
        Number(0, 1_000_000, excludes_minimum=True), "maximum norm of a gradient; longer ones are scaled down"
    ),
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
                Number(0, 1, excludes_minimum=True, includes_maximum=True),
                "share of a gradient's entries that top_k sends, two bytes each",
            ),
            sync_every=Key(Whole(1, 10_000), "local steps of each edge between two exchanges"),
            outer=Key(
                section(
                    Outer,
                    "The group's step after sync_every local steps of its members, with Nesterov momentum.",
                    learning_rate=Key(
                        Number(0, 10, excludes_minimum=True),
                        "learning rate along the members' mean change; 1: all of it",
                    ),
                    momentum=_MOMENTUM,
                ),
                "the group's step, with sync_every above 1",
            ),
            server=Key(
                NAME,
                "with parameter_server: the edge or archive node that it runs on; the first archive node if not given",
            ),
        ),
        "how edges train together",
    ),
    test_fraction=Key(Number(0, 1), "share of each edge's own samples held out for testing"),
    test_samples=Key(Whole(0, 1_000_000), "maximum number of samples to test on"),
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
            "Pretrained layers below the model.",
            {
                "model": Key(
                    FILE_PATH,
                    "a .tflite file beside this one; of a model.tflite made by edged, all but the last layer are used",
                ),
                "trainable": Key(Choice(("head",)), "only the model on top"),
            },
            {"trainable": "head"},
        ),
        "frozen layers whose features the model learns from",
    ),
)
TRAINING = replace(_JOB, make=_training, defaults={**_JOB.defaults, "sampling": _Sampling()})
