"""What is kept beside a source's files and counts for nothing: damaged files, and records that were not archived."""

import re

from edged.adapters.parquet.chain import Source
from edged.domain.archive import layout
from edged.domain.archive.layout import ASIDE
from edged.domain.archive.segment_index import IndexedFile
from edged.ports import ObjectStore

_DAMAGED = re.compile(r"[0-9]{20}(-[0-9]{20})?(\.g[0-9]+)?(\.[0-9]+)?\.parquet")
_MAX_DAMAGED = 16
"""Damaged files kept of a source."""

_CHUNK_BYTES = 4 << 20


def keep_file(objects: ObjectStore, source: Source, file: IndexedFile) -> None:
    """Copy the file there, if it is there; of _MAX_DAMAGED the first ones make room."""
    found = source.file(file)
    content = _content(objects, found.path, found.size)
    if content is None:
        return
    folder = f"{source.folder}/{ASIDE}"
    name = layout.text_of(file.name).removeprefix(layout.ABOVE).removesuffix(".parquet")
    number = 1
    while not objects.publish(f"{folder}/{name}{f'.{number}' if number > 1 else ''}.parquet", content):
        number += 1
    kept = [each.name for each in objects.list(folder) if _DAMAGED.fullmatch(each.name)]
    for each in kept[:-_MAX_DAMAGED]:
        objects.delete(f"{folder}/{each}")


def keep_record(objects: ObjectStore, source: Source, name: str, content: bytes, limit: int) -> str:
    """Keep it there, durably; where, for messages. "" when `limit` of its suffix are there."""
    folder = f"{source.folder}/{ASIDE}"
    suffix = "." + name.rpartition(".")[2]
    if sum(each.name.endswith(suffix) and each.name != name for each in objects.list(folder)) >= limit:
        return ""
    objects.publish(f"{folder}/{name}", [content])
    return objects.path(f"{folder}/{name}")


def _content(objects: ObjectStore, path: str, size: int) -> list[bytes] | None:
    content = []
    for offset in range(0, size, _CHUNK_BYTES):
        piece = objects.read(path, offset, min(_CHUNK_BYTES, size - offset))
        if piece is None:
            return None
        content.append(piece)
    return content
