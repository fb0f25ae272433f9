"""A prediction as the companion publishes it and a device reads it: a JSON object.

Covers encoding and strict decoding.
"""

import heapq
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from edged.domain.named_fields import from_named, to_named
from edged.errors import FormatError

MAX_PROBABILITIES = 10
"""Labels in one prediction, with their probabilities: bounds its size however many labels there are."""

_MAX_BYTES = 64 * 1024
_TYPE_OF_FIELD: Mapping[str, type] = {
    "device": str, "partition": int, "offset": int, "arrived_ms": int, "generation": int, "compute_ms": float,
}  # fmt: skip
_TYPE_OF_OPTIONAL_FIELD: Mapping[str, type] = {"sampled_ms": int, "latency_ms": float}
_NAMES = (
    "device", "partition", "offset", "arrived_ms", "sampled_ms", "label", "probability", "probabilities", "generation",
    "latency_ms", "compute_ms", "anomaly", "anomaly_threshold", "incarnation", "id",
)  # fmt: skip
_TYPE_OF_CLASS_FIELD: Mapping[str, type] = {"label": str, "probability": float, "probabilities": dict}


class Identity(NamedTuple):
    """The sample of a prediction. `incarnation`: of the device's log, see `domain.place`."""

    device: str
    partition: int
    offset: int
    arrived_ms: int
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The output of the model of `generation` for the sample (device, partition, offset) of a log's incarnation.

    `arrived_ms`, `sampled_ms`: the sample's, see `times`. `latency_ms`: from its arrival until the prediction was
    published, by the clocks of broker and edge; None where those are absurd. `compute_ms`: the time its batch took to
    decode and predict.

    Classifier: the `label` with its `probability`, and `probabilities`, the most probable labels in descending order.
    Autoencoder: the `anomaly` score and, if known, `anomaly_threshold`; see `domain.training.anomaly`. Fields of the
    other kind are None or empty.

    `id`: the device's own name of the sample; empty without one, see `returned`.
    """

    device: str
    partition: int
    offset: int
    arrived_ms: int
    sampled_ms: int | None
    label: str | None
    probability: float | None
    probabilities: Mapping[str, float]
    generation: int
    latency_ms: float | None
    compute_ms: float
    anomaly: float | None = None
    anomaly_threshold: float | None = None
    incarnation: str = ""
    id: str = ""

    @property
    def identity(self) -> Identity:
        """The sample this is for."""
        return Identity(self.device, self.partition, self.offset, self.arrived_ms, self.incarnation)

    @property
    def is_anomalous(self) -> bool:
        """Whether the score is above the threshold; False without a score or a threshold."""
        if self.anomaly is None or self.anomaly_threshold is None:
            return False
        return self.anomaly > self.anomaly_threshold


def most_probable(probabilities: Sequence[float], labels: Sequence[str]) -> dict[str, float]:
    """At most MAX_PROBABILITIES of `labels`, most probable first; ties in the order of the labels."""
    order = heapq.nlargest(MAX_PROBABILITIES, range(len(probabilities)), key=probabilities.__getitem__)
    return {labels[i]: round(probabilities[i], 6) for i in order}


def encode(prediction: Prediction) -> bytes:
    """The message's value, without fields that are None or empty."""
    values = to_named(prediction, _NAMES)
    fields = {name: value for name, value in values.items() if value is not None and value not in ({}, "")}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(value: bytes) -> Prediction:
    """The prediction in a message's value; unknown fields are ignored. Raises FormatError."""
    if len(value) > _MAX_BYTES:
        raise FormatError(f"a prediction of {len(value)} bytes; at most {_MAX_BYTES}")
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise FormatError("a prediction is not JSON") from error
    if not isinstance(fields, dict):
        raise FormatError("a prediction is not a JSON object")
    known = {name: _field(fields, name, kind) for name, kind in _TYPE_OF_FIELD.items()}
    known |= {
        name: _field(fields, name, kind) if name in fields else None for name, kind in _TYPE_OF_OPTIONAL_FIELD.items()
    }
    values = known | (_anomaly(fields) if "anomaly" in fields else _class(fields))
    defaults = {"anomaly": None, "anomaly_threshold": None}
    names = {name: _field(fields, name, str) if name in fields else "" for name in ("incarnation", "id")}
    return from_named(Prediction, _NAMES, defaults | values | names)


def _class(fields: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: _field(fields, name, kind) for name, kind in _TYPE_OF_CLASS_FIELD.items()}
    return known | {"probabilities": {key: _number(key, value) for key, value in known["probabilities"].items()}}


def _anomaly(fields: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in ("anomaly", "anomaly_threshold") if name in fields]
    return {"label": None, "probability": None, "probabilities": {}} | {
        name: _number(name, fields[name]) for name in names
    }


def _field(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if kind is float:
        return _number(name, value)
    if type(value) is not kind:
        raise FormatError(f"a prediction's {name} is {type(value).__name__}, not {kind.__name__}")
    return value


def _number(name: str, value: Any) -> float:
    if type(value) not in {int, float}:
        raise FormatError(f"a prediction's {name} is {type(value).__name__}, not a number")
    try:
        number = float(value)
    except OverflowError as error:
        raise FormatError(f"a prediction's {name} is no float") from error
    if not math.isfinite(number):
        raise FormatError(f"a prediction's {name} is not finite")
    return number
