"""Compaction changes no block and no plan, whoever reads or writes meanwhile, and wherever it ends."""

import itertools
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest

from edged.adapters.memory.objects import MemoryPlace
from edged.adapters.parquet.compact import Compacted, Compaction
from edged.adapters.parquet.object_file import ObjectFile
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive import index_codec
from edged.domain.archive.layout import SEGMENT
from edged.domain.archive.retention import Limits
from edged.domain.archive.segment_index import MAX_TAIL, IndexedFile
from edged.domain.archive.source_log import SourceLog
from edged.domain.place import Place
from edged.errors import ArchiveConflict, StorageError
from tests.support.archive_clock import opened
from tests.support.archive_samples import pack, read_packs
from tests.support.object_stores import interrupted, meanwhile

NUMBER = 2 * MAX_TAIL + 3
DAY_S = 86_400.0
EMPTY = [(50_000, 50_010)]
LOG = SourceLog("a-log", 7, Place(9))
ENDLESS = Limits(size=1 << 40)
"""It indexes all files, and forgets none."""


@pytest.fixture
def place() -> MemoryPlace:
    """With an archive: a segment that is complete, with a gap, and the beginning of the next one."""
    place = MemoryPlace()
    store = ParquetStore(place.store("arc-1"))
    store.create("lab")
    for offset in range(NUMBER):
        store.append("fashion", "pi-a", [(offset, pack(4 * offset))], log=LOG)
    store.append("fashion", "pi-a", [(SEGMENT - 1, pack(0))], [(NUMBER, SEGMENT - 1)], log=LOG, empty=EMPTY)
    store.append("fashion", "pi-a", [(SEGMENT, pack(4))], log=LOG)
    return place


OFFSETS = [*range(NUMBER), SEGMENT - 1, SEGMENT]
PACKS = [*(pack(4 * offset) for offset in range(NUMBER)), pack(0), pack(4)]


def files(place: MemoryPlace) -> list[str]:
    return sorted(name.removeprefix("fashion/pi-a/") for name in place.objects if name.endswith(".parquet"))


def assert_same(store: ParquetStore) -> None:
    snapshot = store.snapshot("fashion")
    assert snapshot.offset.tolist() == OFFSETS
    assert snapshot.rows.tolist() == [4] * len(OFFSETS)
    assert snapshot.ends == {"pi-a": SEGMENT + 1}
    assert [(each.name, each.base) for each in snapshot.origins["pi-a"]] == [("a-log", 7)]
    assert read_packs(store, *OFFSETS) == PACKS
    (summary,) = store.summaries()
    assert (summary.samples, summary.lost, summary.next) == (4 * len(OFFSETS), SEGMENT - 1 - NUMBER - 10, SEGMENT + 1)
    end = store.end("fashion", "pi-a")
    assert (end.next_offset, end.log) == (SEGMENT + 1, LOG)
    assert end.cursors == {"cam-01/0": 4 * NUMBER}


def test_small_files_become_a_large_one_and_go_after_the_grace(place, clock):
    reader = opened(place, clock)
    assert_same(reader)
    before = files(place)

    found = list(opened(place, clock).compact(packed_bytes=1 << 20))

    assert [(each.first, each.next, each.files, each.deleted) for each in found] == [(0, SEGMENT, NUMBER + 1, 0)]
    packed = f"{0:015d}/{0:020d}-{SEGMENT:020d}.g1.parquet"
    assert files(place) == sorted([*before, packed])
    for store in (reader, opened(place, clock)):
        assert_same(store)
        assert list(store.verify()) == []

    clock.now_s += DAY_S - 1
    assert list(opened(place, clock).compact()) == []
    clock.now_s += 1
    assert [each.deleted for each in opened(place, clock).compact()] == [NUMBER + 1]
    assert files(place) == [packed, f"{1:015d}/{SEGMENT:020d}.parquet"]
    for store in (reader, opened(place, clock)):
        assert_same(store)
        assert list(store.verify()) == []
    assert list(opened(place, clock).compact()) == []


def test_the_files_that_count_have_each_block_once(place, clock):
    store = opened(place, clock)
    for _ in range(2):
        tables = [
            pq.read_table(ObjectFile(place.store(), name, len(place.objects[name]))) for name in store.files("fashion")
        ]
        assert [offset for table in tables for offset in table.column("offset").to_pylist()[::4]] == OFFSETS
        list(opened(place, clock).compact(packed_bytes=1 << 20))


def test_a_packed_file_is_one_that_any_parquet_reader_reads(place, clock):
    list(opened(place, clock).compact())
    name = f"fashion/pi-a/{0:015d}/{0:020d}-{SEGMENT:020d}.g1.parquet"
    table = pq.read_table(ObjectFile(place.store(), name, len(place.objects[name])))
    assert table.column("offset").to_pylist() == np.repeat(OFFSETS[:-1], 4).tolist()


