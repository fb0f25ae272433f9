"""An archive that the first version of edged wrote (`archive-1`) holds the same in the present format."""

import itertools
import shutil
from pathlib import Path

import pytest

from edged.adapters.local import local_store
from edged.adapters.memory.objects import MemoryPlace
from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet import marker
from edged.adapters.parquet.migrate import Migrated, migrate
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.layout import MARKER, SEGMENT
from edged.domain.archive.snapshot import BlockRef
from edged.errors import ArchiveUnavailable, StorageError
from edged.ports import ObjectStore
from tests.support.archive_samples import PATIENT_S, open_archive, pack, read_packs
from tests.support.object_stores import interrupted

OF_BEFORE = Path(__file__).parents[2] / "formats" / "archive-1"
DONE = [Migrated("fashion", "_train.small", 1, 1), Migrated("fashion", "pi-a", 2, 2)]


def objects_of(folder: Path) -> ObjectStore:
    return local_store(folder.as_uri(), "tests", PATIENT_S)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OF_BEFORE, tmp_path / "archive"))


def assert_migrated(archive: Path) -> None:
    store = open_archive(archive)
    assert list(store.verify()) == []
    snapshot = store.snapshot("fashion")
    assert dict(snapshot.ends) == {"_train.small": 1, "pi-a": 6}
    assert snapshot.rows.tolist() == [1, 2, 0, 2, 1]
    found = store.read("fashion", [BlockRef("pi-a", offset) for offset in (0, 1, 4, 5)])
    samples = [sample for _, pack in found for sample in pack.samples]
    assert [(each.device, each.offset, each.label, each.codec, each.payload) for each in samples] == [
        ("cam-01", 0, "boot", "raw", b"cam-01/0"),
        ("cam-01", 1, None, "raw", b"cam-01/1"),
        ("cam-01", 4, "boot", "raw", b"cam-01/4"),
        ("cam-02", 0, "shirt", "jpeg", b"cam-02/0"),
        ("cam-01", 5, "boot", "raw", b"cam-01/5"),
    ]
    assert [each.arrived_ms - 1_700_000_000_000 for each in samples] == [0, 1, 4, 0, 5]
    assert {each.sampled_ms for each in samples} == {None}
    assert [each.lost for each in store.summaries("fashion")] == [0, 2]


def test_every_block_keeps_its_place_and_its_samples(archive: Path) -> None:
    assert list(migrate(objects_of(archive))) == DONE
    assert_migrated(archive)
    assert list(migrate(objects_of(archive))) == []


