"""Cursors: the next offset to read of each device's partition, under the key "device/partition".

Covers the keys, how packs advance the cursors, and which samples of a pack are new. Keeps no state: the archive does.
"""

from collections.abc import Mapping
from dataclasses import replace

from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample


def cursor_key(device: str, partition: int) -> str:
    """The key of the partition's cursor: "device/partition". Names of devices hold no slash."""
    return f"{device}/{partition}"


def device_of(key: str) -> str:
    """The device in a cursor's key."""
    return key.partition("/")[0]


def advance(cursors: Mapping[str, int], pack: Pack) -> dict[str, int]:
    """The cursors once `pack` is archived: the highest of those before, the pack's own and its samples'.

    They never decrease, so a pack that is sent again changes nothing.
    """
    result = dict(cursors)
    for key, offset in pack.cursors.items():
        result[key] = max(offset, result.get(key, 0))
    for sample in pack.samples:
        key = cursor_key(sample.device, sample.partition)
        result[key] = max(sample.offset + 1, result.get(key, 0))
    return result


def without_duplicates(pack: Pack, cursors: Mapping[str, int]) -> Pack:
    """The pack without samples below `cursors` and without repeated ones."""
    seen: set[tuple[str, int]] = set()
    fresh: list[Sample] = []
    for sample in pack.samples:
        key = cursor_key(sample.device, sample.partition)
        identity = (key, sample.offset)
        if sample.offset >= cursors.get(key, 0) and identity not in seen:
            seen.add(identity)
            fresh.append(sample)
    return pack if len(fresh) == len(pack.samples) else replace(pack, samples=tuple(fresh))
