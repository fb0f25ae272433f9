"""One of several processes that use an archive at the same time, for some seconds.

Arguments: its role, the archive's folder, and the seconds. Standard output is what it did, as JSON.
"""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.retention import Limits
from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.samples.pack import of_columns
from edged.errors import ArchiveConflict, StorageError
from tests.support.archive_samples import open_archive, pack
from tests.support.object_stores import until_it_works

STREAM = "fashion"
DEVICES = {"pi-a": "cam-01", "_train.more": "cam-09"}
"""Who is in which source: that of an edge, and what is imported meanwhile."""

_GRACE_S = 2.0
_LOOK = 16
"""Blocks that a reader reads of each source at a time."""


def write(source: str, store: ParquetStore, done: Counter[str]) -> None:
    """As an archiver and an import do: from where the archive says that the source goes on."""
    first, length = done["end"], random.randint(1, 3)  # noqa: S311 - guards nothing
    packs = [(offset, pack(4 * offset, device=DEVICES[source])) for offset in range(first, first + length)]
    try:
        until_it_works(lambda: store.append(STREAM, source, packs))
    except ArchiveConflict:
        done["conflicts"] += 1
        done["end"] = until_it_works(lambda: store.end(STREAM, source).next_offset)
    else:
        done["end"] += length


def compact(store: ParquetStore, done: Counter[str]) -> None:
    for step in until_it_works(lambda: list(store.compact(grace_s=_GRACE_S, packed_bytes=100_000))):
        done["packed"] += step.files
        done["deleted"] += step.deleted


def retain(store: ParquetStore, done: Counter[str]) -> None:
    limits = Limits(size=400_000)
    done["steps"] += len(until_it_works(lambda: list(store.retain(STREAM, limits, grace_s=_GRACE_S, is_certain=True))))


def read(store: ParquetStore, done: Counter[str]) -> None:
    """A look at what is there: without a gap and once each; and some of it, as it was written."""
    snapshot = until_it_works(lambda: store.snapshot(STREAM))
    for source, device in DEVICES.items():
        offsets = offsets_of(snapshot, source)
        assert offsets == list(range(offsets[0], offsets[-1] + 1)) if offsets else True, (source, offsets)
        refs = [BlockRef(source, each) for each in sorted(random.sample(offsets, min(_LOOK, len(offsets))))]
        for ref, block in until_it_works(lambda refs=refs: list(store.read_each(STREAM, refs))):  # type: ignore[misc]
            if isinstance(block, StorageError):
                now = offsets_of(until_it_works(lambda: store.snapshot(STREAM)), source)
                assert ref.offset < now[0], f"{ref} of {now[0]} to {now[-1]}: {block}"
                done["forgotten"] += 1
            else:
                assert of_columns(block).samples == pack(4 * ref.offset, device=device).samples, ref
                done["read"] += 1


def offsets_of(snapshot: Snapshot, source: str) -> list[int]:
    """Of the source's blocks."""
    if source not in snapshot.sources:
        return []
    offsets: list[int] = snapshot.offset[snapshot.source == snapshot.sources.index(source)].tolist()
    return offsets


ROLES: dict[str, Callable[[ParquetStore, Counter[str]], None]] = {
    "write": partial(write, "pi-a"),
    "import": partial(write, "_train.more"),
    "compact": compact,
    "retain": retain,
    "read": read,
}


def main(role: str, folder: str, seconds: str) -> None:
    store, done = open_archive(Path(folder)), Counter[str]()
    until_s = time.monotonic() + float(seconds)
    while time.monotonic() < until_s:
        ROLES[role](store, done)
    sys.stdout.write(json.dumps(done))


if __name__ == "__main__":
    main(*sys.argv[1:])
