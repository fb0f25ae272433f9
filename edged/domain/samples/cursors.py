"""Cursors: how far each device's partition has been read.

An edge keeps the next place to read under "device/partition". The archive keeps the next offset to archive of each log
that it has samples of, under "device/partition/incarnation": a topic that was recreated begins at 0 again, and none of
its samples is a duplicate of one before. Covers the keys, how packs advance the cursors, and which samples of a pack
are new. Keeps no state: packs and the archive do.
"""

from collections.abc import Mapping
from dataclasses import replace

from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample


def cursor_key(device: str, partition: int) -> str:
    """The key of the partition's cursor: "device/partition". Names of devices hold no slash."""
    return f"{device}/{partition}"


def archived_key(key: str, incarnation: str) -> str:
    """The archive's key of a log: that of its partition, and its incarnation, if it has a name."""
    return f"{key}/{incarnation}" if incarnation else key


def device_of(key: str) -> str:
    """The device in a cursor's key."""
    return key.partition("/")[0]


def advance(cursors: Mapping[str, int], pack: Pack) -> dict[str, int]:
    """The cursors once `pack` is archived: the highest of those before, the pack's own and its samples'.

    They never decrease, so a pack that is sent again changes nothing.
    """
    result = dict(cursors)
    for partition, place in pack.cursors.items():
        key = archived_key(partition, place.incarnation)
        result[key] = max(place.offset, result.get(key, 0))
    for sample in pack.samples:
        key = _key_of(sample)
        result[key] = max(sample.offset + 1, result.get(key, 0))
    return result


def without_duplicates(pack: Pack, cursors: Mapping[str, int]) -> Pack:
    """The pack without samples below `cursors` and without repeated ones."""
    seen: set[tuple[str, int]] = set()
    fresh: list[Sample] = []
    for sample in pack.samples:
        key = _key_of(sample)
        identity = (key, sample.offset)
        if sample.offset >= cursors.get(key, 0) and identity not in seen:
            seen.add(identity)
            fresh.append(sample)
    return pack if len(fresh) == len(pack.samples) else replace(pack, samples=tuple(fresh))


def _key_of(sample: Sample) -> str:
    return archived_key(cursor_key(sample.device, sample.partition), sample.incarnation)
