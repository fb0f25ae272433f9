"""The log that blocks of the archive are from: how their numbers in the archive follow from their offsets there.

A source's blocks have rising numbers for ever, while an edge's archive topic may be recreated and begin at offset 0
again. Each file has blocks of one log only: a block's number is its offset there plus the file's base. Covers that, and
the address by which a block's samples are held out, which an edge must know before anybody archives the block.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from edged.domain import place as places
from edged.domain.place import Place
from edged.errors import FormatError


class SourceLog(NamedTuple):
    """`name`: the edge's name of its log, see `samples.written_to`; "" if it gave none. `place`: after the file.

    `base`: a block's number less its offset in the log.
    """

    name: str = ""
    base: int = 0
    place: Place = Place(0)


UNKNOWN_LOG = SourceLog()
"""Of what is from no log, like imported data, or from one of which nothing is known."""


class Origin(NamedTuple):
    """From block `first` of a source on, its blocks are of the log `name`, with this `base`."""

    first: int
    name: str
    base: int


def named(origins: Iterable[Origin]) -> tuple[Origin, ...]:
    """The origins, in order, without those that say the same as the one before, and nothing if none has a name."""
    kept = [Origin(0, "", 0)]
    for origin in origins:
        if origin[1:] != kept[-1][1:]:
            kept.append(origin)
    return tuple(kept[1:]) if any(origin.name for origin in kept) else ()


def address_in_log(source: str, name: str, offset: int) -> tuple[str, int]:
    """The address by which samples are held out: of what an edge wrote to the log that it calls `name`, at `offset`.

    Without a name the archive's own.
    """
    return (f"{source}@{name}" if name else source), offset


def to_json(log: SourceLog) -> list[Any]:
    """The log as a JSON array."""
    return [log.name, log.base, places.to_json(log.place)]


def from_json(values: Any) -> SourceLog:
    """The log that `to_json` gave. Raises FormatError."""
    match values:
        case [str(name), int(base), place] if places.is_name(name) and type(base) is int and abs(base) < 1 << 63:
            return SourceLog(name, base, places.from_json(place))
    raise FormatError(f"not the log of an archive's file: {values!r:.100}")
