"""A block is read by one exact range, or by its columns where another engine wrote the file again."""

import io
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet import rows as parquet_rows
from edged.domain.samples.pack import Pack, of_columns
from edged.errors import StorageError
from tests.support.archive_samples import file_name, open_archive, pack, read_packs, sample, segment


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
    footer = parquet_rows.Footer(metadata, parquet_file.contents_of(metadata))
    ranges = []

    class Noted(io.BytesIO):
        def read(self, size=-1, /):
            ranges.append((self.tell(), size))
            return super().read(size)

    blocks = [parquet_rows.read_block(Noted(content), footer, block) for block in range(5)]

    assert [of_columns(block) for block in blocks] == [pack(4 * offset) for offset in range(5)]
    assert len(ranges) == 5
    assert [start for start, _ in ranges[1:]] == [start + size for start, size in ranges[:-1]]
