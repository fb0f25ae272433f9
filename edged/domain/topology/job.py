"""A training job with what the rest of the topology decides about it, and the digest that identifies it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edged.domain.named_fields import to_named
from edged.domain.nn.spec import DESCRIBED, Described, LayerSpec, Shape
from edged.domain.topology.devices import Stream
from edged.domain.topology.training import (
    Adam,
    Augment,
    Constant,
    Cosine,
    Lars,
    Optimizer,
    Schedule,
    Sgd,
    Step,
    Training,
)


@dataclass(frozen=True, slots=True)
class Job:
    """A training job, resolved against its topology: see `Topology.resolve`.

    `input_shape`: of the model's first layer. `digest`: see `job_digest`. `members`: the edges that train
    it, together if it has an exchange. `server`: the node that combines their gradients; None: the members do.
    `train_topic`: the log that the weights are a fold over; `gradients_topic`: what the members send to the server;
    `checkpoints_topic`: the group's newest checkpoints.
    """

    training: Training
    stream: Stream
    input_shape: Shape
    digest: str
    members: tuple[str, ...]
    server: str | None
    train_topic: str
    gradients_topic: str
    checkpoints_topic: str

    @property
    def name(self) -> str:
        """The job's name; "" for an only job without one."""
        return self.training.name


def job_digest(stream: Stream, training: Training) -> str:
    """SHA-256 of all that decides what the weights mean and in which order samples come, in hexadecimal.

    What may change from one start to the next is not part of it: epochs, intervals, source, who combines the gradients.
    """
    job: dict[str, Any] = {
        "stream": to_named(stream, _STREAM),
        "model": [_named(layer) for layer in training.model],
        "loss": [training.loss, training.class_weights],
        "optimizer": _named(training.optimizer),
        "schedule": _named(training.schedule),
        "weight_decay": training.weight_decay,
        "clip_norm": training.clip_norm,
        "augment": _named(training.augment),
        "global_batch": training.global_batch,
        "seed": training.seed,
        "test_fraction": training.test_fraction,
    }
    if training.backbone is not None:
        assert training.backbone.file is not None, "a backbone was looked up when the topology was read"
        job["backbone"] = training.backbone.file.sha256
    if training.reference_batch is not None:
        job["reference_batch"] = training.reference_batch
    exchange = training.exchange
    if exchange.mode != "none":
        job["exchange"] = [exchange.compression, exchange.top_k, exchange.sync_every, to_named(exchange.outer, _OUTER)]
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


_IN_DIGEST: Mapping[type, Described] = {
    **DESCRIBED,
    Sgd: ("Sgd", ("learning_rate", "momentum", "nesterov")),
    Adam: ("Adam", ("learning_rate", "beta1", "beta2", "epsilon")),
    Lars: ("Lars", ("learning_rate", "momentum", "trust")),
    Constant: ("Constant", ("warmup",)),
    Cosine: ("Cosine", ("warmup", "floor")),
    Step: ("Step", ("every", "factor", "warmup")),
    Augment: ("Augment", ("flip", "shift", "crop")),
}

_STREAM = ("name", "shape", "dtype", "labels")
_OUTER = ("learning_rate", "momentum")


def _named(settings: LayerSpec | Optimizer | Schedule | Augment) -> list[Any]:
    name, names = _IN_DIGEST[type(settings)]
    return [name, to_named(settings, names)]
