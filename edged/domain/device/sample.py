"""A device's sample from `publish` until its receipt."""

from dataclasses import dataclass
from typing import NamedTuple


class Draft(NamedTuple):
    """A sample to be published. `label`: in UTF-8; None: unlabelled. `sampled_ms`: when it was taken, in Unix time."""

    label: bytes | None
    payload: bytes
    sampled_ms: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A sample as it is kept. `number`: within its series, from 1 on; `label`, `sampled_ms`: as in Draft.

    `written_ms`: when it was written, in Unix time; `steady_ms`: the same by the monotonic clock, which means something
    until the machine starts again.
    """

    number: int
    sampled_ms: int
    written_ms: int
    steady_ms: int
    label: bytes | None
    payload: bytes


class Position(NamedTuple):
    """A sample's place in the buffer: the number of its file, and its own. Later samples compare as greater."""

    file: int
    number: int


class Passed(NamedTuple):
    """Samples of one file, from `first` on, that were dropped or are damaged."""

    first: Position
    num_samples: int

    @property
    def end(self) -> Position:
        return Position(self.first.file, self.first.number + self.num_samples)


class Buffered(NamedTuple):
    """A kept sample with its position, and its id, which no other sample of the device ever has."""

    position: Position
    id: str
    sample: Kept


def sample_id(series: str, number: int) -> str:
    """The id of the series' sample of this number."""
    return f"{series}:{number}"


def series_of(sample_id: str) -> str:
    """The id's series; empty if it has none."""
    return sample_id.rpartition(":")[0]
