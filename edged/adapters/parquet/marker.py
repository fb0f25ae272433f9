"""The object that makes a place an archive: whose it is, and of which layout.

Without it nothing is read or written: an empty mount point, whose file system is not mounted, would pass for a new
archive and be filled.
"""

import json
import secrets
from typing import Any, NamedTuple

from edged.domain.archive.layout import MARKER
from edged.errors import ArchiveUnavailable, StorageError
from edged.ports import ObjectStore

FORMAT = 3
"""Version of the archive's layout."""

MIGRATED_FROM = (1, 2)
MIGRATION = "_migration"
"""A manifest of that name says that the marker is just being replaced; no stream has it."""

_MAX_BYTES = 1 << 20


class Marker(NamedTuple):
    """`id`: of this archive alone; "" of one of before."""

    format: Any
    site: str
    id: str


def new(site: str) -> Marker:
    """The marker of a new archive."""
    return Marker(FORMAT, site, secrets.token_hex(8))


def write(objects: ObjectStore, marker: Marker) -> bool:
    """Mark the place; False when it is an archive already."""
    return objects.publish(MARKER, [encode(marker)])


def encode(marker: Marker) -> bytes:
    """The marker as JSON."""
    return json.dumps(marker._asdict()).encode() + b"\n"


def read(objects: ObjectStore) -> Marker | None:
    """The place's marker; None while there is none. Raises StorageError for a damaged one, ArchiveUnavailable."""
    content = objects.read(MARKER, 0, _MAX_BYTES)
    if content is None:
        return None
    try:
        fields = json.loads(content)
        return Marker(fields["format"], str(fields.get("site", "")), str(fields.get("id", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(f"{objects.path(MARKER)} is damaged") from error


def check(objects: ObjectStore, site: str | None) -> Marker:
    """The place's marker. Raises ArchiveUnavailable while it is none of this site, StorageError for another version."""
    marker = read(objects)
    if marker is None:
        raise ArchiveUnavailable(_absence(objects))
    if marker.format != FORMAT:
        is_before = marker.format in MIGRATED_FROM
        what = "run `edged archive migrate`" if is_before else f"this version of edged knows {FORMAT}"
        raise StorageError(f"{objects.path(MARKER)} names format {marker.format!r:.20}; {what}")
    if site is not None and marker.site != site:
        raise ArchiveUnavailable(
            f"{objects.where} is the archive of the site {marker.site!r:.70}, and this is {site!r}: give each site a "
            f"folder of its own; if the site has a new name, write that into {MARKER}"
        )
    return marker


def _absence(objects: ObjectStore) -> str:
    if objects.manifest(MIGRATION) is not None:
        return f"{objects.where} is being migrated: run `edged archive migrate` again, to its end"
    # A local place is a path; of the others' URLs another folder is the likely mistake.
    why = "its file system is not mounted" if objects.where.startswith("/") else "it is another folder"
    return f"{objects.where} has no {MARKER}: {why}, or it is new and `edged archive init` has not been run"
