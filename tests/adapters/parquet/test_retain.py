"""What is forgotten is below a floor: never a hole, readable for the grace, and gone after it, wherever it ends."""

import asyncio
import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edged.adapters.memory.health import RecordingHealth
from edged.adapters.memory.objects import MemoryPlace
from edged.adapters.parquet.retrying import RetryingArchive
from edged.adapters.parquet.store import ParquetStore
from edged.aio import Backoff
from edged.domain.archive.layout import SEGMENT
from edged.domain.archive.retention import Deleted, Forgotten, Limits, Spared, Step
from edged.domain.archive.source_log import SourceLog
from edged.domain.place import Place
from edged.domain.samples.pack import Pack
from edged.errors import ArchiveConflict, BlockAbsent
from tests.support.archive_clock import Clock, opened
from tests.support.archive_samples import new_archive, open_archive, pack, read_packs, sample
from tests.support.object_stores import interrupted
from tests.support.small_disk import fill, mounted

DAY_S = 86_400.0
NUMBER = 6
OFFSETS = [*range(NUMBER), SEGMENT - 1, SEGMENT, SEGMENT + 1]
LOG = SourceLog("a-log", 7, Place(9))
EMPTY = [(NUMBER, SEGMENT - 1)]
WEEK = Limits(age_s=7 * DAY_S)


@pytest.fixture
def place(clock: Clock) -> MemoryPlace:
    """With an archive whose first files are two days older than the others, down to a second segment."""
    place = MemoryPlace()
    store = opened(place, clock, "arc-1")
    store.create("lab")
    for offset in range(NUMBER):
        store.append("fashion", "pi-a", [(offset, pack(4 * offset))], log=LOG)
    store.append("fashion", "pi-b", [(0, pack(0, device="cam-09"))])
    list(store.retain("fashion", WEEK))  # so that all of it has a time
    clock.now_s += 2 * DAY_S
    store.append("fashion", "pi-a", [(SEGMENT - 1, pack(0))], EMPTY, log=LOG, empty=EMPTY)
    for offset in (SEGMENT, SEGMENT + 1):
        store.append("fashion", "pi-a", [(offset, pack(4 * offset))], log=LOG)
    return place


def files(place: MemoryPlace, source: str = "pi-a") -> list[str]:
    return sorted(name for name in place.objects if name.startswith(f"fashion/{source}/") and ".parquet" in name)


def stored_bytes(place: MemoryPlace) -> int:
    return sum(len(place.objects[name]) for source in ("pi-a", "pi-b") for name in files(place, source))


def offsets(store: ParquetStore, source: str = "pi-a") -> list[int]:
    snapshot = store.snapshot("fashion")
    number = snapshot.sources.index(source)
    return [int(offset) for offset, at in zip(snapshot.offset, snapshot.source, strict=True) if at == number]


def retained(place: MemoryPlace, clock: Clock, limits: Limits = WEEK) -> list[Step]:
    return list(opened(place, clock).retain("fashion", limits))


def test_what_is_older_than_the_limit_counts_no_more_and_is_no_hole(place, clock):
    reader = opened(place, clock)
    assert offsets(reader) == OFFSETS
    clock.now_s += 5 * DAY_S
    steps = retained(place, clock)
    [forgotten] = [step for step in steps if isinstance(step, Forgotten)]
    assert forgotten.what[:3] == (NUMBER, NUMBER, 4 * NUMBER)
    assert (forgotten.source, forgotten.what.why) == ("pi-a", "age")
    assert len(steps) == 1  # nothing is deleted within the grace
    for store in (reader, opened(place, clock)):
        assert offsets(store) == OFFSETS[NUMBER:]
        assert offsets(store, "pi-b") == [0]  # a source's newest file stays
        assert [finding for finding in store.verify() if finding.kind != "aside"] == []
        (summary, _) = store.summaries()
        assert (summary.first, summary.samples, summary.files) == (NUMBER, 12, 3)
        assert summary.forgotten_bytes == forgotten.what.num_bytes
        assert len(list(store.files("fashion"))) == 4
        assert store.find("fashion", "cam-01", 0, 9) == []
    assert retained(place, clock) == []


def test_a_snapshot_in_use_stays_what_it_was_for_the_grace(place, clock):
    reader = opened(place, clock)
    before = reader.snapshot("fashion")
    clock.now_s += 5 * DAY_S
    retained(place, clock)
    between = opened(place, clock).snapshot("fashion")
    assert between.ends == {"_floor.pi-a": NUMBER, **before.ends}

    for store in (reader, opened(place, clock)):
        again = store.snapshot("fashion", before.ends)
        assert again.ends == before.ends
        assert again.offset.tolist() == before.offset.tolist()
        assert again.origins == before.origins
        assert read_packs(store, *OFFSETS[:3]) == [pack(0), pack(4), pack(8)]

    clock.now_s += DAY_S
    assert sum(step.files for step in retained(place, clock) if isinstance(step, Deleted)) == NUMBER
    for store in (reader, opened(place, clock)):
        again = store.snapshot("fashion", between.ends)
        assert (again.ends, again.offset.tolist()) == (between.ends, between.offset.tolist())
        assert store.snapshot("fashion").ends == before.ends
        with pytest.raises(BlockAbsent):
            read_packs(store, 0)


