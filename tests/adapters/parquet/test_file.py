"""Any Parquet reader opens an archive's file; its footer is checked before it is believed."""

import io
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edged.adapters.parquet import file as parquet_file
from edged.domain.place import Place
from edged.domain.samples.pack import Pack, digest, of_columns
from edged.domain.samples.sample import Sample
from edged.errors import StorageError
from tests.support.archive_samples import file_name, open_archive, pack, read_packs, sample, segment


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


def written_again(path, table, **options):
    """The file as another engine writes it: edged's metadata is kept, its row groups are not."""
    metadata = {key: value for key, value in pq.read_metadata(path).metadata.items() if key.startswith(b"edged.")}
    pq.write_table(table.replace_schema_metadata(metadata), path, **options)


@pytest.mark.parametrize("row_group_size", [1, 3, 4, 100])
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_a_file_that_another_engine_wrote_again_is_read_by_its_columns(store, folder, row_group_size, order):
    packs = [pack(0, 4), Pack("fashion", ()), pack(4, 3), pack(7, 4)]
    store.append("fashion", "pi-a", list(enumerate(packs)))
    path = segment(folder) / file_name(0)
    table = pq.read_table(path).sort_by([("offset", order), ("row", order)])

    written_again(path, table, row_group_size=row_group_size)

    assert read_packs(open_archive(folder), 3, 1, 0, 2) == [packs[i] for i in (3, 1, 0, 2)]


def test_other_widths_of_the_same_columns_are_read(store, folder):
    samples = (replace(sample(0), label=None, sampled_ms=5), replace(sample(1), codec="jpeg", incarnation="0123"))
    store.append("fashion", "pi-a", [(0, Pack("fashion", samples)), (1, pack(2))])
    path = segment(folder) / file_name(0)
    table = pq.read_table(path)
    wide = {pa.int32(): pa.int64(), pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    table = table.cast(pa.schema([field.with_type(wide.get(field.type, field.type)) for field in table.schema]))

    written_again(path, table)

    assert read_packs(open_archive(folder), 0, 1) == [Pack("fashion", samples), pack(2)]


def test_rows_that_were_changed_or_lost_are_refused(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4)), (2, pack(8))])
    path = segment(folder) / file_name(0)
    table = pq.read_table(path)
    label = pa.array(["bag" if n == 5 else each for n, each in enumerate(table.column("label").to_pylist())])
    changed = table.set_column(table.schema.get_field_index("label"), table.schema.field("label"), label)

    written_again(path, changed)

    again = open_archive(folder)
    assert read_packs(again, 0, 2) == [pack(0), pack(8)]
    with pytest.raises(StorageError, match="SHA-256"):
        read_packs(again, 1)
    written_again(path, table.slice(0, 11))
    with pytest.raises(StorageError, match="not the file's rows"):
        read_packs(open_archive(folder), 0)


def test_a_block_is_read_by_one_exact_range(store, folder):
    store.append("fashion", "pi-a", [(offset, pack(4 * offset)) for offset in range(5)])
    content = (segment(folder) / file_name(0)).read_bytes()
    metadata = pq.read_metadata(io.BytesIO(content))
    footer = parquet_file.Footer(metadata, parquet_file.contents_of(metadata))
    ranges = []

    class Noted(io.BytesIO):
        def read(self, size=-1, /):
            ranges.append((self.tell(), size))
            return super().read(size)

    blocks = [parquet_file.read_block(Noted(content), footer, block) for block in range(5)]

    assert [of_columns(block) for block in blocks] == [pack(4 * offset) for offset in range(5)]
    assert len(ranges) == 5
    assert [start for start, _ in ranges[1:]] == [start + size for start, size in ranges[:-1]]
