"""The rule that each border of a site applies to samples again: what one of them accepts, all others store and read.

A border is where samples come in from somebody else: the archiver takes packs, the epoch server blocks, the cache and
the batcher what was sent. None trusts that the one before has checked: it may have had another topology, or be broken.
Covers a sample's content, its place, whose device it is, and a pack's size. See also: `codec` (a device's record, where
content is first checked).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from edged.domain.samples import codec as codec_rules
from edged.domain.samples.cursors import archived_key, cursor_key, device_of
from edged.domain.samples.pack import Pack
from edged.domain.samples.rules import MAX_KEY_BYTES
from edged.domain.samples.sample import CODECS, MAX_BYTES, Sample
from edged.domain.samples.times import UNKNOWN_MS
from edged.domain.topology import NAME_PATTERN, Stream, Topology
from edged.errors import RejectedRecord

BORDER_REASONS = (
    "unknown_codec",  # not one that packs know
    "bad_label",  # longer than any label, or no text that can be stored
    "bad_device",  # the device's name is no name
    "out_of_range",  # an offset, partition or time that the next border cannot store
    "foreign_device",  # the device belongs to another edge
    "too_many_devices",  # more unknown devices than an archive's file may list
)
"""What a border refuses in addition to `sample.REASONS`."""

REASONS_OF_TOPOLOGY = frozenset({"wrong_length", "foreign_device", "too_many_devices"})
"""What is refused by what this topology says, so that another one might accept it."""

MAX_OFFSET = (1 << 63) - 2
"""Of a sample: its cursor is one more, and must be a number of 64 bits."""
MAX_PARTITION = (1 << 31) - 1
MAX_TIME_MS = (1 << 63) - 1

MAX_CURSORS = 4096
"""Cursors of devices that the topology does not know in one source: each file of the archive repeats them all."""

_NAME = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")


class Refused(NamedTuple):
    """A sample that a border has left out: its `row` in the pack, whose it is, and why (a stable word, and detail).

    `is_wanted`: another topology might accept it, and it is not archived yet; to leave it out for good would lose it.
    """

    row: int
    device: str
    partition: int
    offset: int
    reason: str
    detail: str
    is_wanted: bool = False


class Sifted(NamedTuple):
    """A pack without what was refused."""

    pack: Pack
    refused: tuple[Refused, ...]

    @property
    def wanted(self) -> Refused | None:
        """The first of `refused` that another topology might accept."""
        return next((each for each in self.refused if each.is_wanted), None)


@dataclass(frozen=True)
class Border:
    """The rule of one topology. `streams`: by name; `edge_of`: device → its edge."""

    streams: Mapping[str, Stream]
    edge_of: Mapping[str, str]

    @classmethod
    def of(cls, topology: Topology) -> Self:
        """The rule of `topology`."""
        return cls({each.name: each for each in topology.streams}, {each.name: each.edge for each in topology.iot})

    def sift(self, pack: Pack, source: str, cursors: Mapping[str, int]) -> Sifted:
        """What of an edge's pack may be archived in `source`, whose cursors are `cursors`; the rest is named.

        A device of another edge is refused. One that no edge has is kept, as it may have been taken out of the file
        since; a source holds at most MAX_CURSORS of their cursors. A label that the stream does not have is kept, too:
        the stream may get it, and until then the sample is unlabelled to whoever trains.
        """
        stream = self.streams[pack.stream]
        known = set(cursors)
        kept: list[Sample] = []
        refused: list[Refused] = []
        num_bytes = 0
        for row, sample in enumerate(pack.samples):
            try:
                self._check(sample, stream, source, known)
                _check_size(num_bytes + len(sample.payload))
            except RejectedRecord as error:
                identity = sample.device[:64], sample.partition, sample.offset
                is_new = sample.offset >= cursors.get(_key_of(sample), 0)
                is_wanted = is_new and error.reason in REASONS_OF_TOPOLOGY
                refused.append(Refused(row, *identity, error.reason, error.detail, is_wanted))
            else:
                num_bytes += len(sample.payload)
                kept.append(sample)
        own = {
            key: place
            for key, place in pack.cursors.items()
            if self._may_keep(archived_key(key, place.incarnation), known)
        }
        if not refused and len(own) == len(pack.cursors):
            return Sifted(pack, ())
        return Sifted(replace(pack, samples=tuple(kept), cursors=own), tuple(refused))

    def _check(self, sample: Sample, stream: Stream, source: str, known: set[str]) -> None:
        check_sample(sample, stream)
        edge = self.edge_of.get(sample.device)
        if edge not in {None, source}:
            raise RejectedRecord("foreign_device", f"{sample.device} is a device of {edge}, not of {source}")
        if not self._may_keep(_key_of(sample), known):
            raise RejectedRecord("too_many_devices", f"{len(known)} cursors, and {sample.device} is in no topology")

    def _may_keep(self, key: str, known: set[str]) -> bool:
        """Whether the source may have this cursor; it counts as known from now on."""
        device = device_of(key)
        if (
            key not in known
            and device not in self.edge_of
            and (len(known) >= MAX_CURSORS or not is_device_name(device))
        ):
            return False
        known.add(key)
        return True


def check_sample(sample: Sample, stream: Stream) -> None:
    """Raise RejectedRecord unless the sample can be stored, sent and trained on as one of `stream`.

    Its label may be one that the stream does not have: the sample is then unlabelled to whoever trains. What another
    topology might accept (REASONS_OF_TOPOLOGY) is refused last.
    """
    if not is_device_name(sample.device):
        raise RejectedRecord("bad_device", f"{sample.device!r:.80} is no name")
    for what, value, minimum, maximum in (
        ("partition", sample.partition, 0, MAX_PARTITION),
        ("offset", sample.offset, 0, MAX_OFFSET),
        ("time", sample.arrived_ms, UNKNOWN_MS, MAX_TIME_MS),
        ("time of sampling", UNKNOWN_MS if sample.sampled_ms is None else sample.sampled_ms, UNKNOWN_MS, MAX_TIME_MS),
    ):
        if not minimum <= value <= maximum:
            raise RejectedRecord("out_of_range", f"{what} {value} is not from {minimum} to {maximum}")
    check_content(sample.payload, sample.codec, sample.label, stream)


def check_content(payload: bytes, codec: str, label: str | None, stream: Stream) -> None:
    """Raise RejectedRecord unless this can be a sample of `stream`, as far as can be told without decoding an image."""
    if codec not in CODECS:
        raise RejectedRecord("unknown_codec", f"{codec!r:.80}")
    if label is not None and not is_storable(label):
        raise RejectedRecord("bad_label", f"{label!r:.80}")
    codec_rules.check_payload(payload, stream, codec)


def is_usable(payload: bytes, codec: str, label: str | None, stream: Stream) -> bool:
    """Whether `check_content` has nothing against it."""
    try:
        check_content(payload, codec, label, stream)
    except RejectedRecord:
        return False
    return True


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise RejectedRecord("too_large", f"the pack has more than {MAX_BYTES} bytes with it")


def _key_of(sample: Sample) -> str:
    return archived_key(cursor_key(sample.device, sample.partition), sample.incarnation)


def reasons(refused: Iterable[Refused]) -> dict[str, int]:
    """How many were refused for each reason."""
    counts: dict[str, int] = {}
    for each in refused:
        counts[each.reason] = counts.get(each.reason, 0) + 1
    return counts


def is_device_name(text: str) -> bool:
    """Whether a device may be called so."""
    return _NAME.match(text) is not None


def is_storable(label: str) -> bool:
    """Whether the label can be stored and sent, as text and by its length."""
    try:
        return len(label.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:
        return False