def test_files_of_a_segment_that_still_grows_are_packed_when_they_are_large_together(place, clock):
    store = opened(place, clock)
    for offset in range(SEGMENT + 1, SEGMENT + 1 + 2 * MAX_TAIL):
        store.append("fashion", "pi-a", [(offset, pack(0))], log=LOG)
    index = index_codec.decode(place.objects[f"fashion/pi-a/{1:015d}/index/{2:020d}"], 1)
    some = int(index.size[:10].sum())

    found = list(opened(place, clock, "arc-3").compact(packed_bytes=some))

    of_newest = [each for each in found if each.first >= SEGMENT]
    assert of_newest
    assert all(each.files > 1 for each in of_newest)
    store.append("fashion", "pi-a", [(SEGMENT + 1 + 2 * MAX_TAIL, pack(0))], log=LOG)
    assert store.snapshot("fashion").num_blocks == len(OFFSETS) + 2 * MAX_TAIL + 1
    assert list(opened(place, clock).verify()) == []


def test_a_writer_that_slept_longer_than_the_grace_knows_its_cursors(place, clock):
    """Its newest file is in a packed one by now, and is deleted."""
    store = opened(place, clock)
    first = SEGMENT + 1
    for offset in range(first, first + MAX_TAIL):
        store.append("fashion", "pi-a", [(offset, pack(1_000 + 4 * offset))], log=LOG)
    other = opened(place, clock, "arc-3")
    list(other.compact(packed_bytes=1))
    list(other.compact(packed_bytes=1 << 30))
    clock.now_s += DAY_S
    list(other.compact())

    store.append("fashion", "pi-a", [(first + MAX_TAIL, pack(0, 1, device="cam-02"))], log=LOG)

    assert opened(place, clock).end("fashion", "pi-a").cursors == {
        "cam-01/0": 1_000 + 4 * (first + MAX_TAIL),
        "cam-02/0": 1,
    }


def test_files_set_aside_bring_back_what_they_had_replaced_and_it_is_not_deleted(place, clock):
    store = opened(place, clock)
    list(store.compact(packed_bytes=1 << 20))
    name = f"fashion/pi-a/{0:015d}/{0:020d}-{SEGMENT:020d}.g1.parquet"
    place.cut(name, 100)
    store.set_aside("fashion", "pi-a", 0)
    clock.now_s += 2 * DAY_S
    list(store.compact(packed_bytes=1))

    again = opened(place, clock)
    assert again.snapshot("fashion").offset.tolist() == OFFSETS[:-1]
    assert read_packs(again, *OFFSETS[:-1]) == PACKS[:-1]


def test_a_compaction_that_ends_at_any_step_leaves_each_block_once_and_is_begun_again(clock, monkeypatch):
    """Before each change that it makes at the place, and behind it."""
    offsets = [0, 1, 2, SEGMENT - 1, SEGMENT]
    for fatal in itertools.count(1):
        place = MemoryPlace()
        store = opened(place, clock)
        store.create("lab")
        for offset in offsets:
            store.append("fashion", "pi-a", [(offset, pack(offset))], [(3, offset)] if offset == SEGMENT - 1 else [])
        with interrupted(monkeypatch, fatal) as steps:
            try:
                list(opened(place, clock).compact(grace_s=0))
            except KeyboardInterrupt:
                pass
            else:
                break
        for _ in range(2):
            again = opened(place, clock)
            assert again.snapshot("fashion").offset.tolist() == offsets
            assert read_packs(again, *offsets) == [pack(offset) for offset in offsets]
            assert {each.kind for each in again.verify()} <= {"ignored"}
            list(again.compact(grace_s=0))
    assert steps.taken > 12


def test_files_that_are_forgotten_and_deleted_while_they_are_packed_are_left_out(place, clock, monkeypatch):
    """On a full disk they go at once."""
    really, forgetting = Compaction._pack, opened(place, clock, "arc-3")

    def pack_late(compaction: Compaction, files: Sequence[IndexedFile], used: Collection[str]) -> IndexedFile:
        if len(place.objects) == num_objects:
            list(forgetting.retain("fashion", Limits(size=0), grace_s=0, is_certain=True))
        return really(compaction, files, used)

    num_objects = len(place.objects)
    monkeypatch.setattr(Compaction, "_pack", pack_late)
    list(opened(place, clock).compact(grace_s=0))

    store = opened(place, clock)
    assert store.snapshot("fashion").offset.tolist() == [SEGMENT]
    assert list(store.verify()) == []


def test_what_was_left_half_done_in_any_segment_is_swept(place, clock):
    name = ".a-packed-file.tmp-arc-2-01234567-0"
    for folder in (f"{0:015d}", f"{0:015d}/index", f"{1:015d}"):
        place.objects[f"fashion/pi-a/{folder}/{name}"] = b"half of it"
    list(opened(place, clock).compact())
    assert [each for each in place.objects if each.endswith(name)] == []


