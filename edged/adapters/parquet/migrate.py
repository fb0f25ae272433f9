"""Brings an archive of format 1 to the present one: every file is written again under its own name.

Blocks keep their offsets and rows, so snapshots, plans and tests of before stay what they were. An interrupted run is
continued by the next one; the marker changes last, and no version of edged reads an archive in between.

    archive/1       one time of each sample, `timestamp_ms`, which becomes `arrived_ms`; cursors are offsets alone
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet.folder import ArchiveFolder, File, translated
from edged.domain.counted import counted
from edged.domain.place import Place
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.errors import FormatError

_BEFORE = "archive/1"
_SAMPLE_COLUMNS = ["device", "device_partition", "device_offset", "timestamp_ms", "label", "codec", "payload"]


class Migrated(NamedTuple):
    """A source, and how many of its `files` have been written again."""

    stream: str
    source: str
    files: int


def migrate(url: str) -> Iterator[Migrated]:
    """Migrate what is not yet; nothing is yielded for an archive of the present format.

    Raises StorageError, also for a file that is damaged: nothing is migrated behind it; and ArchiveUnavailable.
    """
    folder = ArchiveFolder(url)
    if not folder.needs_migration():
        return
    for stream in folder.streams():
        for source in folder.sources(stream):
            folder.remove_leftovers(stream, source)
            if files := sum(_migrate(folder, stream, source, file) for file in folder.files(stream, source)):
                yield Migrated(stream, source, files)
    folder.mark_migrated()


def next_offsets(url: str) -> dict[tuple[str, str], int] | None:
    """Where each source (stream, source) of an archive of format 1 ends; None of one in the present format.

    Raises StorageError and ArchiveUnavailable.
    """
    folder = ArchiveFolder(url)
    if not folder.needs_migration():
        return None
    sources = [(stream, source) for stream in folder.streams() for source in folder.sources(stream)]
    return {source: files[-1].next for source in sources if (files := folder.files(*source))}


def _migrate(folder: ArchiveFolder, stream: str, source: str, file: File) -> bool:
    """Write the file again; False if it is in the present format."""
    with translated(file.path), folder.open(file) as raw:
        parquet = pq.ParquetFile(raw, page_checksum_verification=True)
        texts = {key.decode(): value.decode() for key, value in (parquet.metadata.metadata or {}).items()}
        if texts.get("edged.schema") != _BEFORE:
            parquet_file.contents_of(parquet.metadata)
            return False
        raw.seek(0)
        parquet_file.check_digest(raw)
        packs = list(_packs(parquet, texts))
        gaps = [(first, end) for first, end in json.loads(texts["edged.gaps"])]
        # What the file's own packs add is added again, and what was before it is among the highest of them all.
        pieces = parquet_file.encode(texts["edged.stream"], texts["edged.source"], packs, gaps, _cursors(texts))
    folder.write(stream, source, file.path.rpartition("/")[2], pieces)
    return True


def _packs(parquet: pq.ParquetFile, texts: Mapping[str, str]) -> Iterator[tuple[int, Pack]]:
    """The blocks by offset."""
    blocks, (first, end) = json.loads(texts["edged.blocks"]), json.loads(texts["edged.offsets"])
    gaps = [range(a, b) for a, b in json.loads(texts["edged.gaps"])]
    offsets = [offset for offset in range(first, end) if not any(offset in gap for gap in gaps)]
    cursors: dict[str, int] = {}
    row_group = 0
    for offset, rows, changes in zip(offsets, blocks["rows"], blocks["cursors"], strict=True):
        cursors |= changes
        cursors = {key: value for key, value in cursors.items() if value is not None}
        samples: tuple[Sample, ...] = ()
        if rows:
            samples = tuple(_samples(parquet.read_row_group(row_group, columns=_SAMPLE_COLUMNS, use_threads=False)))
            row_group += 1
        if len(samples) != rows:
            raise FormatError(f"block {offset} has {counted(len(samples), 'sample')}, not {rows}")
        yield offset, Pack(texts["edged.stream"], samples, _places(cursors))


def _samples(table: Any) -> Iterator[Sample]:
    return map(Sample, *(table.column(name).to_pylist() for name in _SAMPLE_COLUMNS))


def _cursors(texts: Mapping[str, str]) -> dict[str, int]:
    return dict(json.loads(texts["edged.cursors"]))


def _places(cursors: Mapping[str, int]) -> dict[str, Place]:
    return {key: Place(offset) for key, offset in cursors.items()}