def test_a_snapshot_of_what_is_deleted_says_where_it_begins_now(place, clock):
    clock.now_s += 5 * DAY_S
    retained(place, clock)
    old = opened(place, clock).snapshot("fashion").ends
    clock.now_s += DAY_S
    retained(place, clock, Limits(size=1))
    clock.now_s += DAY_S
    retained(place, clock)
    assert opened(place, clock).snapshot("fashion", old).ends == {**old, "_floor.pi-a": SEGMENT + 1}


def test_by_size_all_but_the_newest_files_go_and_their_segments_with_them(place, clock):
    retained(place, clock, Limits(size=1))
    assert offsets(opened(place, clock)) == [SEGMENT + 1]
    clock.now_s += DAY_S
    retained(place, clock)
    assert files(place) == [f"fashion/pi-a/{1:015d}/{SEGMENT + 1:020d}.parquet"]
    assert [name for name in place.objects if name.startswith(f"fashion/pi-a/{0:015d}/")] == []
    store = opened(place, clock)
    assert list(store.verify()) == []
    store.append("fashion", "pi-a", [(SEGMENT + 2, pack(8))], log=LOG)
    end = store.end("fashion", "pi-a")
    assert (end.next_offset, end.cursors["cam-01/0"]) == (SEGMENT + 3, 4 * SEGMENT + 8)


def test_interrupted_anywhere_it_is_begun_again(place, clock, monkeypatch):
    """At each step that a reader or another node can see, of forgetting and of deleting."""
    clock.now_s += 5 * DAY_S
    for wait_s, left in ((0.0, NUMBER + 3), (DAY_S, 3)):
        clock.now_s += wait_s
        before = dict(place.objects)
        for fatal in itertools.count(1):
            place.objects = dict(before)
            with interrupted(monkeypatch, fatal) as steps:
                try:
                    retained(place, clock)
                except KeyboardInterrupt:
                    pass
                else:
                    break
            assert steps.taken == fatal
            store = opened(place, clock)
            assert offsets(store) in (OFFSETS, OFFSETS[NUMBER:])
            assert list(store.verify()) == []
            retained(place, clock)
            assert offsets(opened(place, clock)) == OFFSETS[NUMBER:]
            assert len(files(place)) == left
            assert list(opened(place, clock).verify()) == []
        assert fatal > 2
    assert retained(place, clock) == []


def test_a_writer_that_slept_through_it_brings_nothing_back(place, clock):
    """Neither a file, nor an index that was deleted."""
    writer = opened(place, clock, "arc-1")
    writer.ends("fashion")
    retained(place, clock, Limits(size=1))
    clock.now_s += DAY_S
    retained(place, clock)
    with pytest.raises(ArchiveConflict):
        writer.append("fashion", "pi-a", [(SEGMENT, pack(4 * SEGMENT))], log=LOG)
    writer.append("fashion", "pi-a", [(SEGMENT + 2, pack(8))], log=LOG)
    for store in (writer, opened(place, clock)):
        assert offsets(store) == [SEGMENT + 1, SEGMENT + 2]
        assert list(store.verify()) == []


def test_compaction_leaves_alone_what_is_forgotten(place, clock):
    retained(place, clock, Limits(size=stored_bytes(place) - 1))
    store = opened(place, clock)
    left = offsets(store)
    assert left == OFFSETS[1:]
    [packed] = [each for each in store.compact(packed_bytes=1 << 20) if each.files]
    assert (packed.first, packed.files) == (1, NUMBER)
    clock.now_s += DAY_S
    list(store.compact())
    retained(place, clock)
    assert len(files(place)) == 3
    assert offsets(opened(place, clock)) == left
    assert list(opened(place, clock).verify()) == []


def test_only_its_own_sources_are_looked_after_by_a_node(place, clock):
    clock.now_s += 5 * DAY_S
    assert list(opened(place, clock).retain("fashion", WEEK, lambda source: source != "pi-a")) == []
    assert offsets(opened(place, clock)) == OFFSETS


def test_a_dry_run_says_all_and_changes_nothing(place, clock):
    clock.now_s += 5 * DAY_S
    before = dict(place.objects)
    said = list(opened(place, clock).retain("fashion", WEEK, dry_run=True))
    assert place.objects == before
    assert said == retained(place, clock)


