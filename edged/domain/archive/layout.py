"""Where an archive's things are, by name: streams, sources, segments, and the files in them.

    edged-archive.json                                               the marker
    <stream>/<source>/floor                                          manifest: see `floor`
    <stream>/<source>/<segment>/index                                manifest: see `segment_index`
    <stream>/<source>/<segment>/<first>.parquet                      as the archiver wrote it
    <stream>/<source>/<segment>/<first>-<next>.g<generation>.parquet packed of several
    <stream>/<source>/<first>-<next>.parquet                         of an archive of before, named by an index
    <stream>/<source>/aside/…                                        kept, and counted for nothing

Offsets have 20 digits, segments 15. A segment is a range of SEGMENT offsets; a file belongs to that of its first one,
and may reach beyond it.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from edged.domain.archive.snapshot import OVERLAY_SOURCES, TEST_SOURCE, TRAIN_SOURCE
from edged.domain.topology import NAME_PATTERN
from edged.errors import StorageError

SEGMENT = 1 << 16
"""Offsets of one segment: a folder and its index stay small."""

MARKER = "edged-archive.json"
ASIDE = "aside"

_NAME = NAME_PATTERN.removeprefix("^").removesuffix("$")
_OVERLAYS = "|".join(map(re.escape, sorted(OVERLAY_SOURCES)))
_SOURCE = re.compile(f"({re.escape(TRAIN_SOURCE)}|{re.escape(TEST_SOURCE)})?{_NAME}|{_OVERLAYS}")
_SEGMENT = re.compile(r"[0-9]{15}")
_FILE = re.compile(r"([0-9]{20})\.parquet")
_PACKED = re.compile(r"([0-9]{20})-([0-9]{20})\.g([1-9][0-9]{0,8})\.parquet")
_OF_BEFORE = re.compile(r"([0-9]{20})-([0-9]{20})\.parquet")
_END = 1 << 63


class FileName(NamedTuple):
    """What a file's name says. `generation`: 0 as it was written, above that packed; OF_BEFORE.

    `next`: None where the name does not say it.
    """

    first: int
    next: int | None
    generation: int


WRITTEN = 0
OF_BEFORE = -1
"""Generation of a file of the layout before, which lies in its source's own folder."""

ABOVE = "../"
"""How an index names what lies there."""


def is_stream(name: str) -> bool:
    """Whether a stream may be called so."""
    return re.fullmatch(_NAME, name) is not None


def is_source(name: str) -> bool:
    """Whether a source may be called so."""
    return _SOURCE.fullmatch(name) is not None


def source_folder(stream: str, source: str) -> str:
    """The source's folder. Raises StorageError for names that could leave the archive."""
    if not is_stream(stream) or not is_source(source):
        raise StorageError(f"{stream!r}, {source!r}: not names of a stream and a source")
    return f"{stream}/{source}"


def segment_of(offset: int) -> int:
    """The segment of a file that begins there."""
    return offset // SEGMENT


def segment_name(segment: int) -> str:
    """The segment's folder in its source's."""
    return f"{segment:015d}"


def segments(folders: Sequence[str]) -> list[int]:
    """Those of a source's folders that are segments, rising."""
    return sorted(int(name) for name in folders if _SEGMENT.fullmatch(name) and int(name) < _END // SEGMENT)


def file_name(first: int) -> str:
    """The name under which the archiver publishes a file: by its first offset alone, so that there is but one."""
    return f"{first:020d}.parquet"


def packed_name(first: int, end: int, generation: int) -> str:
    """The name of a file packed of others, of which the newest was of the generation before."""
    return f"{first:020d}-{end:020d}.g{generation}.parquet"


def parsed(name: str) -> FileName | None:
    """What a name in a segment's folder says; None when it is no file's."""
    if match := _FILE.fullmatch(name):
        return _checked(FileName(int(match[1]), None, WRITTEN))
    if match := _PACKED.fullmatch(name):
        return _checked(FileName(int(match[1]), int(match[2]), int(match[3])))
    return None


def parsed_of_before(name: str) -> FileName | None:
    """What a name in a source's own folder says, where the layout before has its files; None when it is no file's."""
    match = _OF_BEFORE.fullmatch(name)
    return _checked(FileName(int(match[1]), int(match[2]), OF_BEFORE)) if match else None


def text_of(name: FileName) -> str:
    """The name as it is seen from its segment's folder."""
    if name.next is None:
        return file_name(name.first)
    if name.generation == OF_BEFORE:
        return f"{ABOVE}{name.first:020d}-{name.next:020d}.parquet"
    return packed_name(name.first, name.next, name.generation)


def first_of(text: str) -> int:
    """The first offset in what `text_of` gave."""
    return int(text.removeprefix(ABOVE)[:20])


def path(folder: str, segment: int, text: str) -> str:
    """The object's name of a file of the source in `folder`, from what `text_of` gave."""
    if text.startswith(ABOVE):
        return f"{folder}/{text.removeprefix(ABOVE)}"
    return f"{folder}/{segment_name(segment)}/{text}"


def _checked(name: FileName) -> FileName | None:
    end = name.first + 1 if name.next is None else name.next
    return name if name.first < end < _END else None
