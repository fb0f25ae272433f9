"""The records of a training group's log, each one safetensors blob.

Covers the values, their rules and their strict encoding. A record that breaks its rules cannot be constructed: its
constructor raises FormatError, for bytes from the network and for a caller alike.
See also: `gradient_log` and `update_log` for what records mean together, `compression` for what a gradient's joined
chunks hold.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from edged.domain import format_version, tensors
from edged.domain.archive.snapshot import FLOOR_PREFIX, OVERLAY_SOURCES, TEST_SOURCE, TRAIN_SOURCE
from edged.domain.counted import counted
from edged.domain.named_fields import from_named, to_named
from edged.domain.nn.backend import NUMPY, is_backend
from edged.domain.topology import MAX_MEMBERS, NAME_PATTERN
from edged.errors import FormatError

MAX_CHUNK_BYTES = 512 * 1024
"""In one record: a chunk of a gradient or update."""

MAX_RECORD_BYTES = 1 << 20
"""Of an encoded record, as the topics accept it."""

MAX_PARTS = 4096
MAX_COUNT = 1 << 24
"""Samples in a gradient; float32 holds every whole number up to here exactly."""

MAX_LOSS = 1e30
"""A larger sum of losses means useless weights, though it is finite."""

OLDEST_FORMAT, NEWEST_FORMAT = 1, 4
"""2: a Begin names the format of its epoch. 3: and the backend of its gradients. 4: and the floors of its snapshot.

See also: `formats`.
"""

WITH_BACKEND = 3
"""The first format whose Begin names a backend; all gradients of those before are numpy's."""

WITH_FLOORS = 4
"""The first format whose Begin names where a source begins of which the archive has forgotten something."""

_VERSIONS = {number: f"exchange/{number}" for number in range(OLDEST_FORMAT, NEWEST_FORMAT + 1)}
_NAME = re.compile(NAME_PATTERN)
_HEX = re.compile("[0-9a-f]+")
_MAX_SOURCES = 2048
"""Few enough for a state, which contains its Begin, to fit into an Update whatever the names are."""

_MAX_STATE_CHARACTERS = 256 * 1024
_MAX_SAMPLES_PER_S = 1e9
_SHARES_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Contribution:
    """What went into `edge`'s gradient of a step: `count` samples. `loss`: summed over them."""

    edge: str
    count: int
    loss: float
    num_correct: int

    def __post_init__(self) -> None:
        check_name(self.edge)
        _check_size("count", self.count, MAX_COUNT)
        _check_result(self.loss, self.num_correct, self.count)


@dataclass(frozen=True, slots=True)
class Join:
    """`edge` is running and will train the job with this digest (`topology.job.job_digest`).

    `weights`: SHA-256 of its parameters after `step` updates.
    """

    edge: str
    job_digest: str
    step: int
    weights: str

    def __post_init__(self) -> None:
        check_name(self.edge)
        check_digest(self.job_digest)
        _check_size("step", self.step, 1 << 40)
        check_digest(self.weights)


@dataclass(frozen=True, slots=True)
class Leave:
    """`edge` stops on purpose: nobody need wait for it."""

    edge: str

    def __post_init__(self) -> None:
        check_name(self.edge)


