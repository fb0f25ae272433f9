"""A source grows by whole, durable files at its end, whoever else writes; a writer that slept brings nothing back."""

import errno
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edged.adapters.memory.objects import MemoryPlace
from edged.adapters.objects.store import Store
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive import index_codec, layout
from edged.domain.archive.floor import Floor, encode
from edged.domain.archive.layout import SEGMENT
from edged.domain.archive.segment_index import MAX_TAIL
from edged.errors import ArchiveConflict, ArchiveFull, ArchiveUnavailable, StorageError
from tests.support.archive_samples import file_name, open_archive, pack, parquet_files, read_packs


def test_a_file_is_named_by_its_first_offset_in_its_segment(store, folder):
    store.append("fashion", "pi-a", [(SEGMENT + 40, pack(0)), (SEGMENT + 41, pack(4))])

    assert parquet_files(folder) == [f"fashion/pi-a/{1:015d}/{file_name(SEGMENT + 40)}"]


def test_a_kill_at_any_step_leaves_whole_files_or_none(store, folder):
    """Of publishing a file, an index, and a source's first one; then the same is appended again."""
    store.append("fashion", "pi-a", [(0, pack(0))])
    copies = folder.with_name("killed-")
    script = [sys.executable, "-m", "tests.support.archive_crash", "append", str(folder), str(copies)]
    subprocess.run(script, check=True, cwd=Path(__file__).parents[3])
    outcomes = []
    for target in sorted(folder.parent.glob("killed-*"), key=lambda each: int(each.name.rpartition("-")[2])):
        after = open_archive(target)
        ends = after.ends("fashion")
        assert list(after.verify()) == []
        outcomes.append((ends["pi-a"], ends.get("pi-b", 0)))

        for source in ("pi-a", "pi-b"):
            after.remove_leftovers("fashion", source)
        if ends["pi-a"] == 1:
            after.append("fashion", "pi-a", [(1, pack(4)), (SEGMENT - 1, pack(8))], [(2, SEGMENT - 1)])
        if ends["pi-a"] <= SEGMENT:
            after.append("fashion", "pi-a", [(SEGMENT, pack(12))])
        if "pi-b" not in ends:
            after.append("fashion", "pi-b", [(0, pack(0))])
        assert [path for path in parquet_files(target) if "tmp" in path] == []
        for each in (after, open_archive(target)):
            assert read_packs(each, 0, 1, SEGMENT - 1, SEGMENT) == [pack(0), pack(4), pack(8), pack(12)]
            assert each.ends("fashion") == {"pi-a": SEGMENT + 1, "pi-b": 1}
    assert len(outcomes) > 40
    assert sorted(outcomes) == outcomes
    assert set(outcomes) == {(1, 0), (SEGMENT, 0), (SEGMENT + 1, 0), (SEGMENT + 1, 1)}


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, ArchiveFull), (errno.EDQUOT, ArchiveFull), (errno.EIO, StorageError)]
)
@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_refusing_disk_is_reported_and_nothing_is_left_behind(store, folder, monkeypatch, code, kind, call):
    store.append("fashion", "pi-a", [(0, pack(0))])
    before = parquet_files(folder)

    def refuse(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(kind, match="fashion/pi-a"):
            store.append("fashion", "pi-a", [(1, pack(4))])
        assert parquet_files(folder) == before
    store.append("fashion", "pi-a", [(1, pack(4))])

    assert read_packs(store, 0, 1) == [pack(0), pack(4)]


def test_a_file_whose_answer_was_lost_is_found_again():
    place = MemoryPlace()
    store = archive(place)
    store.append("fashion", "pi-a", [(0, pack(0))])
    place.loses_answers = True

    store.append("fashion", "pi-a", [(1, pack(4)), (2, pack(8))])

    assert read_packs(store, 0, 1, 2) == [pack(0), pack(4), pack(8)]
    assert list(store.verify()) == []


def archive(place: MemoryPlace, writer: str = "arc-1") -> ParquetStore:
    """An archive there, as another node sees it."""
    store = ParquetStore(place.store(writer))
    store.create("lab")
    return store


def test_files_are_indexed_and_found_again_by_the_index_alone():
    place = MemoryPlace()
    store = archive(place)
    number = 2 * MAX_TAIL + 5
    for offset in range(number):
        store.append("fashion", "pi-a", [(offset, pack(4 * offset))])
    name = f"fashion/pi-a/{0:015d}/index/{2:020d}"
    assert len(index_codec.decode(place.objects[name], 0)) == 2 * MAX_TAIL

    again = archive(place)

    assert again.snapshot("fashion").offset.tolist() == list(range(number))
    assert again.snapshot("fashion").rows.tolist() == [4] * number
    assert again.end("fashion", "pi-a")[:2] == (number, {"cam-01/0": 4 * number})
    assert read_packs(again, 0, number - 1, 7) == [pack(0), pack(4 * number - 4), pack(28)]
    assert list(again.verify()) == []


def test_a_segments_index_is_complete_before_the_next_one_begins():
    """Also where a file reaches beyond its segment."""
    place = MemoryPlace()
    store = archive(place)
    ends = [0, 10, SEGMENT - 3, SEGMENT + 2, SEGMENT + 5, 3 * SEGMENT, 3 * SEGMENT + 1]
    for first, end in itertools.pairwise(ends):
        gaps = [(first + 1, end)] if end > first + 1 else []
        store.append("fashion", "pi-a", [(first, pack(4 * first))], gaps)

    for each in (store, archive(place)):
        assert each.snapshot("fashion").offset.tolist() == ends[:-1]
        assert read_packs(each, *ends[:-1]) == [pack(4 * first) for first in ends[:-1]]
        assert each.ends("fashion") == {"pi-a": ends[-1]}
        assert list(each.verify()) == []
    indexes = sorted(name for name in place.objects if "/index/" in name)
    assert [name.split("/")[2] for name in indexes] == [f"{0:015d}", f"{1:015d}"]
    store.append("fashion", "pi-a", [(ends[-1], pack(0))])


def test_appending_lists_no_folder_of_files(monkeypatch):
    place = MemoryPlace()
    store = archive(place)
    store.append("fashion", "pi-a", [(0, pack(0))])
    really = Store.list
    listed: list[str] = []

    def list_noted(self, folder, *args):
        listed.append(folder)
        return really(self, folder, *args)

    monkeypatch.setattr(Store, "list", list_noted)

    store.append("fashion", "pi-a", [(1, pack(4))])

    assert {folder.rpartition("/")[2] for folder in listed} == {"index", "floor"}, "folders of at most eight versions"


def put(place: MemoryPlace, name: str, content: bytes) -> None:
    """As another node does meanwhile."""
    assert place.store("arc-2").publish(name, [content])


def packed(place: MemoryPlace) -> None:
    """What compaction and retention do with the only tail file of a source: it is in a packed one by now, and gone."""
    other = archive(place, "arc-2")
    other.append("fashion", "pi-a", [(1, pack(4)), (2, pack(8))])
    for offset in range(3, 3 + MAX_TAIL):
        other.append("fashion", "pi-a", [(offset, pack(4 * offset))])
    place.objects.pop(f"fashion/pi-a/{0:015d}/{file_name(1)}")


def forgotten(place: MemoryPlace) -> None:
    """What retention does: it raises the floor above what a writer is about to write, and all below it goes."""
    packed(place)
    place.store("arc-2").replace("fashion/pi-a/floor", encode(Floor(5)), 1)
    for name in [name for name in place.objects if "/index/" in name]:
        place.objects.pop(name)


def test_an_outage_is_no_damage_and_hides_nothing_afterwards(log_lines):
    """Of a source that was read before, and of one that was not."""
    place = MemoryPlace()
    store = archive(place)
    for source in ("pi-a", "pi-b"):
        store.append("fashion", source, [(0, pack(0)), (1, pack(4))])
    again = archive(place)
    for outage in ("the connection broke", ""):
        place.outage = outage
        for each in (store, again) if outage else ():
            for attempt in (
                lambda each=each: each.snapshot("fashion"),
                lambda each=each: each.end("fashion", "pi-a"),
                lambda each=each: each.append("fashion", "pi-a", [(2, pack(8))]),
                lambda each=each: read_packs(each, 0, 1),
            ):
                with pytest.raises(ArchiveUnavailable, match="the connection broke"):
                    attempt()
    for each in (store, again):
        assert each.snapshot("fashion").num_blocks == 4
        assert read_packs(each, 0, 1) == [pack(0), pack(4)]
    assert not log_lines("archive.unreadable")


@pytest.mark.parametrize("meanwhile", [packed, forgotten])
def test_a_writer_that_slept_across_compaction_and_retention_brings_nothing_back(meanwhile, monkeypatch):
    place = MemoryPlace()
    store = archive(place)
    store.append("fashion", "pi-a", [(0, pack(0))])
    really = Store.publish
    has_slept: list[str] = []

    def publish(self, name, pieces):
        if name.endswith(file_name(1)) and not has_slept:
            has_slept.append(name)
            meanwhile(place)
        return really(self, name, pieces)

    monkeypatch.setattr(Store, "publish", publish)
    with pytest.raises(ArchiveConflict, match=f"continues at offset {3 + MAX_TAIL}, not at 1"):
        store.append("fashion", "pi-a", [(1, pack(4))])

    assert has_slept
    assert f"fashion/pi-a/{0:015d}/{file_name(1)}" not in place.objects
    assert store.end("fashion", "pi-a").next_offset == 3 + MAX_TAIL
    store.append("fashion", "pi-a", [(3 + MAX_TAIL, pack(0))])


def test_a_writer_that_slept_while_its_source_was_begun_elsewhere_goes_on_where_that_ends():
    place = MemoryPlace()
    one, other = archive(place), archive(place, "arc-2")
    assert one.end("fashion", "pi-a").next_offset == 0
    other.append("fashion", "pi-a", [(7, pack(0))])

    with pytest.raises(ArchiveConflict, match="continues at offset 8, not at 0"):
        one.append("fashion", "pi-a", [(0, pack(0))])


def test_files_set_aside_are_not_brought_back_by_who_did_not_know(monkeypatch):
    place = MemoryPlace()
    one, other = archive(place), archive(place, "arc-2")
    for offset in range(2):
        one.append("fashion", "pi-a", [(offset, pack(4 * offset))])
    really = Store.publish
    has_slept: list[str] = []

    def publish(self, name, pieces):
        if name.endswith(file_name(2)) and not has_slept:
            has_slept.append(name)
            other.set_aside("fashion", "pi-a", 1)
        return really(self, name, pieces)

    monkeypatch.setattr(Store, "publish", publish)
    with pytest.raises(ArchiveConflict, match="continues at offset 1, not at 2"):
        one.append("fashion", "pi-a", [(2, pack(8))])

    assert one.end("fashion", "pi-a").next_offset == 1
    assert f"fashion/pi-a/{0:015d}/{file_name(2)}" not in place.objects


def test_two_writers_that_fight_for_a_source_archive_every_block_once():
    """Each as an archiver does: what is next by the archive, in files of its own lengths, until a hundred conflicts."""
    place = MemoryPlace()
    archive(place)
    conflicts: list[int] = []
    deaths: list[Exception] = []

    def fight(writer: str, length: int) -> None:
        store = ParquetStore(place.store(writer))
        end = 0
        while len(conflicts) < 100 and end < 600 and not deaths:
            try:
                store.append("fashion", "pi-a", [(offset, pack(4 * offset)) for offset in range(end, end + length)])
                end += length
            except ArchiveConflict:
                conflicts.append(end)
                end = store.end("fashion", "pi-a").next_offset
            except Exception as error:  # noqa: BLE001 - for the test's own thread
                deaths.append(error)

    threads = [threading.Thread(target=fight, args=(name, length)) for name, length in (("arc-1", 2), ("arc-2", 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not deaths
    again = archive(place)
    end = again.ends("fashion")["pi-a"]
    assert again.snapshot("fashion").offset.tolist() == list(range(end))
    assert read_packs(again, *range(end)) == [pack(4 * offset) for offset in range(end)]
    assert again.end("fashion", "pi-a").cursors == {"cam-01/0": 4 * end}
    assert list(again.verify()) == []
    assert len(conflicts) >= 100 or end >= 600


def test_nobody_is_needed_to_know_which_segment_is_the_newest(store, folder):
    """A folder that somebody made, named like a segment far away."""
    store.append("fashion", "pi-a", [(0, pack(0))])
    (folder / "fashion" / "pi-a" / layout.segment_name(77)).mkdir()
    again = open_archive(folder)
    again.append("fashion", "pi-a", [(1, pack(4))])
    assert read_packs(open_archive(folder), 0, 1) == [pack(0), pack(4)]
