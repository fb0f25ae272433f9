"""A pack: samples and the cursors after them, as one tensor blob.

Covers encoding, strict decoding and the content digest. Compression is left to the log (Kafka batches), durability to
the archive. The uplink sends packs, the archive stores them (a block = a pack), epochs carry them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edged.domain import format_version, tensors
from edged.domain import place as places
from edged.domain.counted import counted
from edged.domain.place import Place
from edged.domain.samples.columns import PackColumns, of_samples, samples_of
from edged.domain.samples.sample import CODECS, Sample
from edged.domain.samples.times import UNKNOWN_MS
from edged.domain.tensors import text_list, value_map
from edged.errors import FormatError

MAX_SAMPLES = 256
"""Samples in one pack: few enough for one Kafka message, enough for an efficient read."""

VERSION = "pack/2"
_FORMER_VERSION = "pack/1"

_SAMPLE_BYTES = 512
"""Memory of a decoded sample besides its payload."""

_CURSOR_BYTES = 128


@dataclass(frozen=True, slots=True)
class Pack:
    """Samples in order. `cursors`: "device/partition" → the next place to read after this pack, for all devices."""

    stream: str
    samples: tuple[Sample, ...]
    cursors: Mapping[str, Place] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of all payloads."""
        return sum(len(sample.payload) for sample in self.samples)

    @property
    def memory_bytes(self) -> int:
        """Of the payloads and of all objects, about: a reading of 8 bytes takes far more than those."""
        return self.num_bytes + _SAMPLE_BYTES * (len(self.samples) + 1) + _CURSOR_BYTES * len(self.cursors)


def encode(pack: Pack) -> bytes:
    """The pack as a blob; equal packs give equal bytes."""
    return b"".join(_pieces(by_columns(pack)))


def _pieces(columns: PackColumns) -> list[bytes | memoryview]:
    """The encoding, in pieces, without a copy of the payloads."""
    return tensors.pieces(
        {
            "payload": columns.payload,
            "end": columns.bounds[1:],
            "label": columns.label.numbers,
            "device": columns.device.numbers,
            "partition": columns.partition,
            "incarnation": columns.incarnation.numbers,
            "offset": columns.offset,
            "arrived_ms": columns.arrived_ms,
            "sampled_ms": columns.sampled_ms,
            "codec": columns.codec,
        },
        {
            "edged": VERSION,
            "stream": columns.stream,
            "devices": json.dumps(columns.device.values),
            "labels": json.dumps(columns.label.values),
            "incarnations": json.dumps(columns.incarnation.values),
            "cursors": json.dumps({key: places.to_json(place) for key, place in sorted(columns.cursors.items())}),
        },
    )


def decode(blob: bytes) -> Pack:
    """The pack in `blob`.

    Raises FormatError for anything that `encode` cannot have written; AnotherVersion if another version's may have.
    """
    arrays, metadata = tensors.decode(blob)
    format_version.check(metadata.get("edged"), VERSION)
    devices = text_list(metadata, "devices")
    labels = text_list(metadata, "labels")
    ends = tensors.require(arrays, "end", "int64")
    n = len(ends)
    if n > MAX_SAMPLES:
        raise FormatError(f"{counted(n, 'sample')} in one pack; at most {MAX_SAMPLES}")
    payload = tensors.require(arrays, "payload", "uint8")
    bounds = np.concatenate([np.zeros(1, np.int64), ends])
    if bounds[-1] != len(payload) or (bounds[1:] < bounds[:-1]).any():
        raise FormatError("payload ends do not rise to the payload's length")
    label = _indices(arrays, "label", "int32", n, -1, len(labels))
    device = _indices(arrays, "device", "int32", n, 0, len(devices))
    codec = _indices(arrays, "codec", "uint8", n, 0, len(CODECS))
    partition = _indices(arrays, "partition", "int32", n, 0, 1 << 31)
    incarnations = text_list(metadata, "incarnations")
    if not all(map(places.is_name, incarnations)):
        raise FormatError("the name of a log's incarnation is none")
    incarnation = _indices(arrays, "incarnation", "int32", n, 0, len(incarnations))
    offset = _indices(arrays, "offset", "int64", n, 0, 1 << 63)
    arrived_ms = _indices(arrays, "arrived_ms", "int64", n, UNKNOWN_MS, 1 << 63)
    sampled_ms = _indices(arrays, "sampled_ms", "int64", n, UNKNOWN_MS, 1 << 63)
    data = payload.data  # what is cut out of it is copied once
    samples = tuple(
        Sample(
            devices[device[i]],
            partition[i],
            offset[i],
            arrived_ms[i],
            labels[label[i]] if label[i] >= 0 else None,
            CODECS[codec[i]],
            bytes(data[bounds[i] : bounds[i + 1]]),
            None if sampled_ms[i] == UNKNOWN_MS else sampled_ms[i],
            incarnations[incarnation[i]],
        )
        for i in range(n)
    )
    return Pack(metadata.get("stream", ""), samples, _cursors(metadata))


def cursors_of_former(blob: bytes) -> tuple[str, dict[str, Place]]:
    """Stream and cursors of a pack of version 1, whose cursors are offsets alone. Raises FormatError."""
    _, metadata = tensors.decode(blob)
    if metadata.get("edged") != _FORMER_VERSION:
        raise FormatError(f"not {_FORMER_VERSION}")
    offsets = tensors.offset_map(metadata, "cursors")
    return metadata.get("stream", ""), {key: Place(offset) for key, offset in offsets.items()}


def _cursors(metadata: Mapping[str, str]) -> dict[str, Place]:
    return {key: places.from_json(values) for key, values in value_map(metadata, "cursors").items()}


def digest(pack: Pack) -> str:
    """SHA-256 of the pack's encoding, in hexadecimal; equal packs have equal digests."""
    return columns_digest(by_columns(pack))


def columns_digest(columns: PackColumns) -> str:
    """As `digest`, of a pack by its columns."""
    sha256 = hashlib.sha256()
    for piece in _pieces(columns):
        sha256.update(piece)
    return sha256.hexdigest()


def by_columns(pack: Pack) -> PackColumns:
    """The pack by its columns."""
    return of_samples(pack.stream, pack.samples, pack.cursors)


def of_columns(columns: PackColumns) -> Pack:
    """The pack with an object for each sample."""
    return Pack(columns.stream, tuple(samples_of(columns)), columns.cursors)


def _indices(
    arrays: Mapping[str, tensors.Array], name: str, dtype: str, n: int, minimum: int, limit: int
) -> Sequence[int]:
    values: list[int] = tensors.require(arrays, name, dtype).tolist()
    if len(values) != n or (n and not (minimum <= min(values) and max(values) < limit)):
        raise FormatError(f"pack tensor {name!r} does not hold {n} values from {minimum} to {limit - 1}")
    return values
