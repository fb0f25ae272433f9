"""Packs are read back identical from files on a disk, with bounded work, or not at all."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from edged.adapters.memory.objects import MemoryPlace
from edged.adapters.objects.store import Store
from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet.chain import Source
from edged.adapters.parquet.damage import CorruptFileError
from edged.adapters.parquet.footers import Footers
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.snapshot import BlockRef
from edged.errors import ArchiveUnavailable, BlockAbsent, StorageError
from tests.support.archive_samples import any_packs, file_name, new_archive, open_archive, pack, read_packs, segment
from tests.support.bad_tenants import damage_newest_file, request_for_absent_blocks
from tests.support.properties import examples

ONCE = examples(30, allowed=[HealthCheck.function_scoped_fixture])


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
    path = segment(folder) / file_name(0)
    content = bytearray(path.read_bytes())
    begin = data.draw(st.integers(0, len(content) - 1))
    content[begin : begin + 9] = data.draw(st.binary(max_size=9))
    path.write_bytes(content)

    try:
        found = read_packs(open_archive(folder), 0, 1)
    except StorageError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right, each in its own way
    else:
        assert found == [pack(0, 3), pack(3, 3)]


def test_a_corrupt_block_is_named_and_its_neighbours_stay_readable(store, folder):
    store.append("fashion", "pi-a", [(offset, pack(offset * 4)) for offset in range(3)])
    path = segment(folder) / file_name(0)
    content = path.read_bytes()
    column = pq.read_metadata(path).row_group(1).column(8)
    middle = column.data_page_offset + column.total_compressed_size - 3
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])

    with pytest.raises(StorageError, match=f"{file_name(0)}, block 1"):
        read_packs(store, 1)
    assert read_packs(store, 0, 2) == [pack(0), pack(8)]


def test_summaries_count_files_blocks_and_samples(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4, 2))])
    store.append("birds", "pi-b", [(0, pack(0, 1, stream="birds"))])

    birds, fashion = store.summaries()

    assert (birds.stream, birds.source, birds.samples) == ("birds", "pi-b", 1)
    assert (fashion.files, fashion.blocks, fashion.samples) == (1, 2, 6)
    assert fashion.num_bytes == pack(0).num_bytes + pack(4, 2).num_bytes
    assert fashion.stored_bytes == (segment(folder) / file_name(0)).stat().st_size
    assert store.summaries("birds") == [birds]


def test_absent_blocks_cost_one_look_at_each_source_and_a_damaged_file_one(store, folder, monkeypatch):
    for source in ("pi-a", "pi-b"):
        for offset in range(2):
            store.append("fashion", source, [(offset, pack(4 * offset))])
    damage_newest_file(folder, "pi-b")
    again = open_archive(folder)
    calls: Counter[str] = Counter()
    listed, looked, opened = ParquetStore.source_names, Source.chain, Footers.open
    monkeypatch.setattr(ParquetStore, "source_names", lambda *args: (calls.update(["stream"]), listed(*args))[1])
    monkeypatch.setattr(Source, "chain", lambda self: (calls.update(["source"]), looked(self))[1])
    monkeypatch.setattr(Footers, "open", lambda *args: (calls.update(["open"]), opened(*args))[1])
    absent = request_for_absent_blocks("pi-a", 3_000, sources=("pi-a", "pi-b", "pi-c", "../x"))

    found = [block for _, block in again.read_each("fashion", [*absent.refs, *[BlockRef("pi-b", 1)] * 1_000])]

    behind_the_damaged_one = [CorruptFileError if ref.source == "pi-b" else BlockAbsent for ref in absent.refs]
    assert [type(block) for block in found] == behind_the_damaged_one + [CorruptFileError] * 1_000
    assert calls == {"stream": 1, "source": 2, "open": 5}, "four files of the sources' tails, and the damaged one again"


def test_a_source_continues_behind_its_damaged_newest_file_or_archives_its_range_again(store, folder):
    for offset in range(3):
        store.append("fashion", "pi-a", [(offset, pack(4 * offset))])
    path = damage_newest_file(folder, "pi-a")
    again = open_archive(folder)

    end = again.end("fashion", "pi-a")
    assert (end.next_offset, end.cursors, end.cursors_end) == (3, {"cam-01/0": 8}, 2)
    assert str(path) in end.damage
    again.append("fashion", "pi-a", [(3, pack(12))])
    assert again.end("fashion", "pi-a")[:4] == (4, {"cam-01/0": 16}, 4, "")
    assert again.snapshot("fashion").offset.tolist() == [0, 1, 3]

    for _ in range(2):
        damage_newest_file(folder, "pi-a")
        again.set_aside("fashion", "pi-a", 2)
        again.append("fashion", "pi-a", [(2, pack(8)), (3, pack(12))])
    for each in (again, open_archive(folder)):
        assert read_packs(each, 0, 1, 2, 3) == [pack(0), pack(4), pack(8), pack(12)]
    kept = [Path(finding.path).name for finding in again.verify() if finding.kind == "aside"]
    assert sorted(kept) == sorted([f"{2:020d}.2.parquet", file_name(2), file_name(3)])


def test_a_damaged_newest_file_of_many_blocks_is_passed_with_its_first_one_for_good(store, folder):
    """How far it went is not known any more; what the log still has behind its first block is archived."""
    store.append("fashion", "pi-a", [(0, pack(0))])
    store.append("fashion", "pi-a", [(1, pack(4)), (2, pack(8)), (3, pack(12))])
    newest = segment(folder) / file_name(1)
    content = newest.read_bytes()
    damage_newest_file(folder, "pi-a")
    again = open_archive(folder)
    assert again.end("fashion", "pi-a").next_offset == 2
    again.append("fashion", "pi-a", [(3, pack(12)), (4, pack(16))], gaps=[(2, 3)])
    newest.write_bytes(content)  # restored from a copy

    later = open_archive(folder)

    assert later.snapshot("fashion").offset.tolist() == [0, 1, 3, 4]
    assert read_packs(later, 1, 3) == [pack(4), pack(12)]
    assert list(later.verify()) == []


@pytest.mark.parametrize("refused", ["list", "read"])
def test_a_source_that_the_disk_refuses_is_missing_from_a_snapshot_alone_and_comes_back(
    store, folder, monkeypatch, refused, log_lines
):
    for source in ("pi-a", "pi-b"):
        store.append("fashion", source, [(0, pack(0))])
    again, really = open_archive(folder), getattr(Store, refused)

    def refuse(self, name, *args):
        if "/pi-a/" in name:
            raise ArchiveUnavailable(f"{name}: Input/output error")
        return really(self, name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Store, refused, refuse)
        snapshots = [again.snapshot("fashion") for _ in range(3)]
        with pytest.raises(StorageError, match="Input/output error"):
            again.end("fashion", "pi-a")
    assert [snapshot.num_blocks for snapshot in snapshots] == [1, 1, 1]
    assert [line["source"] for line in log_lines("archive.unreadable")] == ["pi-a"]
    assert again.snapshot("fashion").num_blocks == 2


def test_no_source_is_missing_from_a_snapshot_while_the_archive_is_away(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0))])
    store.end("fashion", "pi-a")
    again = open_archive(folder)
    again.ends("fashion")
    folder.rename(folder.with_name("unmounted"))
    with pytest.raises(ArchiveUnavailable):
        again.snapshot("fashion")


def test_offsets_that_never_held_a_record_are_not_lost(store, folder):
    """Transactions' markers, between packs that the log had deleted; seen again by whoever reads the files later."""
    store.append("fashion", "pi-a", [(0, pack(0)), (9, pack(4))], [(1, 9)], empty=[(4, 9)])
    for each in (store, open_archive(folder)):
        (summary,) = each.summaries()
        assert (summary.next, summary.lost) == (10, 3)
    assert list(store.verify()) == []


