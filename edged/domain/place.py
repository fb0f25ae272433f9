"""A place in a log, and whose log it is: the rule by which a place that was kept is found again.

An offset alone does not name a record: a topic may be deleted and recreated, a partition restored from a loss, a broker
rebuilt. Each life of a log is an incarnation; each has an offset 0. Covers the rule, the names of incarnations and the
text form of places. Reads no log. See also: `ports.log` (which reads and looks by this rule).
"""

import hashlib
import json
import struct
from collections.abc import Iterable
from typing import NamedTuple

from edged.errors import FormatError

_MAX_NAME = 64
"""Characters of an incarnation's name, a topic's id or a fingerprint."""

_UNNAMED = "."


class Place(NamedTuple):
    """The next offset to read, and the log that it is of.

    `incarnation`: edged's name of it; "" or with a full stop at its end while it is not known yet. `topic_id`: Kafka's,
    as last seen; "" where brokers have none. `before`: the fingerprint of the last record before the offset; "" when
    there was none. `next`: of the first one from the offset on, known only to who has just looked, and not part of the
    text form.

    A place of an offset alone fits any log that reaches that far.
    """

    offset: int
    incarnation: str = ""
    topic_id: str = ""
    before: str = ""
    next: str = ""

    @property
    def is_named(self) -> bool:
        """Whether it is known which incarnation it is of."""
        return not self.incarnation.endswith(_UNNAMED) and self.incarnation != ""


class Seen(NamedTuple):
    """A log as it is now, seen from a place: its id, its watermarks, and fingerprints of records that it holds.

    `before`: of the record of the place's `before`, "" when that is gone; `next`: of the first one from the place on;
    `first`: of the first one of all. The last two may be "" where a topic's id makes them needless.
    """

    topic_id: str
    low: int
    high: int
    before: str = ""
    next: str = ""
    first: str = ""


def fingerprint(
    offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: Iterable[tuple[str, bytes]]
) -> str:
    """What tells this record from another one at the same offset: "OFFSET:HASH"."""
    digest = hashlib.blake2b(struct.pack(">qq", timestamp_ms, -1 if key is None else len(key)), digest_size=8)
    for part in (key or b"", *(part for name, content in headers for part in (name.encode(), content)), value):
        digest.update(struct.pack(">q", len(part)))
        digest.update(part)
    return f"{offset}:{digest.hexdigest()}"


def offset_of(fingerprint: str) -> int:
    """The offset of the record with this fingerprint."""
    return int(fingerprint.partition(":")[0])


def of(position: Place | int) -> Place:
    """The position as a place."""
    return position if isinstance(position, Place) else Place(position)


def is_same(place: Place, seen: Seen) -> bool:
    """Whether the log that is seen is the one that the place is of.

    A log that ends before the place is another one. Otherwise the record before the place decides, whatever the id: a
    partition restored from a loss keeps its topic's id, and a mirror has another. When that record is gone the id
    decides, and without ids the next record.
    """
    if seen.high < place.offset:
        return False
    if place.before and seen.before:
        return place.before == seen.before
    if place.topic_id and seen.topic_id:
        return place.topic_id == seen.topic_id
    if place.next and seen.next:
        return place.next == seen.next
    return True


def needs_first(place: Place, seen: Seen) -> bool:
    """Whether `resume` needs the log's first record to name the incarnation."""
    return not (place.is_named and is_same(place, seen)) and not _has_name_of_its_own(seen, place.incarnation)


def resume(place: Place, seen: Seen) -> Place:
    """Where to read on: at `place`, or at the beginning of what is another log."""
    if is_same(place, seen):
        incarnation = place.incarnation if place.is_named else _name(seen, place.incarnation)
        return place._replace(incarnation=incarnation, topic_id=seen.topic_id or place.topic_id, next=seen.next)
    return Place(seen.low, _name(seen, place.incarnation), seen.topic_id, next=seen.first)


def is_continued(place: Place, resumed: Place) -> bool:
    """Whether `resume` found the log of `place`, and returned `resumed` for it."""
    return resumed.offset == place.offset and place.incarnation in {"", resumed.incarnation}


def to_json(place: Place) -> list[int | str]:
    """The place as a JSON array."""
    return [place.offset, place.incarnation, place.topic_id, place.before]


def from_json(values: object) -> Place:
    """The place that `to_json` gave. Raises FormatError."""
    match values:
        case [int(offset), str(incarnation), str(topic_id), str(before)] if (
            type(offset) is int and 0 <= offset < 1 << 63 and all(map(is_name, (incarnation, topic_id, before)))
        ):
            if not before or before.partition(":")[0].isdecimal():
                return Place(offset, incarnation, topic_id, before)
    raise FormatError(f"not a place in a log: {values!r:.100}")


def to_text(place: Place, note: str = "") -> str:
    """All but the offset, and a note, as one line: what a consumer group keeps beside a committed offset."""
    return json.dumps([*to_json(place)[1:], note], separators=(",", ":"))


def from_text(offset: int, text: str) -> tuple[Place, str]:
    """The place and the note of `to_text`. Of any other text the place of the offset alone, and no note."""
    try:
        *values, note = json.loads(text)
        return from_json([offset, *values]), str(note)
    except (ValueError, TypeError, RecursionError, FormatError):
        return Place(offset), ""


def _name(seen: Seen, former: str) -> str:
    """The name of the incarnation that is seen. `former`: of the one before it.

    The topic's id, so that all who see it agree. Of a partition that kept its id with other records, and where there
    are no ids, also a digest of its first record; while that is not there yet, the former's
    name with _UNNAMED at its end.
    """
    if _has_name_of_its_own(seen, former):
        return seen.topic_id
    former = former.removesuffix(_UNNAMED)
    if not seen.first:
        return f"{former}{_UNNAMED}"
    digest = hashlib.blake2b(f"{former} {seen.first}".encode(), digest_size=8).hexdigest()
    return f"{seen.topic_id}{_UNNAMED}{digest}"


def _has_name_of_its_own(seen: Seen, former: str) -> bool:
    """Whether the topic's id is enough of a name."""
    return bool(seen.topic_id) and seen.topic_id != former.partition(_UNNAMED)[0]


def is_name(text: str) -> bool:
    """Whether it can be an incarnation's name, a topic's id or a fingerprint."""
    return len(text) <= _MAX_NAME and text.isascii() and text.isprintable()
