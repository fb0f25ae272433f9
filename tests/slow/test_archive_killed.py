"""kill -9 at each failpoint of compaction, retention and migration: each numbered sample is there, once."""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from edged.adapters.parquet import file as parquet_file
from edged.domain.archive.layout import MARKER, SEGMENT
from edged.domain.archive.snapshot import BlockRef
from edged.errors import ArchiveUnavailable, StorageError
from tests.support.archive_crash import CHANGES
from tests.support.archive_samples import new_archive, open_archive, pack

OFFSETS = [0, 1, 2, SEGMENT - 1, SEGMENT, SEGMENT + 1]
GAPS = {SEGMENT - 1: [(3, SEGMENT - 1)]}
OF_FORMAT_1 = Path(__file__).parents[1] / "formats" / "archive-1"


def of_small_files(folder: Path) -> None:
    store = new_archive(folder)
    for number, offset in enumerate(OFFSETS):
        store.append("fashion", "pi-a", [(offset, pack(4 * number))], GAPS.get(offset, []))


def of_format_1(folder: Path) -> None:
    shutil.copytree(OF_FORMAT_1, folder)


def of_format_2(folder: Path) -> None:
    source = folder / "fashion" / "pi-a"
    source.mkdir(parents=True)
    for number, (first, end) in enumerate(itertools.pairwise([0, 1, 2, 3, SEGMENT, SEGMENT + 1])):
        gaps = [(first, end - 1)] if end - first > 1 else []
        content = b"".join(parquet_file.encode("fashion", "pi-a", [(end - 1, pack(4 * number))], gaps, {}))
        (source / f"{first:020d}-{end:020d}.parquet").write_bytes(content)
    (source / f"{9:020d}-{10:020d}.parquet.damaged").write_bytes(b"damaged")
    (folder / MARKER).write_text('{"format": 2, "site": "lab"}')


def published(folder: Path) -> list[tuple[str, int]]:
    """What a reader by the index has: device and number of each sample."""
    store = open_archive(folder)
    snapshot = store.snapshot("fashion")
    refs = [
        BlockRef(snapshot.sources[index], int(offset))
        for index, offset in zip(snapshot.source, snapshot.offset, strict=True)
    ]
    return sorted((each.device, each.offset) for _, block in store.read("fashion", refs) for each in block.samples)


def in_files(folder: Path) -> list[tuple[str, int]]:
    """What any Parquet reader has by the published list of files."""
    tables = [pq.read_table(folder / name) for name in open_archive(folder).files("fashion")]
    columns = [(each.column("device").to_pylist(), each.column("device_offset").to_pylist()) for each in tables]
    return sorted(pair for devices, offsets in columns for pair in zip(devices, offsets, strict=True))


def names_format(folder: Path) -> int | None:
    marker = folder / MARKER
    return json.loads(marker.read_text())["format"] if marker.exists() else None


def put(name: str) -> list[str]:
    """The failpoints of publishing it."""
    temporary = f"{name} (temporary)"
    return [f"open {temporary}", f"fsync {temporary}", f"link {name}", f"fsync {above(name)}", f"unlink {temporary}"]


def first(name: str) -> list[str]:
    """Of publishing what is the first in its folder."""
    return [f"mkdir {above(name)}", f"fsync {above(above(name))}", *put(name)]


def gone(name: str, in_folder: str = "") -> list[str]:
    return [f"unlink {name}", f"fsync {in_folder or above(name)}"]


def above(name: str) -> str:
    return name.rpartition("/")[0] or "."


def within(source: str, *parts: list[str]) -> list[str]:
    """With the name of the source's own folder for "."."""
    return [f"{each[:-1]}{source}" if each.endswith(" .") else each for part in parts for each in part]


FILE, PACKED, INDEX, FLOOR = "N/N.parquet", "N/N-N.g1.parquet", "N/index/N", "floor/N"
OF_PI_A, OF_TRAIN = "fashion/pi-a", "fashion/_train.small"
MARKED = [*first("_migration/N"), *gone(MARKER), *put(MARKER)]
TABLES = {
    "compaction": [*put(PACKED), *put(INDEX), *4 * gone(FILE), *put(INDEX)],
    "retention": [
        *first(INDEX),
        *put(FLOOR),
        *4 * gone(FILE),
        *gone(INDEX),
        *gone(FILE),
        *put(INDEX),
        *put(FLOOR),
    ],
    "migration-1": [
        *within(OF_TRAIN, first(FLOOR), first(FILE)),
        *first(INDEX),
        *gone("N-N.parquet", OF_TRAIN),
        *within(OF_PI_A, first(FLOOR), first(FILE)),
        *put(FILE),
        *first(INDEX),
        *2 * gone("N-N.parquet", OF_PI_A),
        *MARKED,
    ],
    "migration-2": [
        *within(OF_PI_A, first(FLOOR)),
        *2 * [*within(OF_PI_A, ["mkdir N", "fsync ."]), *first(INDEX)],
        *within(OF_PI_A, first("aside/N-N.parquet.damaged")),
        *gone("N-N.parquet.damaged", OF_PI_A),
        *MARKED,
    ],
}
"""The failpoints of each change, in their order; it is killed before and behind each."""


@pytest.mark.parametrize(
    ("name", "change", "make", "found"),
    [
        ("compaction", "compact", of_small_files, set()),
        ("retention", "retain", of_small_files, set()),
        ("migration-1", "migrate", of_format_1, set()),
        ("migration-2", "migrate", of_format_2, {"aside"}),
    ],
    ids=list(TABLES),
)
def test_killed_at_any_failpoint_each_sample_is_there_once(
    name: str, change: str, make: Callable[[Path], None], found: set[str], tmp_path: Path
) -> None:
    """After the kill, and when the same has been done again; until a migration is done, the archive is refused.

    Retention has forgotten the oldest by then, or has not: what is left are the newest without a gap.
    """
    archive, whole = tmp_path / "archive", tmp_path / "whole"
    make(archive)
    shutil.copytree(archive, whole)
    before = published(archive) if change != "migrate" else []
    CHANGES[change](whole)
    after = published(whole)
    script = [sys.executable, "-m", "tests.support.archive_crash", change, str(archive), str(tmp_path / "killed-")]
    output = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]).stdout
    table = output.splitlines()
    assert table[::2] == table[1::2] == TABLES[name]
    for number in range(1, len(table) + 1):
        folder = tmp_path / f"killed-{number}"
        if change == "migrate" and names_format(folder) != 3:
            with pytest.raises((StorageError, ArchiveUnavailable)):
                published(folder)
        else:
            assert published(folder) == in_files(folder)
            assert published(folder) in (before, after)
        CHANGES[change](folder)
        assert published(folder) == in_files(folder) == after
        assert {each.kind for each in open_archive(folder).verify()} <= found
