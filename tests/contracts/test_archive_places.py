"""An archive is the same wherever it is: on the fake, a disk, real HDFS, and two real S3 servers."""

import pytest

from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.segment_index import MAX_TAIL
from edged.errors import ArchiveConflict, ArchiveUnavailable
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
