"""In which format a group's records are written, so that members of two versions of edged train together.

Each record's header says which is the newest format that its writer knows; a record without it is of a version that
knows only the oldest. A Begin names the lowest that its members have announced, and the epoch's records are in that
one. Join and Leave are always in the oldest: whoever is to be waited for must be able to read them. What is announced
is no part of the fold's state: who has not read it, as after a restart, proposes a lower format, which all know, too.
"""

from collections.abc import Iterable, Mapping

from edged.domain.group import records
from edged.domain.group.records import NEWEST_FORMAT, OLDEST_FORMAT, Begin, Join, Leave, Record
from edged.errors import FormatError

HEADER = "edged-exchange"
_MAX_DIGITS = 4
_MAX_BYTES = 4096
"""A larger record is a part of a gradient or of an update; members say who they are in smaller ones, too."""


def announcement(knows: int = NEWEST_FORMAT) -> tuple[tuple[str, bytes], ...]:
    """The headers of a record whose writer knows the formats up to this one."""
    return ((HEADER, str(knows).encode()),)


def announced(headers: Iterable[tuple[str, bytes]]) -> int:
    """The newest format that the writer of a record with these headers knows."""
    text = next((value for name, value in headers if name == HEADER), b"").decode(errors="replace")
    is_number = text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS
    return max(int(text), OLDEST_FORMAT) if is_number else OLDEST_FORMAT


def author(blob: bytes) -> str:
    """The edge that a small record names as its writer; "" for any other."""
    if len(blob) > _MAX_BYTES:
        return ""
    try:
        return str(getattr(records.decode(blob), "edge", ""))
    except FormatError:
        return ""


def lowest(known: Mapping[str, int], members: Iterable[str]) -> int:
    """What an epoch of these members may be written in. `known`: the newest format of each, as far as announced."""
    return min([NEWEST_FORMAT, *(known.get(edge, OLDEST_FORMAT) for edge in members)])


def of_record(record: Record, running: Begin | None) -> int:
    """The format to write the record in. `running`: the Begin of the running epoch."""
    match record:
        case Join() | Leave():
            return OLDEST_FORMAT
        case Begin():
            return record.format
        case _:
            return OLDEST_FORMAT if running is None else running.format
