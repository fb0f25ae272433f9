"""Any Parquet reader opens an archive's file; its footer is checked before it is believed."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from edged.adapters.parquet import file as parquet_file
from edged.domain.place import Place
from edged.domain.samples.pack import Pack, digest
from edged.domain.samples.sample import Sample
from tests.support.archive_samples import file_name, pack, read_packs, segment


def test_any_parquet_reader_can_read_samples_and_metadata(store, folder):
    store.append("fashion", "_train.birds", [(0, pack(0, 3)), (1, Pack("fashion", ())), (2, pack(3, 2))])
    path = segment(folder, "_train.birds") / file_name(0)

    table = pq.read_table(path)
    metadata = pq.read_metadata(path)

    assert table.column("offset").to_pylist() == [0, 0, 0, 2, 2]
    assert table.column("row").to_pylist() == [0, 1, 2, 0, 1]
    assert table.column("device_offset").to_pylist() == [0, 1, 2, 3, 4]
    assert metadata.num_row_groups == 2
    assert metadata.metadata[b"edged.stream"] == b"fashion"
    assert metadata.metadata[b"edged.source"] == b"_train.birds"


@pytest.mark.parametrize(("codec", "compressed"), [("raw", True), ("jpeg", False), ("png", False)])
def test_only_raw_payloads_are_compressed(store, folder, codec, compressed):
    samples = tuple(Sample("cam-01", 0, i, 0, None, codec, bytes(5000)) for i in range(4))
    store.append("fashion", "pi-a", [(0, Pack("fashion", samples))])

    column = pq.read_metadata(segment(folder) / file_name(0)).row_group(0).column(10)

    assert (column.path_in_schema, column.compression) == ("payload", "ZSTD" if compressed else "UNCOMPRESSED")
    assert not column.is_stats_set, "the footer must not hold whole payloads"


def test_a_footer_that_claims_more_than_the_file_has_allocates_nothing():
    store_contents = {
        b"edged.schema": b"archive/2",
        b"edged.stream": b"fashion",
        b"edged.source": b"pi-a",
        b"edged.offsets": b"[0,9000000000000000000]",
        b"edged.gaps": b"[]",
        b"edged.log": b'["",0,[0,"","",""]]',
        b"edged.blocks": b'{"rows":[],"bytes":[],"sha256":[],"cursors":[]}',
        b"edged.cursors": b"{}",
    }

    class Metadata:
        metadata = store_contents
        num_row_groups = 0

    with pytest.raises(parquet_file.CORRUPTION, match="add up"):
        parquet_file.contents_of(Metadata)


def test_cursors_of_each_block_are_kept_as_they_were(store):
    packs = [
        replace(pack(0), cursors={"cam-01/0": Place(4), "cam-02/0": Place(7)}),
        replace(pack(4), cursors={"cam-01/0": Place(8)}),
        replace(pack(8), cursors={"cam-01/0": Place(8), "cam-03/0": Place(1)}),
    ]
    store.append("fashion", "pi-a", list(enumerate(packs)))

    assert [digest(block) for block in read_packs(store, 2, 0, 1)] == [digest(packs[i]) for i in (2, 0, 1)]
