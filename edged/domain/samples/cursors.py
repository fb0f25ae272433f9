"""Cursors: the next offset of each device's partition, and leaving out what lies before it.

Covers how cursors grow with packs and which samples of a pack are new. Keeps no state: the archive does.
"""

from collections.abc import Mapping
from dataclasses import replace

from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample


def cursor_of(sample: Sample) -> str:
    """The name of the sample's cursor: "device/partition"."""
    return f"{sample.device}/{sample.partition}"


def advance(cursors: Mapping[str, int], pack: Pack) -> dict[str, int]:
    """The cursors once `pack` is archived: the highest of those before, the pack's own and its samples'.

    They never go back, so that a pack sent again changes nothing.
    """
    result = dict(cursors)
    for name, offset in pack.cursors.items():
        result[name] = max(offset, result.get(name, 0))
    for sample in pack.samples:
        name = cursor_of(sample)
        result[name] = max(sample.offset + 1, result.get(name, 0))
    return result


def without_duplicates(pack: Pack, cursors: Mapping[str, int]) -> Pack:
    """The pack without samples that lie before `cursors` or that it holds a second time."""
    seen: set[tuple[str, int]] = set()
    fresh: list[Sample] = []
    for sample in pack.samples:
        name = cursor_of(sample)
        identity = (name, sample.offset)
        if sample.offset >= cursors.get(name, 0) and identity not in seen:
            seen.add(identity)
            fresh.append(sample)
    return pack if len(fresh) == len(pack.samples) else replace(pack, samples=tuple(fresh))


def cursor_key(device: str, partition: int) -> str:
    """How a device's partition is called in a pack's cursors. Names of devices hold no slash."""
    return f"{device}/{partition}"