def test_a_file_of_another_version_stays_where_it_is_and_its_source_waits(store, folder, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(parquet_file, "_SCHEMA_VERSION", "archive/3")
        store.append("fashion", "pi-a", [(0, pack(0))])
    store.append("fashion", "pi-b", [(0, pack(0, device="cam-b"))])
    again = open_archive(folder)

    for act in (lambda: again.end("fashion", "pi-a"), lambda: again.append("fashion", "pi-a", [(1, pack(4))])):
        with pytest.raises(StorageError, match="not archive/2 but 'archive/3', of another version") as raised:
            act()
        assert not isinstance(raised.value, CorruptFileError)  # which would be set aside, or passed
    assert again.end("fashion", "pi-b").next_offset == 1
    assert again.snapshot("fashion").rows.tolist() == [4]
    assert [each.kind for each in again.verify()] == ["version"]


def test_a_place_is_tried_out_once_before_it_is_written_to(log_lines):
    place = MemoryPlace()
    store = ParquetStore(place.store())
    store.create("lab")
    place.replaces = True
    with pytest.raises(ArchiveUnavailable, match="does not honour If-None-Match"):
        store.remove_leftovers("fashion", "pi-a")

    place.replaces = False
    store.remove_leftovers("fashion", "pi-a")
    place.replaces = True
    store.remove_leftovers("fashion", "pi-a")
    assert not log_lines("archive.place")


def test_what_people_should_know_of_a_place_is_said_once(monkeypatch, log_lines):
    monkeypatch.setattr(Store, "probe", lambda _self: ("it keeps object versions",))
    store = ParquetStore(MemoryPlace().store())
    store.create("lab")
    for _ in range(2):
        store.remove_leftovers("fashion", "pi-a")
    assert [line["reason"] for line in log_lines("archive.place")] == ["it keeps object versions"]
