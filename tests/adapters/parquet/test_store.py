"""Packs are read back identical from files on a disk, with bounded work, or not at all."""

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.adapters.parquet.store import ParquetStore
from edged.errors import StorageError
from tests.support.archive_samples import any_packs, file_name, new_archive, pack, read_packs

ONCE = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@ONCE
@given(st.lists(any_packs, min_size=1, max_size=4))
def test_any_pack_comes_back_identical(tmp_path_factory, packs):
    store = new_archive(tmp_path_factory.mktemp("archive"))
    store.append("fashion", "pi-a", list(enumerate(packs)))

    assert read_packs(store, *range(len(packs))) == packs
    assert list(store.verify()) == []


@ONCE
@given(data=st.data())
def test_reading_a_damaged_file_gives_the_original_samples_or_an_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("archive")
    new_archive(folder).append("fashion", "pi-a", [(0, pack(0, 3)), (1, pack(3, 3))])
    path = folder / "fashion" / "pi-a" / file_name(0, 2)
    content = bytearray(path.read_bytes())
    begin = data.draw(st.integers(0, len(content) - 1))
    content[begin : begin + 9] = data.draw(st.binary(max_size=9))
    path.write_bytes(content)

    try:
        found = read_packs(ParquetStore(f"file://{folder}"), 0, 1)
    except StorageError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right, each in its own way
    else:
        assert found == [pack(0, 3), pack(3, 3)]


def test_a_corrupt_block_is_named_and_its_neighbours_stay_readable(store, folder):
    store.append("fashion", "pi-a", [(offset, pack(offset * 4)) for offset in range(3)])
    path = folder / "fashion" / "pi-a" / file_name(0, 3)
    content = path.read_bytes()
    column = pq.read_metadata(path).row_group(1).column(8)
    middle = column.data_page_offset + column.total_compressed_size - 3
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])

    with pytest.raises(StorageError, match=f"{file_name(0, 3)}, block 1"):
        read_packs(store, 1)
    assert read_packs(store, 0, 2) == [pack(0), pack(8)]


def test_summaries_count_files_blocks_and_samples(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4, 2))])
    store.append("birds", "pi-b", [(0, pack(0, 1, stream="birds"))])

    birds, fashion = store.summaries()

    assert (birds.stream, birds.source, birds.samples) == ("birds", "pi-b", 1)
    assert (fashion.files, fashion.blocks, fashion.samples) == (1, 2, 6)
    assert fashion.num_bytes == pack(0).num_bytes + pack(4, 2).num_bytes
    assert fashion.stored_bytes == (folder / "fashion" / "pi-a" / file_name(0, 2)).stat().st_size
    assert store.summaries("birds") == [birds]


def test_one_call_opens_each_file_once(store, monkeypatch):
    for offset in range(0, 6, 2):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4)), (offset + 1, pack(offset * 4 + 4))])
    store.snapshot("fashion")
    opened, really_open = [], store._folder.open

    def open_counted(file):
        opened.append(file)
        return really_open(file)

    monkeypatch.setattr(store._folder, "open", open_counted)

    read_packs(store, 0, 5, 1, 4, 2, 3, 0)

    assert len(opened) == 3
