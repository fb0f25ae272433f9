"""Checkpoints: a training state as one safetensors blob.

Covers the encoding, its strict decoding and the digest that proves a blob complete. See also: `state` for the values,
`adapters.disk.checkpoint_dir` for files.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edged.domain import format_version, tensors
from edged.domain.named_fields import from_named, to_named
from edged.domain.nn.backend import NUMPY, is_backend
from edged.domain.nn.model import Division
from edged.domain.training.state import MAX_HISTORY, EpochMetrics, Fallback, Params, Position, Tally, TrainState
from edged.errors import AnotherVersion, CheckpointCorrupt, FormatError, TopologyMismatch

_VERSION, _FORMER_VERSION = "checkpoint/7", "checkpoint/6"
"""The former one does not name a backend: what was before the others was numpy."""

_LEARNT = "learnt"
_FALLBACK = "fallback."
_NO_DIGEST = "0" * 64
_MAX_SLOWDOWNS = 1000
_MAX_LANES = 1024
_MAX_MICRO_BATCH = 65536
_T = TypeVar("_T")


_NAMES: Mapping[type, tuple[str, ...]] = {
    Position: ("epoch", "sample", "step", "live_offset", "live_row", "live_log"),
    Tally: ("num_samples", "num_correct", "loss", "seconds", "wait_s", "decode_s"),
    EpochMetrics: (
        "epoch", "step", "loss", "train_accuracy", "test_loss", "test_accuracy", "anomaly_threshold",
    ),
    Division: ("lanes", "micro_batch", "backend"),
}  # fmt: skip


def encode(state: TrainState) -> bytes:
    """The state as a safetensors blob with its own SHA-256 in the metadata. Equal states give equal bytes."""
    arrays = {f"params/{name}": array for name, array in state.params.items()}
    for slot, values in state.slots.items():
        arrays |= {f"{slot}/{name}": array for name, array in values.items()}
    fallback = state.fallback
    if fallback is not None:
        for slot, values in {"params": fallback.params, **fallback.slots}.items():
            arrays |= {f"{_FALLBACK}{slot}/{name}": array for name, array in values.items()}
    learnt = {_LEARNT: np.frombuffer(state.learnt, np.uint8)} if state.learnt else {}
    text = {
        "position": to_named(state.position, _NAMES[Position]),
        "tally": to_named(state.tally, _NAMES[Tally]),
        "ends": state.ends if state.ends is None else dict(state.ends),
        "plan": state.plan,
        "slots": list(state.slots),
        "division": to_named(state.division, _NAMES[Division]),
        "slowdowns": state.slowdowns,
        "exchange": state.exchange,
        "fallback_step": fallback and fallback.step,
        "history": [to_named(metrics, _NAMES[EpochMetrics]) for metrics in state.history[-MAX_HISTORY:]],
    }
    metadata = {"edged": _VERSION, "job": state.job, "state": json.dumps(text, sort_keys=True)}
    blob = tensors.encode({**arrays, **learnt}, {**metadata, "sha256": _NO_DIGEST})
    at = blob.index(_NO_DIGEST.encode())
    return blob[:at] + hashlib.sha256(blob).hexdigest().encode() + blob[at + len(_NO_DIGEST) :]


def decode(blob: bytes, *, job: str | None = None) -> TrainState:
    """The state in `blob`, its arrays writable copies.

    Raises CheckpointCorrupt for a blob that is not, byte for byte, what `encode` returned; of an intact one
    AnotherVersion for another format, and TopologyMismatch for another job than `job`, if that is given. A version
    without a digest counts as intact: how it would be proven is not known.
    """
    try:
        arrays, metadata = tensors.decode(blob)
        if "sha256" not in metadata:
            format_version.check(metadata.get("edged"), _VERSION, _FORMER_VERSION)
        _check_digest(blob, metadata.get("sha256", ""))
        version = format_version.check(metadata.get("edged"), _VERSION, _FORMER_VERSION)
    except AnotherVersion as error:
        raise AnotherVersion(
            f"the newest checkpoint is of another version of edged ({metadata['edged']}, not {_VERSION}): go back to "
            "that one, or move the checkpoints away to start over"
        ) from error
    except FormatError as error:
        raise CheckpointCorrupt(str(error)) from error
    if job is not None and metadata.get("job") != job:
        raise TopologyMismatch(
            "the newest checkpoint belongs to another stream, model, optimizer, global_batch, exchange, seed or "
            "test_fraction than the topology names: undo the change, or move the checkpoints away to start over"
        )
    try:
        return _state(arrays, metadata, {"backend": NUMPY} if version == _FORMER_VERSION else {})
    except (FormatError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointCorrupt(f"the checkpoint's content is malformed: {error}") from error


def _check_digest(blob: bytes, digest: str) -> None:
    """The digest means this in every version."""
    if len(digest) != len(_NO_DIGEST):
        raise FormatError("the checkpoint has no SHA-256")
    # The digest covers the blob with zeros in the digest's place. It occurs first in the header: tensors follow.
    at = blob.find(digest.encode())
    view = memoryview(blob)
    sha = hashlib.sha256(view[:at])
    sha.update(_NO_DIGEST.encode())
    sha.update(view[at + len(digest) :])
    if at < 0 or sha.hexdigest() != digest:
        raise FormatError("the checkpoint's SHA-256 does not match its content")


def _state(
    arrays: Mapping[str, tensors.Array], metadata: Mapping[str, str], of_division: Mapping[str, str]
) -> TrainState:
    """`of_division`: what the format does not say of it."""
    text = json.loads(metadata["state"])
    params, slots = _weights(arrays, "", text["slots"])
    fallback = None
    if text["fallback_step"] is not None:
        fallback = Fallback(int(text["fallback_step"]), *_weights(arrays, _FALLBACK, text["slots"]))
        if _shapes(fallback.params) != _shapes(params):
            raise FormatError("weights and the fallback's differ in names or shapes")
    return TrainState(
        params=params,
        slots=slots,
        job=metadata["job"],
        division=_division({**text["division"], **of_division}),
        position=_position(text["position"]),
        tally=_record(Tally, text["tally"]),
        ends=text["ends"],
        plan=text["plan"],
        history=tuple(_record(EpochMetrics, metrics) for metrics in text["history"]),
        slowdowns=_slowdowns(text["slowdowns"]),
        learnt=tensors.require(arrays, _LEARNT, "uint8").tobytes() if _LEARNT in arrays else b"",
        exchange=str(text["exchange"]),
        fallback=fallback,
    )


def _weights(
    arrays: Mapping[str, tensors.Array], prefix: str, slots: Iterable[str]
) -> tuple[Params, dict[str, Params]]:
    """The weights and the optimizer's state stored under this prefix."""
    params = dict(_of(arrays, f"{prefix}params/"))
    states = {slot: dict(_of(arrays, f"{prefix}{slot}/")) for slot in slots}
    if any(_shapes(values) != _shapes(params) for values in states.values()):
        raise FormatError("weights and the optimizer's state differ in names or shapes")
    return params, states


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in params.items()}


