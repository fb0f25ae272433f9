"""Which devices have not got all predictions before a place, and from where on, as a note beside that place.

Kafka keeps a consumer group's note with its offset. Covers the text form, whose length is bounded: a device is named by
a digest, and its place by the distance.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

MAX_DEVICES = 224
"""In one note: brokers take 4096 bytes with an offset (`offset.metadata.max.bytes`), the place's own among them."""

_DIGEST_BYTES = 3
_ENTRY = re.compile(r"([0-9a-f]{6})([0-9a-f]{1,10})")
_MOST = (1 << 40) - 1
"""A device that is a trillion predictions behind, or more, counts as so far behind."""


def to_note(behind: Mapping[str, int], end: int) -> str:
    """The note beside the place `end`. `behind`: the first offset that each device has not got.

    Of more than MAX_DEVICES those that are furthest behind are left out.
    """
    nearest = sorted(behind.items(), key=lambda each: -each[1])[:MAX_DEVICES]
    return ",".join(f"{_digest(device)}{min(max(0, end - offset), _MOST):x}" for device, offset in nearest)


def from_note(note: str, end: int, devices: Iterable[str]) -> dict[str, int]:
    """The first offset that each of these has not got, of those that are behind. Any other text names none."""
    distances: dict[str, int] = {}
    for entry in note.split(",", MAX_DEVICES)[:MAX_DEVICES]:
        if match := _ENTRY.fullmatch(entry):
            distances[match[1]] = max(int(match[2], 16), distances.get(match[1], 0))
    named = {device: _digest(device) for device in devices}
    return {device: max(0, end - distances[digest]) for device, digest in named.items() if digest in distances}


def _digest(device: str) -> str:
    """Two devices of one digest are taken for the one that is further behind: it gets some predictions twice."""
    return hashlib.blake2b(device.encode(), digest_size=_DIGEST_BYTES).hexdigest()