def test_until_then_it_is_refused_in_words_and_left_alone(archive: Path) -> None:
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    store = open_archive(archive)
    with pytest.raises(StorageError, match="names format 1; run `edged archive migrate`"):
        store.ends("fashion")
    with pytest.raises(StorageError, match="names format 1"):
        store.end("fashion", "pi-a")  # where a damaged newest file would be set aside
    with pytest.raises(StorageError, match="names format 1"):
        store.snapshot("fashion")
    assert {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_migration_is_continued(archive: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, calls = parquet_file.encode, iter(range(10))

    def interrupted(*args, **kwargs):
        if next(calls) == after:
            raise KeyboardInterrupt
        return encode(*args, **kwargs)

    monkeypatch.setattr(parquet_file, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(migrate(objects_of(archive)))
    monkeypatch.undo()
    with pytest.raises(StorageError, match="names format 1"):
        open_archive(archive).ends("fashion")
    assert sum(each.rewritten for each in migrate(objects_of(archive))) == 3 - after
    assert_migrated(archive)


def test_a_damaged_file_ends_it_with_its_name(archive: Path) -> None:
    damaged = sorted(archive.rglob("pi-a/*.parquet"))[1]
    content = bytearray(damaged.read_bytes())
    content[40] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(StorageError, match=damaged.name):
        list(migrate(objects_of(archive)))
    assert damaged.read_bytes() == content


def test_an_archive_of_a_later_version_is_refused(archive: Path) -> None:
    (archive / "edged-archive.json").write_text('{"format": 4, "site": "lab"}')
    with pytest.raises(StorageError, match="names format 4; this version of edged knows 3"):
        list(migrate(objects_of(archive)))


def lay_out_as_before(place: MemoryPlace) -> None:
    """An archive of format 2: files in two segments, two that overlap, and what was set aside."""
    ranges = [(0, 2), (2, 5), (4, 7), (7, SEGMENT), (SEGMENT, SEGMENT + 2), (SEGMENT + 2, SEGMENT + 3)]
    for first, end in ranges:
        gaps = [(first + 1, end)] if end - first > 5 else []
        packs = [(offset, pack(4 * offset)) for offset in (range(first, end) if not gaps else [first])]
        content = b"".join(parquet_file.encode("fashion", "pi-a", packs, gaps, {}))
        place.objects[f"fashion/pi-a/{first:020d}-{end:020d}.parquet"] = content
    place.objects[f"fashion/pi-a/{1:020d}-{2:020d}.parquet"] = b"all its offsets are in others"
    place.objects[f"fashion/pi-a/{9:020d}-{10:020d}.parquet.damaged"] = b"damaged"
    place.objects["fashion/pi-a/aside/00000000000000000003.damaged"] = b"a record"
    place.objects[MARKER] = b'{"format": 2, "site": "lab"}'


OFFSETS = [*range(8), SEGMENT, SEGMENT + 1, SEGMENT + 2]


def assert_as_before(place: MemoryPlace) -> None:
    store = ParquetStore(place.store(), "lab")
    assert store.snapshot("fashion").offset.tolist() == OFFSETS
    assert read_packs(store, *OFFSETS) == [pack(4 * offset) for offset in OFFSETS]
    assert store.end("fashion", "pi-a")[:3] == (SEGMENT + 3, {"cam-01/0": 4 * SEGMENT + 12}, SEGMENT + 3)
    (summary,) = store.summaries()
    assert (summary.files, summary.first, summary.next, summary.lost) == (6, 0, SEGMENT + 3, SEGMENT - 8)
    found = sorted((each.kind, each.path.rpartition("/")[2]) for each in store.verify())
    assert found == [
        ("aside", "00000000000000000003.damaged"),
        ("aside", f"{9:020d}-{10:020d}.parquet.damaged"),
        ("foreign", f"{1:020d}-{2:020d}.parquet"),
        ("overlap", f"{4:020d}-{7:020d}.parquet"),
    ]


def test_files_of_format_2_are_indexed_where_they_are() -> None:
    place = MemoryPlace()
    lay_out_as_before(place)
    before = {name for name in place.objects if name.endswith(".parquet")}

    assert list(migrate(place.store())) == [Migrated("fashion", "pi-a", 6, 0)]

    assert {name for name in place.objects if name.endswith(".parquet")} == before
    assert_as_before(place)
    assert list(migrate(place.store())) == []
    store = ParquetStore(place.store(), "lab")
    store.append("fashion", "pi-a", [(SEGMENT + 3, pack(0))])
    assert ParquetStore(place.store()).ends("fashion") == {"pi-a": SEGMENT + 4}


def test_a_damaged_newest_file_of_format_2_is_archived_again() -> None:
    place = MemoryPlace()
    lay_out_as_before(place)
    newest = f"fashion/pi-a/{SEGMENT + 2:020d}-{SEGMENT + 3:020d}.parquet"
    place.cut(newest, 100)
    list(migrate(place.store()))
    store = ParquetStore(place.store(), "lab")

    end = store.end("fashion", "pi-a")
    assert (end.next_offset, end.cursors_end) == (SEGMENT + 3, SEGMENT + 2)
    assert newest in end.damage
    store.set_aside("fashion", "pi-a", end.cursors_end)
    assert newest not in place.objects
    store.append("fashion", "pi-a", [(SEGMENT + 2, pack(4 * SEGMENT + 8))])
    assert ParquetStore(place.store()).snapshot("fashion").offset.tolist() == OFFSETS


def test_a_migration_that_ends_at_any_step_is_continued_by_the_next_one(monkeypatch) -> None:
    """Before each change that it makes at the place, and behind it."""
    for fatal in itertools.count(1):
        place = MemoryPlace()
        lay_out_as_before(place)
        with interrupted(monkeypatch, fatal) as steps:
            try:
                list(migrate(place.store()))
            except KeyboardInterrupt:
                found = marker.read(place.store())
                if found is None or found.format != marker.FORMAT:
                    with pytest.raises((StorageError, ArchiveUnavailable), match=r"edged archive migrate`"):
                        ParquetStore(place.store()).check()
            else:
                break
        list(migrate(place.store()))
        assert_as_before(place)
    assert steps.taken > 10