def _position(values: dict[str, Any]) -> Position:
    position = _record(Position, values)
    if not isinstance(position.live_log, str):
        raise FormatError("'live_log' of Position is no text")
    if min(position.epoch, position.sample, position.step) < 0:
        raise FormatError(f"no training is at {position}")
    return position


def _slowdowns(value: Any) -> int:
    if not (type(value) is int and 0 <= value <= _MAX_SLOWDOWNS):
        raise FormatError(f"'slowdowns' is not a whole number from 0 to {_MAX_SLOWDOWNS}")
    return value


def _division(values: dict[str, Any]) -> Division:
    division = _record(Division, values)
    is_divided = 0 < division.lanes <= _MAX_LANES and 0 < division.micro_batch <= _MAX_MICRO_BATCH
    if not (is_divided and is_backend(division.backend)):
        raise FormatError(f"mini-batches cannot be cut as {division}")
    return division


def _of(arrays: Mapping[str, tensors.Array], prefix: str) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    for name, array in arrays.items():
        if name.startswith(prefix):
            tensors.require(arrays, name, "float32", array.ndim)
            yield name.removeprefix(prefix), np.array(array, np.float32)


def _record(kind: type[_T], values: dict[str, Any]) -> _T:
    names = _NAMES[kind]
    if values.keys() != set(names):
        raise FormatError(f"fields of {kind.__name__} are missing or unknown")
    for name, each in zip(names, fields(kind), strict=True):  # type: ignore[arg-type]
        numeric: Any = each.type
        if not isinstance(values[name], numeric | int):
            raise FormatError(f"{name!r} of {kind.__name__} is not a number")
    return from_named(kind, names, values)