@dataclass(frozen=True, slots=True)
class Begin:
    """`edge` proposes that `epoch` begins.

    `members`: each one's share of every global batch, positive, summing to 1. `ends`: of the snapshot to train on, by
    source. `num_steps`: updates of the epoch. `weights`: SHA-256 of the parameters that it begins with. `format`: which
    all members know, and all records of the epoch are in. `backend`: what all its gradients are computed by.
    """

    epoch: int
    members: Mapping[str, float]
    ends: Mapping[str, int]
    num_steps: int
    weights: str
    edge: str
    format: int = OLDEST_FORMAT
    backend: str = NUMPY

    def __post_init__(self) -> None:
        _check_size("format", self.format, NEWEST_FORMAT + 1, minimum=OLDEST_FORMAT)
        if not is_backend(self.backend) or (self.format < WITH_BACKEND and self.backend != NUMPY):
            raise FormatError("'backend' names none, or one that its format cannot")
        _check_size("epoch", self.epoch, 1 << 31)
        _check_map(self.members, MAX_MEMBERS)
        for edge in self.members:
            check_name(edge)
        for share in self.members.values():
            if not (isinstance(share, float) and 0 < share <= 1 + _SHARES_TOLERANCE):
                raise FormatError("a share is more than 0 and at most 1")
        if not abs(math.fsum(self.members.values()) - 1) <= _SHARES_TOLERANCE:
            raise FormatError("the members' shares do not sum to 1")
        _check_map(self.ends, _MAX_SOURCES)
        for source, end in self.ends.items():
            _check_source(source.removeprefix(FLOOR_PREFIX) if self.format >= WITH_FLOORS else source)
            _check_size("end", end, 1 << 62)
        _check_size("num_steps", self.num_steps, 1 << 40, minimum=1)
        check_digest(self.weights)
        check_name(self.edge)


@dataclass(frozen=True, slots=True)
class Part:
    """Part number `part` of `parts` of `edge`'s gradient of `step`: the mean over `count` samples.

    `attempt` tells the parts of a gradient from those of one that a crash cut short. `loss`: summed over the samples.
    `samples_per_s`: the member's speed; 0 while not measured. Without samples (`count` 0) there is one part without a
    chunk; `is_diverged`: there were samples, but their loss exploded or their gradient was not finite. All fields but
    `part` and `chunk` are the same in all parts.
    """

    edge: str
    step: int
    attempt: str
    part: int
    parts: int
    count: int
    loss: float
    num_correct: int
    samples_per_s: float
    chunk: bytes
    is_diverged: bool = False

    def __post_init__(self) -> None:
        check_name(self.edge)
        _check_size("step", self.step, 1 << 40)
        _check_hex(self.attempt, 8)
        _check_size("count", self.count, MAX_COUNT)
        _check_result(self.loss, self.num_correct, self.count)
        if not (isinstance(self.samples_per_s, float) and 0 <= self.samples_per_s <= _MAX_SAMPLES_PER_S):
            raise FormatError("'samples_per_s' is not a speed")
        if type(self.is_diverged) is not bool or (self.is_diverged and self.count):
            raise FormatError("'is_diverged' belongs to a gradient without samples only")
        _check_chunk(self.chunk, self.part, self.parts, is_empty=not self.count)


@dataclass(frozen=True, slots=True)
class Close:
    """`edge` has waited long enough: `step` is made of the gradients complete in the log by now."""

    step: int
    edge: str

    def __post_init__(self) -> None:
        _check_size("step", self.step, 1 << 40)
        check_name(self.edge)


@dataclass(frozen=True, slots=True)
class Tested:
    """`edge`'s test results on its part of the held-out samples after `epoch`. `loss`: summed over them.

    `weights`: SHA-256 of the parameters tested.
    """

    edge: str
    epoch: int
    num_samples: int
    num_correct: int
    loss: float
    weights: str

    def __post_init__(self) -> None:
        check_name(self.edge)
        _check_size("epoch", self.epoch, 1 << 31)
        _check_size("num_samples", self.num_samples, 1 << 40)
        _check_result(self.loss, self.num_correct, self.num_samples)
        check_digest(self.weights)


