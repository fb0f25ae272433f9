"""Which log an edge believed to write a pack to: a header of the pack's record in the edge's archive topic.

An edge is the only writer of its archive topics. When such a topic is deleted and recreated under a running edge, what
was in it is gone, and packs that the edge writes before it notices say that those before them were sent. Their header
tells: an edge gives each of its logs a name, and with each pack the end that it knew; a record before that end is in
another log. Covers the header and that rule. See also: `services.ingest.uplink`, `services.archive.archiver`.
"""

from collections.abc import Iterable
from typing import NamedTuple

from edged.domain.place import is_name

HEADER = "edged-log"
_MAX_DIGITS = 19


class WrittenTo(NamedTuple):
    """`log`: the edge's name of the log; "" unknown. `end`: no record of it was before this offset when it was sent."""

    log: str = ""
    end: int = 0

    def header(self) -> tuple[str, bytes]:
        """The record's header."""
        return HEADER, f"{self.log}/{self.end}".encode()

    def is_misplaced(self, offset: int) -> bool:
        """Whether a record at `offset` is in another log than the edge believed."""
        return offset < self.end


def written_to(headers: Iterable[tuple[str, bytes]]) -> WrittenTo:
    """What the header says; nothing known without a proper one."""
    text = next((value for name, value in headers if name == HEADER), b"").decode(errors="replace")
    log, _, end = text.rpartition("/")
    if not (end.isascii() and end.isdecimal() and len(end) <= _MAX_DIGITS and is_name(log) and "/" not in log):
        return WrittenTo()
    return WrittenTo(log, int(end))