def test_what_cannot_be_looked_at_is_told_and_holds_up_no_other(place, clock):
    [index] = [name for name in place.objects if name.startswith(f"fashion/pi-a/{0:015d}/index/")][-1:]
    place.cut(index, 60)
    clock.now_s += 60 * DAY_S
    steps = retained(place, clock)
    assert [(step.source, "SHA-256" in step.reason) for step in steps if isinstance(step, Spared)] == [("pi-a", True)]


@pytest.mark.parametrize("act", ["retain", "make_room"])
def test_a_damaged_index_of_what_is_forgotten_keeps_nothing_and_holds_up_no_other(place, clock, act):
    retained(place, clock, Limits(size=1))
    [*_, index] = [name for name in place.objects if name.startswith(f"fashion/pi-a/{0:015d}/index/")]
    place.cut(index, 60)
    clock.now_s += DAY_S
    steps = retained(place, clock) if act == "retain" else list(opened(place, clock).make_room(1 << 40))
    assert [step for step in steps if isinstance(step, Spared)] == []
    assert len(files(place)) == 1
    assert [name for name in place.objects if name.startswith(f"fashion/pi-a/{0:015d}/")] == []


def test_a_forgotten_segment_of_another_version_holds_up_no_other(place, clock):
    """It may be more than this version knows."""
    store = opened(place, clock)
    store.append("fashion", "pi-b", [(1, pack(4, device="cam-09"))])
    retained(place, clock, Limits(size=1))
    [*_, index] = [name for name in place.objects if name.startswith(f"fashion/pi-a/{0:015d}/index/")]
    place.objects[index] = place.objects[index].replace(b"archive_index/1", b"archive_index/9")
    clock.now_s += DAY_S
    steps = retained(place, clock)
    assert [step.source for step in steps if isinstance(step, Spared)] == ["pi-a"]
    assert [step.source for step in steps if isinstance(step, Deleted)] == ["pi-b"]


def test_a_clock_far_ahead_takes_nothing_by_age(place, clock):
    clock.now_s += 3_000 * DAY_S
    [spared] = retained(place, clock)
    assert isinstance(spared, Spared)
    assert "3,002 days old by this clock" in spared.reason
    assert offsets(opened(place, clock)) == OFFSETS
    assert list(opened(place, clock).retain("fashion", WEEK, is_certain=True))


def test_room_is_made_at_once_of_what_counts_no_more_and_then_of_the_oldest(place, clock):
    store = opened(place, clock)
    size = len(place.objects[files(place)[0]])
    retained(place, clock, Limits(size=stored_bytes(place) - 2 * size - 200))
    [deleted] = store.make_room(2 * size)
    assert isinstance(deleted, Deleted)
    assert deleted.files == 3
    forgotten, deleted = store.make_room(2 * size)
    assert isinstance(forgotten, Forgotten)
    assert (forgotten.what.files, forgotten.what.why) == (2, "full")
    assert isinstance(deleted, Deleted)
    assert (deleted.files, len(files(place))) == (2, NUMBER + 3 - 5)
    assert list(store.verify()) == []
    assert list(store.make_room(1 << 40))
    assert list(store.make_room(1 << 40)) == []


@pytest.fixture
def disk(tmp_path: Path, process: None) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "size=4m"):
        yield folder


@pytest.mark.parametrize("filled_by", ["the archive", "others"])
async def test_on_a_full_disk_the_oldest_files_make_room_for_the_next(disk, log_lines, filled_by):
    """Also where not a byte is left, by what was reserved; and it stays an archive without a hole."""
    store, health = new_archive(disk / "archive"), RecordingHealth()
    archive = RetryingArchive(store, health, retained=store, room_bytes=300_000)
    number = (await archive.resume("fashion", "pi-a")).next_offset

    async def append(times: int) -> None:
        for first in range(number, number + times):
            await archive.append("fashion", "pi-a", [(first, large(first))])

    await append(20)
    number = 20
    if filled_by == "others":
        fill(disk)
    await append(60)

    assert health.history == []
    [*kept] = offsets(store)
    assert kept == list(range(kept[0], 80))
    assert list(open_archive(disk / "archive").verify()) == []
    assert {line["why"] for line in log_lines("archive.forgotten")} == {"full"}


async def test_where_the_oldest_may_not_go_a_full_disk_holds_the_archive_up_and_says_what_to_do(disk):
    store, health = new_archive(disk / "archive"), RecordingHealth()
    store.append("fashion", "pi-a", [(0, large(0))])
    filler = fill(disk)
    archive = RetryingArchive(store, health, lambda _: Backoff(0.001, 0.001))
    appending = asyncio.create_task(archive.append("fashion", "pi-a", [(1, large(1))]))
    await health.until_degraded()
    assert "its disk is full: make room, or set when_full: oldest_first" in health.reasons["archive"]
    filler.unlink()
    await appending
    assert offsets(store) == [0, 1]


def large(offset: int) -> Pack:
    return Pack("fashion", (replace(sample(offset), payload=os.urandom(100_000)),), {"cam-01/0": Place(offset + 1)})