@dataclass(frozen=True, slots=True)
class Update:
    """Part number `part` of `parts` of the mean gradient of `step`, from a parameter server.

    `contributions`: rising by edge. `position`: the next offset of the gradients' log. `state`: the server's
    `state.State` after the step, as JSON. A step without samples has one part without a chunk. All fields but `part`
    and `chunk` are the same in all parts.
    """

    step: int
    part: int
    parts: int
    contributions: tuple[Contribution, ...]
    position: int
    state: str
    chunk: bytes

    def __post_init__(self) -> None:
        _check_size("step", self.step, 1 << 40)
        edges = [each.edge for each in self.contributions]
        if len(edges) > MAX_MEMBERS or any(a >= b for a, b in pairwise(edges)):
            raise FormatError(f"contributions are not of up to {MAX_MEMBERS} edges in rising order")
        _check_size("position", self.position, 1 << 62)
        if not (isinstance(self.state, str) and len(self.state) <= _MAX_STATE_CHARACTERS):
            raise FormatError("'state' is not a text of a sane length")
        _check_chunk(self.chunk, self.part, self.parts, is_empty=not any(each.count for each in self.contributions))


Record = Join | Leave | Begin | Part | Close | Tested | Update

_KINDS: Mapping[str, type[Record]] = {
    "join": Join,
    "leave": Leave,
    "begin": Begin,
    "part": Part,
    "close": Close,
    "tested": Tested,
    "update": Update,
}
_KIND_OF: Mapping[type[Record], str] = {kind: name for name, kind in _KINDS.items()}
_NAMES: Mapping[type[Record], tuple[str, ...]] = {
    Join: ("edge", "job_digest", "step", "weights"),
    Leave: ("edge",),
    Begin: ("epoch", "members", "ends", "num_steps", "weights", "edge", "format", "backend"),
    Part: (
        "edge", "step", "attempt", "part", "parts", "count", "loss", "num_correct", "samples_per_s", "chunk",
        "is_diverged",
    ),
    Close: ("step", "edge"),
    Tested: ("edge", "epoch", "num_samples", "num_correct", "loss", "weights"),
    Update: ("step", "part", "parts", "contributions", "position", "state", "chunk"),
}  # fmt: skip


def encode(record: Record, format_number: int = OLDEST_FORMAT) -> bytes:
    """The record as a blob; equal records give equal bytes. A Begin's format is the one that it names.

    Raises FormatError if it exceeds MAX_RECORD_BYTES.
    """
    if isinstance(record, Begin):
        format_number = record.format
    arrays: dict[str, tensors.Array] = {}
    values = to_values(record)
    chunk = values.pop("chunk", b"")
    if chunk:
        arrays["chunk"] = np.frombuffer(chunk, np.uint8)
    blob = tensors.encode(arrays, {"edged": _VERSIONS[format_number], "record": json.dumps(values, sort_keys=True)})
    _check_length(blob)
    return blob


def decode(blob: bytes) -> Record:
    """The record in `blob`, of any format from the oldest to the newest. Raises FormatError."""
    _check_length(blob)
    arrays, metadata = tensors.decode(blob)
    version = format_version.check(metadata.get("edged"), *_VERSIONS.values())
    if metadata.keys() != {"edged", "record"}:
        raise FormatError("a record has other metadata than its fields")
    try:
        values = json.loads(metadata["record"])
    except (ValueError, RecursionError) as error:
        raise FormatError("the record is not JSON") from error
    if not isinstance(values, dict) or "chunk" in values or not arrays.keys() <= {"chunk"}:
        raise FormatError("a record is an object and at most a chunk")
    if values.get("kind") in {"part", "update"}:
        values["chunk"] = tensors.require(arrays, "chunk", "uint8").tobytes() if arrays else b""
    elif arrays:
        raise FormatError("a chunk where none belongs")
    record = from_values(values)
    if isinstance(record, Begin) and _VERSIONS[record.format] != version:
        raise FormatError(f"begins an epoch of {_VERSIONS[record.format]} in {version}")
    return record


def to_values(record: Record) -> dict[str, Any]:
    """The record's fields and its `kind`, as JSON values except for a chunk. Inverse: `from_values`."""
    values = to_named(record, _NAMES[type(record)])
    if isinstance(record, Begin):
        values |= {"members": dict(record.members), "ends": dict(record.ends)}
        if record.format == OLDEST_FORMAT:
            del values["format"]  # whoever knows no other does not know the field
        if record.format < WITH_BACKEND:
            del values["backend"]
    if isinstance(record, Update):
        values["contributions"] = [astuple(each) for each in record.contributions]
    return {"kind": _KIND_OF[type(record)], **values}


