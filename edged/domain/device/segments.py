"""The files of a device's buffer: their names, sizes and ages, and which are dropped.

    0000000007-4f1c9a2e03b7-0000000001.samples      the seventh file: samples of one series, from number 1 on

A series begins at 1, and no number of it is used twice: after a crash, when it is not known which numbers were used, a
new series begins.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edged.domain.device.frames import MAX_FRAME_BYTES
from edged.domain.device.sample import Position

OnFull = Literal["reject", "drop_oldest"]

MIN_BUFFER_BYTES = 4 << 20
_MIN_SEGMENT_BYTES, _MAX_SEGMENT_BYTES = 1 << 20, 8 << 20
_SEGMENTS = 16
"""Files in a full buffer: the oldest one is dropped as a whole."""

_SHARES_OF_AGE = 8
"""Least number of files over the longest age: expired samples leave the disk by whole files."""

_NAME = re.compile(r"(\d{10})-([0-9a-f]{12})-(\d{10,19})\.samples")

UNSET_CLOCK_MS = 1_577_836_800_000
"""2020. A machine without a battery starts with an earlier time, from which no age can be computed."""


class SegmentName(NamedTuple):
    """`file`: its number; files are read in this order. `first`: the number of its first sample."""

    file: int
    series: str
    first: int

    def __str__(self) -> str:
        return f"{self.file:010}-{self.series}-{self.first:010}.samples"


@dataclass(slots=True)
class Segment:
    """One file. `next`: the number after its last sample. `num_bytes`: those that are durable.

    `last_ms`: when its last sample was written, in Unix time. `began_s`, `last_s`: when it was begun, and when its last
    sample was written, by the monotonic clock; None: in another process.
    """

    name: SegmentName
    next: int
    num_bytes: int
    last_ms: int
    began_s: float | None = None
    last_s: float | None = None

    @property
    def first(self) -> Position:
        return Position(self.name.file, self.name.first)

    @property
    def end(self) -> Position:
        return Position(self.name.file, self.next)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a buffer keeps: bytes of files, and seconds of age (None: any age).

    `on_full`: whether a sample for which there is no room is refused, or the oldest are dropped.
    """

    max_bytes: int = 64 << 20
    max_age_s: float | None = None
    on_full: OnFull = "reject"

    def __post_init__(self) -> None:
        if self.max_bytes < MIN_BUFFER_BYTES:
            raise ValueError(f"a buffer has at least {MIN_BUFFER_BYTES} bytes, not {self.max_bytes}")
        if self.max_age_s is not None and not self.max_age_s > 0:
            raise ValueError(f"a buffer's greatest age is more than 0 s, not {self.max_age_s}")
        if self.on_full not in {"reject", "drop_oldest"}:
            raise ValueError(f'on_full is "reject" or "drop_oldest", not {self.on_full!r}')

    @property
    def segment_bytes(self) -> int:
        """The size of a full file."""
        return min(max(self.max_bytes // _SEGMENTS, _MIN_SEGMENT_BYTES), _MAX_SEGMENT_BYTES)

    def is_over(self, segment: Segment, incoming_bytes: int, now_s: float) -> bool:
        """Whether the file is full, or its samples old enough, so that the next ones begin another."""
        began_s = now_s if segment.began_s is None else segment.began_s
        if self.max_age_s is not None and now_s - began_s > self.max_age_s / _SHARES_OF_AGE:
            return True
        return segment.num_bytes + incoming_bytes > max(self.segment_bytes, MAX_FRAME_BYTES)

    def is_expired(self, age_s: float | None) -> bool:
        """Whether a sample of this age is dropped; None: unknown."""
        return self.max_age_s is not None and age_s is not None and age_s > self.max_age_s


def parse_name(name: str) -> SegmentName | None:
    """The segment's name; None for other files."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    parsed = SegmentName(int(match[1]), match[2], int(match[3]))
    return parsed if str(parsed) == name else None


def age_s(written_ms: int, now_ms: int) -> float | None:
    """The age of what was written then; None if it is unknown, because the clock was not set, or was set back."""
    if written_ms < UNSET_CLOCK_MS or now_ms < written_ms:
        return None
    return (now_ms - written_ms) / 1000


def num_from(segments: Sequence[Segment], begin: Position) -> int:
    """The number of samples from `begin` on."""
    return sum(_num_in(each, begin) for each in segments)


def _num_in(segment: Segment, begin: Position) -> int:
    if segment.name.file < begin.file:
        return 0
    first = max(segment.name.first, begin.number) if segment.name.file == begin.file else segment.name.first
    return max(0, segment.next - first)