def test_of_two_that_pack_the_same_neither_deletes_the_others_file(clock, monkeypatch):
    """The index grows while one packs; at each later step of its, another one packs, and needs the file."""
    for step in itertools.count(2):
        place = MemoryPlace()
        writer = opened(place, clock)
        writer.create("lab")
        for offset in range(6):
            writer.append("fashion", "pi-a", [(offset, pack(4 * offset))])
        list(writer.retain("fashion", ENDLESS))

        def extend(writer: ParquetStore = writer) -> None:
            writer.append("fashion", "pi-a", [(6, pack(24))])
            list(writer.retain("fashion", ENDLESS))

        def compact(place: MemoryPlace = place) -> None:
            list(opened(place, clock, "arc-4").compact(packed_bytes=12_000))

        with meanwhile(monkeypatch, {1: extend, step: compact}) as steps:
            list(opened(place, clock, "arc-3").compact(packed_bytes=12_000))
        if steps.taken < step:
            break
        offsets = range(7)
        for _ in range(2):
            again = opened(place, clock)
            assert again.snapshot("fashion").offset.tolist() == [*offsets]
            assert read_packs(again, *offsets) == [pack(4 * offset) for offset in offsets]
            assert list(again.verify()) == []
            clock.now_s += DAY_S
            list(again.compact(packed_bytes=12_000))
    assert step > 4


def write_until_200(store: ParquetStore, length: int) -> None:
    """As an archiver does: what is next by the archive, in files of its own length."""
    end = 0
    while end < 200:
        try:
            store.append("fashion", "pi-a", [(offset, pack(4 * offset)) for offset in range(end, end + length)])
            end += length
        except ArchiveConflict:
            end = store.end("fashion", "pi-a").next_offset


def read_some(store: ParquetStore) -> None:
    offsets = store.snapshot("fashion").offset.tolist()
    assert offsets == list(range(len(offsets)))
    some = offsets[:: max(1, len(offsets) // 7)]
    assert read_packs(store, *some) == [pack(4 * offset) for offset in some]


def test_compaction_and_two_writers_and_a_reader_at_once_lose_and_double_nothing(clock):
    place = MemoryPlace()
    ParquetStore(place.store("arc-1")).create("lab")
    is_over = threading.Event()

    def until_it_is_over(act: Callable[[], object]) -> None:
        while not is_over.is_set():
            act()

    reader, compacting = opened(place, clock, "arc-4"), opened(place, clock, "arc-3")
    with ThreadPoolExecutor(4) as threads:
        others = [
            threads.submit(until_it_is_over, lambda: list(compacting.compact(grace_s=0, packed_bytes=20_000))),
            threads.submit(until_it_is_over, lambda: read_some(reader)),
        ]
        writers = [threads.submit(write_until_200, opened(place, clock, f"arc-{n}"), n) for n in (1, 2)]
        try:
            for writer in writers:
                writer.result()
        finally:
            is_over.set()
        for other in others:
            other.result()

    again = opened(place, clock)
    end = again.ends("fashion")["pi-a"]
    assert end >= 200
    assert read_packs(again, *range(end)) == [pack(4 * offset) for offset in range(end)]
    assert {each.kind for each in again.verify()} <= {"ignored"}


def test_what_cannot_be_read_is_told_and_holds_up_no_other(place, clock):
    """Neither another segment nor another source."""
    store = opened(place, clock)
    for number in range(3):
        store.append(
            "fashion",
            "pi-b",
            [(number and SEGMENT + number, pack(4 * number))],
            [(1, SEGMENT + 1)] if number == 1 else [],
        )
    list(store.retain("fashion", ENDLESS))
    place.cut(f"fashion/pi-a/{0:015d}/{5:020d}.parquet", 900)
    steps = list(opened(place, clock).compact())
    assert [(step.source, step.first) for step in steps if step.refused] == [("pi-a", 0)]
    assert f"{5:020d}" in steps[0].refused
    assert [step.source for step in steps if step.files] == ["pi-b"]


def test_nothing_is_packed_or_forgotten_while_the_clock_is_not_set(place, clock):
    """The grace of what is replaced then would be over as soon as it is."""
    before, clock.now_s = dict(place.objects), 3_600.0
    store = opened(place, clock)
    for act in (store.compact, lambda: store.retain("fashion", Limits(size=1))):
        with pytest.raises(StorageError, match="clock is wrong"):
            list(act())
    assert place.objects == before


def test_what_a_step_did_is_told(place, clock):
    step = next(opened(place, clock).compact())
    assert isinstance(step, Compacted)
    assert (step.stream, step.source) == ("fashion", "pi-a")
    assert step.num_bytes == len(place.objects[f"fashion/pi-a/{0:015d}/{0:020d}-{SEGMENT:020d}.g1.parquet"])
