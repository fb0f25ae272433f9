"""What leaves the archive for other programs, and what is counted as left out."""

from collections import Counter

import pytest

from edged.adapters.memory.archive import MemoryArchive
from edged.domain.archive.snapshot import BlockRef
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.errors import ArchiveUnavailable
from edged.services.archive import exporter
from tests.support.archive_samples import STREAM, pack, sample


def exported(store, left_out=None, seen=None):
    progress = [] if seen is None else seen
    counts = Counter() if left_out is None else left_out
    return list(exporter.samples(store, STREAM, store.snapshot("fashion"), progress.append, counts))


def test_each_sample_comes_once_under_its_address():
    store = MemoryArchive()
    store.append("fashion", "_test.birds", [(0, pack(0, 2))])
    store.append("fashion", "pi-a", [(0, pack(2, 1)), (1, Pack("fashion", ())), (2, pack(3, 1))])
    seen: list[int] = []

    found = exported(store, seen=seen)

    assert [(each.split, each.name) for each in found] == [
        ("test", "_test+birds-000000000000-000"),
        ("test", "_test+birds-000000000000-001"),
        ("train", "pi-a-000000000000-000"),
        ("train", "pi-a-000000000002-000"),
    ]
    assert [each.payload for each in found] == [sample(offset).payload for offset in range(4)]
    assert sum(seen) == 4


def test_what_no_border_lets_pass_and_what_cannot_be_read_is_left_out_and_counted():
    store = MemoryArchive()
    left_out: Counter[str] = Counter()
    wrong = Sample("cam-01", 0, 9, 0, "boot", "raw", b"of another shape")
    store.append("fashion", "pi-a", [(0, Pack("fashion", (*pack(0, 1).samples, wrong))), (1, pack(4, 3))])
    store.unreadable = {BlockRef("pi-a", 1)}

    found = exported(store, left_out)

    assert [each.payload for each in found] == [sample(0).payload]
    assert +left_out == {"wrong_length": 1, exporter.UNREADABLE: 3}


def test_an_archive_that_is_away_ends_the_export():
    store = MemoryArchive()
    store.append("fashion", "pi-a", [(0, pack(0))])
    snapshot = store.snapshot("fashion")
    store.failure = ArchiveUnavailable("no route")

    with pytest.raises(ArchiveUnavailable):
        list(exporter.samples(store, STREAM, snapshot, lambda _: None, Counter()))