def from_values(values: Any) -> Record:
    """The record with these fields, whose types are unchecked as they come from JSON. Raises FormatError."""
    if not isinstance(values, dict):
        raise FormatError("a record is an object")
    name = values.get("kind")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise FormatError("a record of no known kind")
    fields, names = {key: value for key, value in values.items() if key != "kind"}, _NAMES[kind]
    if kind is Begin:
        fields.setdefault("format", OLDEST_FORMAT)
        if fields["format"] in range(OLDEST_FORMAT, WITH_BACKEND):
            names = names[: names.index("backend")]
    if fields.keys() != set(names):
        raise FormatError(f"fields of a {name} are missing or unknown")
    if kind is Update:
        fields["contributions"] = _contributions(fields["contributions"])
    return from_named(kind, names, fields)


def check_name(value: Any) -> None:
    """Raises FormatError for what cannot be an edge's, a source's or a node's name."""
    if not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise FormatError("a name is 1 to 64 letters, digits, '.', '_' or '-'")


def check_digest(value: Any) -> None:
    """Raises FormatError for what cannot be a SHA-256 in hexadecimal."""
    _check_hex(value, 64)


def _contributions(rows: Any) -> tuple[Contribution, ...]:
    if not (isinstance(rows, list) and all(isinstance(row, list) and len(row) == 4 for row in rows)):
        raise FormatError("contributions are rows of an edge, its count, loss and num_correct")
    return tuple(Contribution(*row) for row in rows)


def _check_length(blob: bytes) -> None:
    if len(blob) > MAX_RECORD_BYTES:
        raise FormatError(f"a record of {len(blob)} bytes; at most {MAX_RECORD_BYTES}")


def _check_hex(value: Any, length: int) -> None:
    if not (isinstance(value, str) and len(value) == length and _HEX.fullmatch(value)):
        raise FormatError(f"not {counted(length, 'hexadecimal digit')}")


def _check_size(name: str, value: Any, below: int, *, minimum: int = 0) -> None:
    if not (type(value) is int and minimum <= value < below):
        raise FormatError(f"{name!r} is not a whole number from {minimum} to below {below}")


def _check_result(loss: Any, num_correct: Any, num_samples: int) -> None:
    if not (isinstance(loss, float) and abs(loss) <= MAX_LOSS):  # false for NaN, too
        raise FormatError("'loss' is not a finite number")
    _check_size("num_correct", num_correct, num_samples + 1)
    if not num_samples and loss:
        raise FormatError("a loss without samples")


def _check_map(value: Any, limit: int) -> None:
    if not (isinstance(value, Mapping) and 0 < len(value) <= limit):
        raise FormatError(f"not a map of 1 to {limit} names")


def _check_source(value: Any) -> None:
    """A source is an edge, an imported data set, or one of records about the others' samples."""
    if value in OVERLAY_SOURCES:
        return
    for prefix in (TRAIN_SOURCE, TEST_SOURCE):
        if isinstance(value, str) and value.startswith(prefix):
            check_name(value.removeprefix(prefix))
            return
    check_name(value)


def _check_chunk(chunk: Any, part: Any, parts: Any, *, is_empty: bool) -> None:
    _check_size("parts", parts, MAX_PARTS + 1, minimum=1)
    _check_size("part", part, parts)
    if not (isinstance(chunk, bytes) and len(chunk) <= MAX_CHUNK_BYTES):
        raise FormatError(f"a chunk is at most {MAX_CHUNK_BYTES} bytes")
    if bool(chunk) == is_empty or (is_empty and parts > 1):
        raise FormatError("a gradient of no samples has one part without a chunk; any other, chunks alone")
