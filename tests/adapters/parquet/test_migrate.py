"""An archive that the first version of edged wrote (`archive-1`) holds the same in the present format."""

import shutil
from pathlib import Path

import pytest

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet.migrate import Migrated, migrate
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.snapshot import BlockRef
from edged.errors import StorageError

OF_BEFORE = Path(__file__).parents[2] / "formats" / "archive-1"
DONE = [Migrated("fashion", "_train.small", 1), Migrated("fashion", "pi-a", 2)]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OF_BEFORE, tmp_path / "archive"))


def assert_migrated(archive: Path) -> None:
    store = ParquetStore(archive.as_uri())
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
    assert list(migrate(archive.as_uri())) == DONE
    assert_migrated(archive)
    assert list(migrate(archive.as_uri())) == []


def test_until_then_it_is_refused_in_words_and_left_alone(archive: Path) -> None:
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    store = ParquetStore(archive.as_uri())
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
        list(migrate(archive.as_uri()))
    monkeypatch.undo()
    with pytest.raises(StorageError, match="names format 1"):
        ParquetStore(archive.as_uri()).ends("fashion")
    assert sum(each.files for each in migrate(archive.as_uri())) == 3 - after
    assert_migrated(archive)


def test_a_damaged_file_ends_it_with_its_name(archive: Path) -> None:
    damaged = sorted(archive.rglob("pi-a/*.parquet"))[1]
    content = bytearray(damaged.read_bytes())
    content[40] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(StorageError, match=damaged.name):
        list(migrate(archive.as_uri()))
    assert damaged.read_bytes() == content


def test_an_archive_of_a_later_version_is_refused(archive: Path) -> None:
    (archive / "edged-archive.json").write_text('{"format": 3, "site": "lab"}')
    with pytest.raises(StorageError, match="names format 3; this version of edged knows 2"):
        list(migrate(archive.as_uri()))
