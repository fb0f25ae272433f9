"""Which devices lag behind a consumer group's committed place, as a note that Kafka keeps with its offset.

The note's length is bounded: a device is named by a digest, and its own place by the distance.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

MAX_DEVICES = 224
"""In one note: brokers take 4096 bytes with an offset (`offset.metadata.max.bytes`), the place's own among them."""

_DIGEST_BYTES = 3
_ENTRY = re.compile(r"([0-9a-f]{6})([0-9a-f]{1,10})")
_MAX_DISTANCE = (1 << 40) - 1
"""Larger ones, of a trillion predictions, are written as this one."""


def to_note(undelivered: Mapping[str, int], end: int) -> str:
    """The note for the place `end`. `undelivered`: the first offset that each lagging device has not got.

    Of more than MAX_DEVICES those that lag most are left out.
    """
    nearest = sorted(undelivered.items(), key=lambda each: -each[1])[:MAX_DEVICES]
    return ",".join(f"{_digest(device)}{min(max(0, end - offset), _MAX_DISTANCE):x}" for device, offset in nearest)


def from_note(note: str, end: int, devices: Iterable[str]) -> dict[str, int]:
    """The first offset that each of these devices has not got, of those that lag. Any other text names none."""
    distances: dict[str, int] = {}
    for entry in note.split(",", MAX_DEVICES)[:MAX_DEVICES]:
        if match := _ENTRY.fullmatch(entry):
            distances[match[1]] = max(int(match[2], 16), distances.get(match[1], 0))
    named = {device: _digest(device) for device in devices}
    return {device: max(0, end - distances[digest]) for device, digest in named.items() if digest in distances}


def _digest(device: str) -> str:
    """Of two devices with one digest both get the larger distance: one of them gets some predictions twice."""
    return hashlib.blake2b(device.encode(), digest_size=_DIGEST_BYTES).hexdigest()
