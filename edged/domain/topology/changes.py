"""What differs between two readings of the topology, by its keys in the file, and what of it a running node takes.

A running node takes what changes neither what its services are made of nor what their state means; all else needs a
restart. See also: `app.reload`, which reads the file again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from edged.domain.topology.devices import Device, Kafka, Mqtt, Security, Stream, Tls
from edged.domain.topology.nodes import Archive, Cache, Edge, HdfsAccess, LogSettings, S3Access
from edged.domain.topology.topology import Topology
from edged.domain.topology.training import Augment, Deploy, Exchange, Sampling, Training

_SECTIONS = (
    Topology, Kafka, Security, Mqtt, Tls, Stream, Device, Edge, Cache, Archive, S3Access, HdfsAccess,
    LogSettings, Training, Sampling, Augment, Exchange, Deploy,
)  # fmt: skip
"""What is compared key by key; anything else as a whole, such as a model or an optimizer."""

_TAKEN: Mapping[type, frozenset[str]] = {
    LogSettings: frozenset({"level", "resources_s"}),
    Cache: frozenset({"disk_writes_per_day"}),
    Archive: frozenset({"flush_s", "flush_bytes", "retention"}),
    Training: frozenset({"checkpoint_s"}),
}

_KEYS: Mapping[tuple[type, str], str] = {
    (Topology, "jobs"): "training",
    (Stream, "shape"): "sample.shape",
    (Stream, "dtype"): "sample.dtype",
}
"""Of fields whose key in the file is another, besides durations, whose field has a unit (`flush_s`: `flush`)."""


class Changes(NamedTuple):
    """Keys that differ: those that take effect at once, and those that need a restart.

    What has a name is named by it: `edges[pi-a].cache.disk_writes_per_day`, `iot[cam-03]`.
    """

    taken: tuple[str, ...]
    refused: tuple[str, ...]


def changes(old: Topology, new: Topology) -> Changes:
    """What differs between them."""
    found = dict(_of_sections(old, new, ""))
    return Changes(
        tuple(key for key, is_taken in found.items() if is_taken),
        tuple(key for key, is_taken in found.items() if not is_taken),
    )


def _of_sections(old: Any, new: Any, at: str) -> Iterator[tuple[str, bool]]:
    """Each key that differs between two sections of one kind, and whether a running node takes it."""
    for name in (field.name for field in fields(new)):
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        key = _join(at, _KEYS.get((type(new), name), name.removesuffix("_s")))
        if isinstance(after, _SECTIONS) and type(before) is type(after):
            yield from _of_sections(before, after, key)
        elif type(new) is Topology and isinstance(after, tuple):
            yield from _of_named(before, after, key)
        else:
            yield key, name in _TAKEN.get(type(new), ())


def _of_named(old: Sequence[Any], new: Sequence[Any], at: str) -> Iterator[tuple[str, bool]]:
    """The same of two lists of sections with names."""
    before, after = {each.name: each for each in old}, {each.name: each for each in new}
    # A device of a stream that its edge does not have yet would bring a topic and a source of the archive with it.
    sampled = {(each.edge, each.stream) for each in old if isinstance(each, Device)}
    for name, section in after.items():
        if name in before:
            yield from _of_sections(before[name], section, _named(at, name))
        else:
            yield _named(at, name), isinstance(section, Device) and (section.edge, section.stream) in sampled
    for name in (name for name in before if name not in after):
        yield _named(at, name), False
    kept = [name for name in after if name in before]
    if at != "iot" and kept != [name for name in before if name in after]:
        yield at, False  # the first job is served and the order of edges is a group's; that of devices means nothing


def _named(at: str, name: str) -> str:
    """An only job has no name."""
    return f"{at}[{name}]" if name else at


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
