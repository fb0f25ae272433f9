"""A training job's digest: what its weights mean, and in which order its samples come."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from edged.domain.named_fields import to_named
from edged.domain.nn.spec import DESCRIBED, Described, LayerSpec
from edged.domain.topology import (
    Adam,
    Augment,
    Constant,
    Cosine,
    Lars,
    Optimizer,
    Schedule,
    Sgd,
    Step,
    Stream,
    Training,
)


def job_digest(stream: Stream, training: Training) -> str:
    """SHA-256 of all that decides what the weights mean and in which order samples come, in hexadecimal.

    Left out is what may change from one start to the next: epochs, intervals, source, who combines the gradients.
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
        assert training.backbone.file is not None, "the node has looked into it"
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
