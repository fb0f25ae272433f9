"""The contract of `ports.ArchiveStore`, on the fake and on Parquet files, local and foreign."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edged.adapters.memory.archive import MemoryArchive
from edged.adapters.memory.objects import MemoryPlace
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive import quarantine
from edged.domain.archive.quarantine import QuarantineRecord
from edged.domain.archive.snapshot import QUARANTINE_SOURCE, BlockRef
from edged.domain.place import Place
from edged.domain.samples.columns import PackColumns
from edged.domain.samples.pack import Pack, of_columns
from edged.errors import ArchiveConflict, BlockAbsent, StorageError
from edged.ports import MAX_KEPT_RECORDS, ArchiveStore
from tests.support.archive_samples import new_archive, pack


def in_memory() -> ParquetStore:
    store = ParquetStore(MemoryPlace().store())
    store.create("lab")
    return store


@pytest.fixture(params=["memory", "parquet on a local disk", "parquet on another file system"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArchiveStore:
    makers: dict[str, Callable[[], ArchiveStore]] = {
        "memory": MemoryArchive,
        "parquet on a local disk": lambda: new_archive(tmp_path / "archive"),
        "parquet on another file system": in_memory,
    }
    return makers[request.param]()


def read_all(store: ArchiveStore, stream: str = "fashion") -> dict[BlockRef, Pack]:
    snapshot = store.snapshot(stream)
    return dict(store.read(stream, [snapshot.ref(block) for block in range(snapshot.num_blocks)]))


def test_a_new_archive_is_empty(store):
    assert store.ends("fashion") == {}
    assert store.end("fashion", "pi-a").cursors == {}
    snapshot = store.snapshot("fashion")
    assert (snapshot.num_blocks, snapshot.num_samples, snapshot.sources, snapshot.ends) == (0, 0, (), {})


def test_appended_packs_are_read_back(store):
    blocks = [(0, pack(0)), (1, pack(4, 3)), (2, pack(7, 256))]
    store.append("fashion", "pi-a", blocks[:2])
    store.append("fashion", "pi-a", blocks[2:])

    assert read_all(store) == {BlockRef("pi-a", offset): block for offset, block in blocks}
    assert store.ends("fashion") == {"pi-a": 3}


def test_blocks_are_read_in_the_requested_order_as_often_as_requested(store):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    store.append("fashion", "pi-b", [(0, pack(100))])
    store.append("fashion", "pi-a", [(2, pack(8))])
    refs = [BlockRef("pi-a", 2), BlockRef("pi-b", 0), BlockRef("pi-a", 0), BlockRef("pi-a", 2)]

    found = list(store.read("fashion", refs))

    assert [ref for ref, _ in found] == refs
    assert [block.samples[0].offset for _, block in found] == [8, 100, 0, 8]


def test_a_snapshot_lists_blocks_by_source_and_offset(store):
    store.append("fashion", "pi-b", [(0, pack(0, 2))])
    store.append("fashion", "pi-a", [(0, pack(0, 5)), (1, pack(5, 1))])

    snapshot = store.snapshot("fashion")

    assert snapshot.sources == ("pi-a", "pi-b")
    assert snapshot.source.tolist() == [0, 0, 1]
    assert snapshot.offset.tolist() == [0, 1, 0]
    assert snapshot.rows.tolist() == [5, 1, 2]
    assert snapshot.num_bytes.tolist() == [b.num_bytes for b in (pack(0, 5), pack(5, 1), pack(0, 2))]
    assert snapshot.ends == {"pi-a": 2, "pi-b": 1}
    assert {str(column.dtype) for column in (snapshot.source, snapshot.offset, snapshot.rows, snapshot.num_bytes)} == {
        "int64"
    }


def test_a_snapshot_can_be_requested_again_after_the_archive_has_grown(store):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    before = store.snapshot("fashion")
    store.append("fashion", "pi-a", [(2, pack(8))])
    store.append("fashion", "pi-b", [(0, pack(0))])

    again = store.snapshot("fashion", before.ends)

    assert (again.sources, again.ends) == (before.sources, before.ends)
    assert again.offset.tolist() == before.offset.tolist()
    assert store.snapshot("fashion", {"pi-a": 1}).offset.tolist() == [0]
    assert store.snapshot("fashion", {"pi-a": 99}).ends == {"pi-a": 3}


def test_streams_do_not_mix(store):
    store.append("fashion", "pi-a", [(0, pack(0))])
    store.append("birds", "pi-a", [(0, pack(50, stream="birds"))])

    assert store.ends("birds") == {"pi-a": 1}
    assert read_all(store, "birds") == {BlockRef("pi-a", 0): pack(50, stream="birds")}


def test_a_block_without_samples_is_a_block(store):
    empty = Pack("fashion", (), {"cam-01/0": Place(7)})
    store.append("fashion", "pi-a", [(0, empty)])
    store.append("fashion", "pi-a", [(1, pack(7, 2)), (2, empty), (3, pack(9, 1))])

    assert store.snapshot("fashion").rows.tolist() == [0, 2, 0, 1]
    assert read_all(store)[BlockRef("pi-a", 0)] == empty
    assert read_all(store)[BlockRef("pi-a", 3)] == pack(9, 1)


def test_cursors_are_the_highest_of_all_packs(store):
    store.append("fashion", "pi-a", [(0, replace(pack(0, 4), cursors={"cam-01/0": Place(4), "cam-02/0": Place(9)}))])
    store.append("fashion", "pi-a", [(1, Pack("fashion", ()))])
    store.append("fashion", "pi-a", [(2, replace(pack(4, 2), cursors={"cam-01/0": Place(5), "cam-02/0": Place(8)}))])

    assert store.end("fashion", "pi-a").cursors == {"cam-01/0": 6, "cam-02/0": 9}
    assert store.end("fashion", "pi-b").cursors == {}


def test_a_source_may_begin_anywhere(store):
    store.append("fashion", "pi-a", [(40, pack(0)), (41, pack(4))])

    assert store.ends("fashion") == {"pi-a": 42}
    assert store.snapshot("fashion").offset.tolist() == [40, 41]


@pytest.mark.parametrize("first", [0, 1, 3])
def test_a_file_that_does_not_continue_at_the_archives_end_is_a_conflict(store, first):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])

    with pytest.raises(ArchiveConflict, match="continues at offset 2"):
        store.append("fashion", "pi-a", [(first, pack(8))])

    assert store.ends("fashion") == {"pi-a": 2}


def test_the_last_file_may_be_appended_again(store):
    store.append("fashion", "pi-a", [(0, pack(0))])
    for _ in range(2):
        store.append("fashion", "pi-a", [(1, pack(4)), (2, pack(8))])

    assert store.snapshot("fashion").offset.tolist() == [0, 1, 2]
    assert store.end("fashion", "pi-a").cursors == {"cam-01/0": 12}


@pytest.mark.parametrize(
    ("offsets", "gaps"), [([0, 2], []), ([1, 0], []), ([0, 0], []), ([0], [(2, 3)]), ([0, 1], [(1, 2)]), ([], [(0, 1)])]
)
def test_packs_that_are_not_contiguous_are_refused(store, offsets, gaps):
    with pytest.raises(ValueError, match=r"contiguous|order"):
        store.append("fashion", "pi-a", [(offset, pack(offset)) for offset in offsets], gaps)

    assert store.ends("fashion") == {}


def test_a_known_gap_holds_no_blocks_and_the_archive_continues_after_it(store):
    store.append("fashion", "pi-a", [(0, pack(0))])
    store.append("fashion", "pi-a", [(5, pack(4)), (9, pack(8))], [(1, 5), (6, 9)])

    assert store.snapshot("fashion").offset.tolist() == [0, 5, 9]
    assert store.ends("fashion") == {"pi-a": 10}
    with pytest.raises(StorageError):
        list(store.read("fashion", [BlockRef("pi-a", 3)]))


@pytest.mark.parametrize("ref", [BlockRef("pi-a", 2), BlockRef("pi-c", 0), BlockRef("pi-a", 1 << 62)])
def test_reading_a_missing_block_fails_and_names_it(store, ref):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])

    with pytest.raises(StorageError, match=f"{ref.source}.*{ref.offset}"):
        list(store.read("fashion", [ref]))


def test_blocks_before_an_unreadable_one_are_read(store):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    blocks = iter(store.read("fashion", [BlockRef("pi-a", 1), BlockRef("pi-a", 2)]))

    assert next(blocks) == (BlockRef("pi-a", 1), pack(4))
    with pytest.raises(StorageError):
        next(blocks)


def test_reading_each_gives_an_error_in_place_of_an_absent_block(store):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    refs = [BlockRef("pi-a", 1), BlockRef("pi-a", 2), BlockRef("pi-c", 0), BlockRef("", 0), BlockRef("pi-a", 0)]

    found = list(store.read_each("fashion", refs))

    assert [ref for ref, _ in found] == refs
    assert [of_columns(block) for _, block in found if isinstance(block, PackColumns)] == [pack(4), pack(0)]
    assert [type(block) for _, block in found[1:4]] == [BlockAbsent] * 3


def test_a_block_that_is_archived_later_is_found(store):
    store.append("fashion", "pi-a", [(0, pack(0))])
    assert isinstance(dict(store.read_each("fashion", [BlockRef("pi-a", 1)]))[BlockRef("pi-a", 1)], BlockAbsent)

    store.append("fashion", "pi-a", [(1, pack(4))])

    assert dict(store.read("fashion", [BlockRef("pi-a", 1)])) == {BlockRef("pi-a", 1): pack(4)}


def test_files_set_aside_count_no_more_and_their_range_can_be_archived_again(store):
    for offset in range(3):
        store.append("fashion", "pi-a", [(offset, pack(4 * offset))])

    store.set_aside("fashion", "pi-a", 1)

    assert store.end("fashion", "pi-a")[:4] == (1, {"cam-01/0": 4}, 1, "")
    store.append("fashion", "pi-a", [(1, pack(4)), (2, pack(8))])
    assert store.snapshot("fashion").rows.tolist() == [4, 4, 4]


def test_removing_leftovers_leaves_the_blocks(store):
    store.append("fashion", "pi-a", [(0, pack(0))])
    store.remove_leftovers("fashion", "pi-a")
    store.remove_leftovers("fashion", "pi-new")

    assert read_all(store) == {BlockRef("pi-a", 0): pack(0)}


def quarantined(store: ArchiveStore, ends: dict[str, int] | None = None) -> list[str]:
    snapshot = store.snapshot("fashion", ends)
    return [f"{snapshot.ref(block)[1]}/{first}-{end}" for block, first, end in snapshot.quarantined.tolist()]


def test_a_snapshot_has_in_quarantine_what_the_records_below_its_end_say(store):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4)), (2, pack(8))])
    one, whole = BlockRef("pi-a", 1), BlockRef("pi-a", 2)
    records = [
        [QuarantineRecord("quarantine", one, 2, "me", 1), QuarantineRecord("quarantine", whole, None, "me", 2)],
        [QuarantineRecord("release", one, 2, "you", 3)],
    ]
    for end, said in enumerate(records):
        store.append("fashion", QUARANTINE_SOURCE, [(end, quarantine.to_pack("fashion", said))])

    now = store.snapshot("fashion")
    assert now.ends == {"pi-a": 3, QUARANTINE_SOURCE: 2}
    assert now.sources == ("pi-a",)
    assert now.num_samples == 12
    assert quarantined(store) == ["2/0-4"]
    assert quarantined(store, {"pi-a": 3, QUARANTINE_SOURCE: 1}) == ["1/2-3", "2/0-4"]
    assert quarantined(store, {"pi-a": 2, QUARANTINE_SOURCE: 1}) == ["1/2-3"]
    assert quarantined(store, {"pi-a": 3}) == []
    assert store.quarantine_records("fashion") == records[0] + records[1]
    assert store.quarantine_records("fashion", 1) == records[0]
    assert store.quarantine_records("birds") == []


def test_a_snapshot_is_refused_when_the_quarantine_cannot_be_read(store):
    store.append("fashion", "pi-a", [(0, pack(0))])
    store.append("fashion", QUARANTINE_SOURCE, [(0, pack(0))])
    with pytest.raises(StorageError, match="not a record of the quarantine"):
        store.snapshot("fashion")
    assert store.snapshot("fashion", {"pi-a": 1}).num_samples == 4


def test_a_devices_record_is_found_wherever_it_is(store):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4)), (2, pack(0, device="cam-02"))])
    store.append("fashion", "pi-a", [(3, pack(8))])
    store.append("fashion", "pi-b", [(0, pack(9))])

    assert store.find("fashion", "cam-01", 0, 5) == [("pi-a", 1, 1)]
    assert store.find("fashion", "cam-02", 0, 3) == [("pi-a", 2, 3)]
    assert sorted(store.find("fashion", "cam-01", 0, 9)) == [("pi-a", 3, 1), ("pi-b", 0, 0)]
    assert store.find("fashion", "cam-01", 1, 5) == []
    assert store.find("fashion", "cam-03", 0, 5) == []
    assert store.find("birds", "cam-01", 0, 5) == []


def test_records_that_are_not_archived_are_kept_within_bounds(store):
    kept = [store.keep_record("fashion", "pi-a", offset, b"record", "damaged") for offset in range(20)]
    assert all(kept[:MAX_KEPT_RECORDS])
    assert not any(kept[MAX_KEPT_RECORDS:])
    assert store.keep_record("fashion", "pi-a", 3, b"again", "damaged") == kept[3]
    assert store.keep_record("fashion", "pi-a", 20, b"record", "passed")
    assert store.keep_record("fashion", "pi-b", 20, b"record", "damaged")
    assert store.ends("fashion") == {}
