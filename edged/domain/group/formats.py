"""What the members of a group can do, so that those of two versions of edged, or of unlike machines, train together.

Headers of each record say which is the newest format that its writer knows, and by which backend it would compute; a
record without them is of a version that knows only the oldest, or numpy. A Begin names the lowest format that its
members have announced, and the epoch's records are in that one; and the backend that all of them have announced, else
numpy, which all have. Join and Leave are always in the oldest: whoever is to be waited for must be able to read them.
What is announced is no part of the fold's state: who has not read it, as after a restart, proposes a lower format and
numpy, which all know, too.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edged.domain.group import records
from edged.domain.group.records import NEWEST_FORMAT, OLDEST_FORMAT, WITH_BACKEND, Begin, Join, Leave, Record
from edged.domain.nn.backend import NUMPY, is_backend
from edged.errors import FormatError

FORMAT_HEADER, BACKEND_HEADER = "edged-exchange", "edged-backend"
_MAX_DIGITS = 4
_MAX_BYTES = 4096
"""A larger record is a part of a gradient or of an update; members say who they are in smaller ones, too."""


class Announcement(NamedTuple):
    """What a record's writer can do: it knows the formats up to `format`, and computes by `backend` or numpy."""

    format: int = OLDEST_FORMAT
    backend: str = NUMPY


_NOTHING = Announcement()


def headers(announcement: Announcement) -> tuple[tuple[str, bytes], ...]:
    """Of the records of who can do this."""
    format_header = (FORMAT_HEADER, str(announcement.format).encode())
    if announcement.backend == NUMPY:
        return (format_header,)
    return (format_header, (BACKEND_HEADER, announcement.backend.encode()))


def announced(headers: Iterable[tuple[str, bytes]]) -> Announcement:
    """What the writer of a record with these headers can do."""
    texts = {name: value.decode(errors="replace") for name, value in headers}
    number, backend = texts.get(FORMAT_HEADER, ""), texts.get(BACKEND_HEADER, "")
    is_number = number.isascii() and number.isdecimal() and len(number) <= _MAX_DIGITS
    return Announcement(
        max(int(number), OLDEST_FORMAT) if is_number else OLDEST_FORMAT, backend if is_backend(backend) else NUMPY
    )


def author(blob: bytes) -> str:
    """The edge that a small record names as its writer; "" for any other."""
    if len(blob) > _MAX_BYTES:
        return ""
    try:
        return str(getattr(records.decode(blob), "edge", ""))
    except FormatError:
        return ""


def agreed(known: Mapping[str, Announcement], members: Iterable[str]) -> Announcement:
    """What an epoch of these members may be written in and computed by. `known`: what each has announced, if it has."""
    each = [known.get(edge, _NOTHING) for edge in members]
    newest = min([NEWEST_FORMAT, *(one.format for one in each)])
    backends = {one.backend for one in each}
    return Announcement(newest, backends.pop() if newest >= WITH_BACKEND and len(backends) == 1 else NUMPY)


def without(backend: str, known: Mapping[str, Announcement], members: Iterable[str]) -> list[str]:
    """Those of the members for whom an epoch is not computed by `backend`, in rising order."""
    wanted = Announcement(WITH_BACKEND, backend)
    each = {edge: known.get(edge, _NOTHING) for edge in members}
    return sorted(edge for edge, one in each.items() if one.format < wanted.format or one.backend != wanted.backend)


def of_record(record: Record, running: Begin | None) -> int:
    """The format to write the record in. `running`: the Begin of the running epoch."""
    match record:
        case Join() | Leave():
            return OLDEST_FORMAT
        case Begin():
            return record.format
        case _:
            return OLDEST_FORMAT if running is None else running.format
