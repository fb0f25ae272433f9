"""What Parquet files on a disk promise beyond the port's contract: durability, integrity, bounded work."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet import folder as parquet_folder
from edged.adapters.parquet import footers
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.snapshot import BlockRef
from edged.domain.samples.pack import Pack, digest
from edged.domain.samples.sample import Sample
from edged.errors import ArchiveUnavailable, DiskFull, StorageError
from tests.support.archive_samples import any_packs, new_archive, pack

ONCE = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def store(folder: Path) -> ParquetStore:
    return new_archive(folder)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet*"))


def name(first: int, end: int) -> str:
    return f"{first:020d}-{end:020d}.parquet"


def read(store: ParquetStore, *offsets: int) -> list[Pack]:
    return [block for _, block in store.read("fashion", [BlockRef("pi-a", offset) for offset in offsets])]


@ONCE
@given(st.lists(any_packs, min_size=1, max_size=4))
def test_any_pack_comes_back_identical(tmp_path_factory, packs):
    store = new_archive(tmp_path_factory.mktemp("archive"))
    store.append("fashion", "pi-a", list(enumerate(packs)))

    assert read(store, *range(len(packs))) == packs
    assert list(store.verify()) == []


def test_a_file_is_named_by_its_offsets(store, folder):
    store.append("fashion", "pi-a", [(40, pack(0)), (41, pack(4))])

    assert files(folder) == [f"fashion/pi-a/{name(40, 42)}"]


def test_any_parquet_reader_can_read_samples_and_metadata(store, folder):
    store.append("fashion", "_train.birds", [(0, pack(0, 3)), (1, Pack("fashion", ())), (2, pack(3, 2))])
    path = folder / "fashion" / "_train.birds" / name(0, 3)

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

    column = pq.read_metadata(folder / "fashion" / "pi-a" / name(0, 1)).row_group(0).column(8)

    assert (column.path_in_schema, column.compression) == ("payload", "ZSTD" if compressed else "UNCOMPRESSED")
    assert not column.is_stats_set, "the footer must not hold whole payloads"


def test_a_kill_at_any_step_leaves_whole_files_or_none(store, folder):
    """Killed before and after each call that makes a file durable; then the same is appended again."""
    store.append("fashion", "pi-a", [(0, pack(0))])
    script = [sys.executable, "-m", "tests.support.archive_crash"]
    outcomes = set()
    for fatal_call in range(1, 40):
        target = folder.with_name(f"killed-{fatal_call}")
        subprocess.run(["cp", "-r", str(folder), str(target)], check=True)
        died = subprocess.run([*script, str(target), str(fatal_call)], check=False, cwd=Path(__file__).parents[3])
        after = ParquetStore(f"file://{target}")
        ends = after.ends("fashion")

        assert list(after.verify()) == []
        assert ends.get("pi-a") in {1, 3}
        assert after.snapshot("fashion").num_blocks == ends["pi-a"] + ends.get("pi-b", 0)
        outcomes.add((ends["pi-a"], ends.get("pi-b", 0)))

        for source in ("pi-a", "pi-b"):
            after.remove_leftovers("fashion", source)
        if ends["pi-a"] == 1:
            after.append("fashion", "pi-a", [(1, pack(4)), (2, pack(8))])
        if "pi-b" not in ends:
            after.append("fashion", "pi-b", [(0, pack(0))])
        assert [path for path in files(target) if "tmp" in path] == []
        assert read(after, 0, 1, 2) == [pack(0), pack(4), pack(8)]
        if died.returncode == 0:
            break
    else:
        pytest.fail("the script was killed at every call that it was given")
    assert outcomes == {(1, 0), (3, 0), (3, 1)}


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, StorageError)]
)
@pytest.mark.parametrize("call", ["fsync", "write", "rename"])
def test_a_refusing_disk_is_reported_and_nothing_is_left_behind(store, folder, monkeypatch, code, kind, call):
    store.append("fashion", "pi-a", [(0, pack(0))])
    before = files(folder)

    def refuse(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", refuse)
        elif call == "rename":
            patch.setattr(Path, "rename", refuse)
        else:
            patch.setattr(parquet_file, "encode", lambda *_args: _Refusing(refuse))
        with pytest.raises(kind, match="fashion/pi-a"):
            store.append("fashion", "pi-a", [(1, pack(4))])
        assert files(folder) == before
    store.append("fashion", "pi-a", [(1, pack(4))])

    assert read(store, 0, 1) == [pack(0), pack(4)]


class _Refusing(list[bytes]):
    """Pieces of a file, of which the second cannot be written."""

    def __init__(self, refuse) -> None:
        super().__init__()
        self._refuse = refuse

    def __iter__(self):
        yield b"some bytes"
        self._refuse()


def test_a_folder_without_permission_is_a_storage_error(store, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(parquet_folder, "_make_folders", refuse)

    with pytest.raises(StorageError, match="Permission denied"):
        store.append("fashion", "pi-a", [(0, pack(0))])


def test_a_broken_connection_means_unavailable(store, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(store._folder._fs, "ls", refuse)

    with pytest.raises(ArchiveUnavailable):
        store.ends("fashion")


@ONCE
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_found(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("archive")
    store = new_archive(folder)
    store.append("fashion", "pi-a", [(0, pack(0, 3)), (1, Pack("fashion", (), {"cam-01/0": 3})), (2, pack(3, 3))])
    path = folder / "fashion" / "pi-a" / name(0, 3)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)

    (finding,) = ParquetStore(f"file://{folder}").verify()

    assert (finding.kind, finding.path) == ("corrupt", str(path))


@ONCE
@given(data=st.data())
def test_reading_a_damaged_file_gives_the_original_samples_or_an_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("archive")
    new_archive(folder).append("fashion", "pi-a", [(0, pack(0, 3)), (1, pack(3, 3))])
    path = folder / "fashion" / "pi-a" / name(0, 2)
    content = bytearray(path.read_bytes())
    begin = data.draw(st.integers(0, len(content) - 1))
    content[begin : begin + 9] = data.draw(st.binary(max_size=9))
    path.write_bytes(content)

    try:
        found = read(ParquetStore(f"file://{folder}"), 0, 1)
    except StorageError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right, each in its own way
    else:
        assert found == [pack(0, 3), pack(3, 3)]


def test_a_corrupt_block_is_named_and_its_neighbours_stay_readable(store, folder):
    store.append("fashion", "pi-a", [(offset, pack(offset * 4)) for offset in range(3)])
    path = folder / "fashion" / "pi-a" / name(0, 3)
    content = path.read_bytes()
    column = pq.read_metadata(path).row_group(1).column(8)
    middle = column.data_page_offset + column.total_compressed_size - 3
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])

    with pytest.raises(StorageError, match=f"{name(0, 3)}, block 1"):
        read(store, 1)
    assert read(store, 0, 2) == [pack(0), pack(8)]


def test_a_file_under_another_files_name_is_corrupt(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0))])
    (folder / "fashion" / "pi-a" / name(0, 1)).rename(folder / "fashion" / "pi-a" / name(1, 2))

    assert [finding.kind for finding in store.verify()] == ["corrupt"]
    with pytest.raises(StorageError, match="another name"):
        read(store, 1)


def test_a_snapshot_leaves_out_a_corrupt_file_and_keeps_the_others(store, folder):
    for offset in range(3):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4))])
    (folder / "fashion" / "pi-a" / name(1, 2)).write_bytes(b"no parquet at all")

    again = ParquetStore(f"file://{folder}")

    assert again.snapshot("fashion").offset.tolist() == [0, 2]
    assert again.ends("fashion") == {"pi-a": 3}
    assert [finding.kind for finding in again.verify()] == ["corrupt"]


@pytest.mark.parametrize(
    "content", ['"text"', "[[]]", "[" * 100_000, '{"a": -1}', '{"a": "b"}', "null", "NaN"], ids=lambda text: text[:10]
)
@pytest.mark.parametrize("key", ["edged.offsets", "edged.gaps", "edged.blocks", "edged.cursors"])
def test_a_foreign_file_is_corrupt_with_any_footer(store, folder, key, content):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    path = folder / "fashion" / "pi-a" / name(0, 2)
    footer = pq.read_metadata(path).metadata
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        for start in (0, 4):
            writer.write_table(table.slice(start, 4))
        writer.add_key_value_metadata({**footer, key.encode(): content.encode()})

    again = ParquetStore(f"file://{folder}")

    assert again.snapshot("fashion").num_blocks == 0
    with pytest.raises(StorageError):
        again.cursors("fashion", "pi-a")
    assert [finding.kind for finding in again.verify()] == ["corrupt"]


def test_temporary_and_foreign_files_do_not_count(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0))])
    source = folder / "fashion" / "pi-a"
    (source / name(1, 9)).mkdir()
    (source / f".{name(1, 2)}.tmp").write_bytes(b"half a file")
    (source / "notes.txt").write_text("mine")
    (source / name(7, 7)).write_bytes(b"")
    (folder / "fashion" / "lost+found").mkdir()
    (folder / "README").write_text("mine")

    assert store.ends("fashion") == {"pi-a": 1}
    assert store.snapshot("fashion").num_blocks == 1
    assert [(finding.kind, Path(finding.path).name) for finding in store.verify()] == [
        ("foreign", name(1, 9)),
        ("foreign", "notes.txt"),
        ("overlap", name(7, 7)),
    ]

    store.remove_leftovers("fashion", "pi-a")
    assert sorted(path.name for path in source.iterdir()) == [name(0, 1), name(1, 9), name(7, 7), "notes.txt"]


def test_overlapping_files_give_each_block_once_and_are_found(store, folder):
    """Two writers at once: ranges overlap, their blocks are the same."""
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    other = new_archive(folder.with_name("archive-2"))
    other.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4)), (2, pack(8))])
    (folder.with_name("archive-2") / "fashion" / "pi-a" / name(0, 3)).rename(folder / "fashion" / "pi-a" / name(0, 3))

    assert store.snapshot("fashion").offset.tolist() == [0, 1, 2]
    assert read(store, 0, 1, 2) == [pack(0), pack(4), pack(8)]
    assert [finding.kind for finding in store.verify()] == ["overlap"]


def test_a_lost_file_is_found_and_the_rest_stays_readable(store, folder):
    for offset in range(3):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4))])
    (folder / "fashion" / "pi-a" / name(1, 2)).unlink()

    assert [(finding.kind, finding.detail) for finding in store.verify()] == [("hole", "offsets 1 to 1 are in no file")]
    assert ParquetStore(f"file://{folder}").snapshot("fashion").offset.tolist() == [0, 2]


def test_known_gaps_are_counted_and_are_not_a_finding(store):
    store.append("fashion", "pi-a", [(5, pack(0)), (9, pack(4))], [(0, 5), (6, 9)])

    (summary,) = store.summaries()

    assert (summary.first, summary.next, summary.lost, summary.blocks, summary.samples) == (0, 10, 8, 2, 8)
    assert list(store.verify()) == []


def test_summaries_count_files_blocks_and_samples(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4, 2))])
    store.append("birds", "pi-b", [(0, pack(0, 1, stream="birds"))])

    birds, fashion = store.summaries()

    assert (birds.stream, birds.source, birds.samples) == ("birds", "pi-b", 1)
    assert (fashion.files, fashion.blocks, fashion.samples) == (1, 2, 6)
    assert fashion.num_bytes == pack(0).num_bytes + pack(4, 2).num_bytes
    assert fashion.stored_bytes == (folder / "fashion" / "pi-a" / name(0, 2)).stat().st_size
    assert store.summaries("birds") == [birds]


@pytest.mark.parametrize("bad", ["..", "../etc", "a/b", "", ".hidden", "_train.", "_train.../x", "_other.x", "pi-a\n"])
def test_names_that_could_leave_the_archive_are_refused(store, bad):
    with pytest.raises(StorageError, match="not names"):
        store.append("fashion", bad, [(0, pack(0))])
    with pytest.raises(StorageError, match="not names"):
        store.ends(bad)
    with pytest.raises(StorageError, match="not names"):
        list(store.read("fashion", [BlockRef(bad, 0)]))


def test_footers_are_read_once_for_all_snapshots(store, monkeypatch):
    for offset in range(3):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4))])
    store.snapshot("fashion")
    opened: list[object] = []
    monkeypatch.setattr(store._folder, "open", opened.append)

    assert store.snapshot("fashion").num_blocks == 3
    assert opened == []


def test_one_call_opens_each_file_once(store, monkeypatch):
    for offset in range(0, 6, 2):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4)), (offset + 1, pack(offset * 4 + 4))])
    store.snapshot("fashion")
    opened, really_open = [], store._folder.open

    def open_counted(file):
        opened.append(file)
        return really_open(file)

    monkeypatch.setattr(store._folder, "open", open_counted)

    read(store, 0, 5, 1, 4, 2, 3, 0)

    assert len(opened) == 3


def test_the_number_of_footers_in_memory_is_bounded(store):
    for offset in range(20):
        store.append("fashion", "pi-a", [(offset, pack(offset * 4))])

    store.snapshot("fashion")

    assert len(store._footers) == footers.MAX_FOOTERS


def test_a_footer_that_claims_more_than_the_file_has_allocates_nothing():
    store_contents = {
        b"edged.schema": b"archive/1",
        b"edged.stream": b"fashion",
        b"edged.source": b"pi-a",
        b"edged.offsets": b"[0,9000000000000000000]",
        b"edged.gaps": b"[]",
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
        replace(pack(0), cursors={"cam-01/0": 4, "cam-02/0": 7}),
        replace(pack(4), cursors={"cam-01/0": 8}),
        replace(pack(8), cursors={"cam-01/0": 8, "cam-03/0": 1}),
    ]
    store.append("fashion", "pi-a", list(enumerate(packs)))

    assert [digest(block) for block in read(store, 2, 0, 1)] == [digest(packs[i]) for i in (2, 0, 1)]


def test_a_missing_or_unmarked_folder_is_unavailable_and_never_created_implicitly(folder):
    """As when the file system is not mounted: the mount point is missing, or it is there and empty."""
    store = ParquetStore(folder.as_uri())
    for reason in ("is not there: is its file system mounted", f"has no {parquet_folder.MARKER}"):
        for attempt in (
            lambda: store.append("fashion", "pi-a", [(0, pack(0))]),
            lambda: store.ends("fashion"),
            lambda: store.cursors("fashion", "pi-a"),
            lambda: store.snapshot("fashion"),
            store.summaries,
            lambda: list(store.verify()),
        ):
            with pytest.raises(ArchiveUnavailable, match=reason):
                attempt()
        assert not folder.exists() or list(folder.iterdir()) == []
        folder.mkdir(exist_ok=True)


def test_an_archive_that_is_unavailable_for_a_time_loses_no_block(store, folder):
    store.append("fashion", "pi-a", [(0, pack(0))])
    folder.rename(folder.with_name("unmounted"))
    with pytest.raises(ArchiveUnavailable):
        read(store, 0)

    folder.with_name("unmounted").rename(folder)

    assert read(store, 0) == [pack(0)]


def test_an_archive_is_created_once(folder):
    assert [ParquetStore(folder.as_uri()).create(site) for site in ("lab", "other")] == [True, False]
    assert json.loads((folder / parquet_folder.MARKER).read_text()) == {"format": 1, "site": "lab"}


@pytest.mark.parametrize(
    ("marker", "message"), [("", "damaged"), ("[]", "damaged"), ('{"format": 2}', "names format 2"), ("{}", "damaged")]
)
def test_another_archives_format_is_refused(store, folder, marker, message):
    (folder / parquet_folder.MARKER).write_text(marker)

    with pytest.raises(StorageError, match=message):
        store.append("fashion", "pi-a", [(0, pack(0))])
