"""A source's floor: the first offset that counts, which only rises. Who makes a source writes its first one.

What retention takes away is thus neither a hole nor a new archive, and a writer who slept through it brings nothing
back. The floors of before stay on record for as long as what is below the present one may still be read.
"""

import json
from typing import NamedTuple

from edged.domain import format_version
from edged.errors import FormatError

VERSION = "archive_floor/1"
MAX_BYTES = 1 << 20
_MAX_RAISES = 4096
_END = 1 << 63


class Raise(NamedTuple):
    """What is below `first` counts no more since `since_ms`, by the clock of who raised the floor."""

    first: int
    since_ms: int


class Floor(NamedTuple):
    """`first`: the first offset that counts. `raises`: those of which something is still kept, rising."""

    first: int
    raises: tuple[Raise, ...] = ()

    def raised(self, first: int, now_ms: int) -> "Floor":
        """The floor at `first`, if that is higher."""
        if first <= self.first:
            return self
        kept = self.raises[-_MAX_RAISES + 1 :]  # what those before have forgotten goes with the next
        return Floor(first, (*kept, Raise(first, now_ms)))

    def deletable(self, before_ms: int) -> int:
        """Below it nothing is to be read any more: it counts for nothing since `before_ms` at least."""
        if not self.raises:
            return self.first
        return max((each.first for each in self.raises if each.since_ms <= before_ms), default=0)

    def forgotten(self, first: int) -> "Floor":
        """The floor once all below `first` is deleted."""
        return Floor(self.first, tuple(each for each in self.raises if each.first > first))


def encode(floor: Floor) -> bytes:
    """The floor as JSON."""
    fields = {"edged": VERSION, "first": floor.first, "raises": [list(each) for each in floor.raises]}
    return json.dumps(fields, separators=(",", ":")).encode()


def decode(encoded: bytes) -> Floor:
    """The floor that `encode` gave. Raises FormatError; AnotherVersion."""
    try:
        fields = json.loads(encoded[:MAX_BYTES])
        format_version.check(fields["edged"], VERSION)
        first, raises = fields["first"], fields["raises"]
        floor = Floor(first, tuple(Raise(*each) for each in raises))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError("not the floor of a source") from error
    numbers = [floor.first, *(number for each in floor.raises for number in each)]
    if len(floor.raises) > _MAX_RAISES or not all(type(number) is int and 0 <= number < _END for number in numbers):
        raise FormatError("the floor of a source has no offset or no times")
    steps = [each.first for each in floor.raises]
    if steps != sorted(set(steps)) or any(step > floor.first for step in steps):
        raise FormatError("the floors of a source do not rise")
    return floor
