"""An archive is the same wherever it is: on the fake, a disk, real HDFS, and two real S3 servers."""

import pytest

from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.layout import SEGMENT
from edged.domain.archive.retention import Deleted, Forgotten, Limits
from edged.domain.archive.segment_index import MAX_TAIL
from edged.errors import ArchiveConflict, ArchiveUnavailable, BlockAbsent
from tests.contracts import test_object_store
from tests.contracts.test_object_store import KINDS, Bed
from tests.support.archive_samples import pack, read_packs

bed = test_object_store.bed  # the fixture
on_all = pytest.mark.parametrize("bed", KINDS, indirect=True)


def archive(bed: Bed, writer: str) -> ParquetStore:
    store = ParquetStore(bed.store(writer), "lab")
    store.create("lab")
    store.remove_leftovers("fashion", "pi-a")
    return store


@on_all
def test_what_one_node_archives_another_one_reads(bed):
    """Beyond the first index, with a file that was set aside; each block once."""
    one = archive(bed, "arc-1")
    number = MAX_TAIL + 3
    for offset in range(number):
        one.append("fashion", "pi-a", [(offset, pack(4 * offset))])
    one.append("fashion", "pi-b", [(0, pack(0, device="cam-09"))])
    one.set_aside("fashion", "pi-a", number - 2)
    one.append("fashion", "pi-a", [(offset, pack(4 * offset)) for offset in range(number - 2, number)])

    other = archive(bed, "arc-2")

    assert other.ends("fashion") == {"pi-a": number, "pi-b": 1}
    assert other.snapshot("fashion").offset.tolist() == [*range(number), 0]
    assert read_packs(other, 0, number - 1, 5) == [pack(0), pack(4 * number - 4), pack(20)]
    assert other.end("fashion", "pi-a")[:4] == (number, {"cam-01/0": 4 * number}, number, "")
    assert other.find("fashion", "cam-01", 0, 9) == [("pi-a", 2, 1)]
    assert other.keep_record("fashion", "pi-a", 7, b"record", "damaged")
    assert {finding.kind for finding in other.verify()} == {"aside"}
    with pytest.raises(ArchiveConflict, match=f"continues at offset {number}, not at {number - 2}"):
        other.append("fashion", "pi-a", [(number - 2, pack(0))])
    assert one.snapshot("fashion").num_blocks == number + 1


@on_all
def test_a_place_that_is_no_archive_is_not_filled(bed):
    store = ParquetStore(bed.store("arc-1"), "lab")
    with pytest.raises(ArchiveUnavailable, match=r"has no edged-archive.json"):
        store.append("fashion", "pi-a", [(0, pack(0))])
    archive(bed, "arc-2")
    store.append("fashion", "pi-a", [(0, pack(0))])
    with pytest.raises(ArchiveUnavailable, match="is the archive of the site 'lab', and this is 'roof'"):
        ParquetStore(bed.store("arc-3"), "roof").ends("fashion")


@on_all
def test_what_one_node_forgets_no_other_one_has_nor_misses(bed):
    """With a whole segment, and part of the next one; a writer that slept through it goes on behind it."""
    one, other = archive(bed, "arc-1"), archive(bed, "arc-2")
    one.append("fashion", "pi-a", [(0, pack(0))])
    one.append("fashion", "pi-a", [(SEGMENT, pack(4))], [(1, SEGMENT)])
    for offset in range(SEGMENT + 1, SEGMENT + 4):
        one.append("fashion", "pi-a", [(offset, pack(4 * offset))])
    before = other.snapshot("fashion")

    steps = list(other.retain("fashion", Limits(size=1)))

    assert [(step.what.first, step.what.files) for step in steps if isinstance(step, Forgotten)] == [(SEGMENT + 3, 4)]
    for store in (one, other, archive(bed, "arc-3")):
        assert store.snapshot("fashion").offset.tolist() == [SEGMENT + 3]
        again = store.snapshot("fashion", before.ends)
        assert (again.ends, again.offset.tolist()) == (before.ends, before.offset.tolist())
        assert read_packs(store, 0) == [pack(0)]
    assert sum(step.files for step in other.retain("fashion", Limits(), grace_s=0) if isinstance(step, Deleted)) == 4
    with pytest.raises(ArchiveConflict):
        one.append("fashion", "pi-a", [(SEGMENT + 1, pack(0))])
    one.append("fashion", "pi-a", [(SEGMENT + 4, pack(8))])
    for store in (one, other, archive(bed, "arc-3")):
        assert store.snapshot("fashion").offset.tolist() == [SEGMENT + 3, SEGMENT + 4]
        with pytest.raises(BlockAbsent):
            read_packs(store, 0)
        assert list(store.verify()) == []
    assert list(other.retain("fashion", Limits(size=1 << 20))) == []
