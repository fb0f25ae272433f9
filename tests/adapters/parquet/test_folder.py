"""An archive's files are durable and whole; a folder that is no archive is neither read nor filled."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edged.adapters.parquet import file as parquet_file
from edged.adapters.parquet import folder as parquet_folder
from edged.adapters.parquet.folder import MARKER
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.snapshot import BlockRef
from edged.errors import ArchiveUnavailable, BlockAbsent, DiskFull, StorageError
from tests.support.archive_samples import file_name, new_archive, pack, parquet_files, read_packs
from tests.support.rights import as_nobody, passable_folder


def test_a_file_is_named_by_its_offsets(store, folder):
    store.append("fashion", "pi-a", [(40, pack(0)), (41, pack(4))])

    assert parquet_files(folder) == [f"fashion/pi-a/{file_name(40, 42)}"]


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
        assert [path for path in parquet_files(target) if "tmp" in path] == []
        assert read_packs(after, 0, 1, 2) == [pack(0), pack(4), pack(8)]
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
    before = parquet_files(folder)

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
        assert parquet_files(folder) == before
    store.append("fashion", "pi-a", [(1, pack(4))])

    assert read_packs(store, 0, 1) == [pack(0), pack(4)]


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


def test_an_archive_of_roots_is_told_with_its_owner_and_the_command_that_gives_it_to_us():
    with passable_folder() as folder:
        url = f"file://{folder}/archive"
        ParquetStore(url).create("lab")
        for part in (folder / "archive", folder / "archive" / MARKER):
            part.chmod(0o755)
        with as_nobody(), pytest.raises(StorageError) as written:
            ParquetStore(url).append("fashion", "pi-a", [(0, pack(0))])
        (folder / "archive").chmod(0o750)
        with as_nobody(), pytest.raises(ArchiveUnavailable) as opened:
            ParquetStore(url).check()
        with as_nobody(), pytest.raises(StorageError) as below:
            ParquetStore(url).remove_leftovers("fashion", "pi-a")
        (folder / "archive").chmod(0o755)
        (folder / "archive" / MARKER).chmod(0o600)
        with as_nobody(), pytest.raises(ArchiveUnavailable) as read:
            ParquetStore(url).check()
    given = f"and this is nobody: `chown -R nobody: {folder}/archive` as root gives it to nobody"
    assert f"{folder}/archive belongs to root (drwxr-xr-x), {given}" in str(written.value)
    assert f"{folder}/archive belongs to root (drwxr-x---), {given}" in str(opened.value)
    assert f"{folder}/archive belongs to root (drwxr-x---), and this is nobody: " in str(below.value)
    assert f"{MARKER} belongs to root (-rw-------), and this is nobody: `chown nobody: " in str(read.value)


def test_an_archive_that_is_a_link_to_nowhere_is_told_with_where_it_leads(tmp_path):
    (tmp_path / "archive").symlink_to("/mnt/no-such-disk")
    reason = f"{tmp_path}/archive is a link to /mnt/no-such-disk, where nothing is"
    with pytest.raises(ArchiveUnavailable, match=reason):
        ParquetStore(f"file://{tmp_path}/archive").check()
    with pytest.raises(StorageError, match=reason):
        ParquetStore(f"file://{tmp_path}/archive").create("lab")


def test_a_broken_connection_means_unavailable(store, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(store._folder._fs, "ls", refuse)

    with pytest.raises(ArchiveUnavailable):
        store.ends("fashion")


@pytest.mark.parametrize("bad", ["..", "../etc", "a/b", "", ".hidden", "_train.", "_train.../x", "_other.x", "pi-a\n"])
def test_names_that_could_leave_the_archive_are_refused(store, bad):
    with pytest.raises(StorageError, match="not names"):
        store.append("fashion", bad, [(0, pack(0))])
    with pytest.raises(StorageError, match="not names"):
        store.ends(bad)
    with pytest.raises(BlockAbsent):
        list(store.read("fashion", [BlockRef(bad, 0)]))


def test_a_missing_or_unmarked_folder_is_unavailable_and_never_created_implicitly(folder):
    """As when the file system is not mounted: the mount point is missing, or it is there and empty."""
    store = ParquetStore(folder.as_uri())
    for reason in ("is not there: is its file system mounted", f"has no {parquet_folder.MARKER}"):
        for attempt in (
            lambda: store.append("fashion", "pi-a", [(0, pack(0))]),
            lambda: store.ends("fashion"),
            lambda: store.end("fashion", "pi-a"),
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
        read_packs(store, 0)

    folder.with_name("unmounted").rename(folder)

    assert read_packs(store, 0) == [pack(0)]


def test_an_archive_is_created_once(folder):
    assert [ParquetStore(folder.as_uri()).create(site) for site in ("lab", "other")] == [True, False]
    assert json.loads((folder / parquet_folder.MARKER).read_text()) == {"format": 2, "site": "lab"}


@pytest.mark.parametrize(
    ("marker", "message"), [("", "damaged"), ("[]", "damaged"), ('{"format": 3}', "names format 3"), ("{}", "damaged")]
)
def test_another_archives_format_is_refused(store, folder, marker, message):
    (folder / parquet_folder.MARKER).write_text(marker)

    with pytest.raises(StorageError, match=message):
        store.append("fashion", "pi-a", [(0, pack(0))])


def special(path: Path, kind: str) -> None:
    """Put something at `path` that is no regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_named_like_a_file_and_is_none_keeps_nobody_waiting(store, folder, kind, monkeypatch):
    store.append("fashion", "pi-a", [(0, pack(0))])
    monkeypatch.chdir(folder / "fashion" / "pi-a")  # a socket's path is short
    special(Path(file_name(1, 2)), kind)
    special(Path(f".{file_name(1, 3)}.tmp"), kind)

    (finding,) = store.verify()
    (summary,) = store.summaries()
    store.append("fashion", "pi-a", [(1, pack(4)), (2, pack(8))])

    assert (finding.kind, Path(finding.path).name) == ("foreign", file_name(1, 2))
    assert (summary.files, summary.next) == (1, 1)
    assert read_packs(store, 0, 1, 2) == [pack(0), pack(4), pack(8)]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_marker_that_is_no_file_marks_no_archive(folder, kind):
    folder.mkdir()
    special(folder / parquet_folder.MARKER, kind)
    with pytest.raises(ArchiveUnavailable, match="no regular file"):
        ParquetStore(f"file://{folder}").check()


def test_no_link_leads_out_of_the_archive(store, folder, tmp_path):
    """Not a file, not a source, not a stream; what is beside them is read as ever."""
    other = new_archive(tmp_path / "other")
    other.append("fashion", "pi-b", [(0, pack(0))])
    outside = tmp_path / "other" / "fashion"
    store.append("fashion", "pi-a", [(0, pack(0))])
    (folder / "fashion" / "pi-a" / file_name(1, 2)).symlink_to(outside / "pi-b" / file_name(0, 1))
    (folder / "fashion" / "pi-b").symlink_to(outside / "pi-b")
    (folder / "sounds").symlink_to(outside)

    findings = {(Path(each.path).name, each.kind) for each in store.verify()}

    assert findings == {(file_name(1, 2), "foreign"), ("pi-b", "foreign"), ("sounds", "foreign")}
    assert [summary.source for summary in store.summaries("fashion")] == ["pi-a"]
    assert store.snapshot("fashion").sources == ("pi-a",)
    with pytest.raises(StorageError, match="leads out of the archive"):
        store.append("fashion", "pi-b", [(1, pack(4))])


def test_an_archive_may_itself_be_reached_by_a_link(store, folder, tmp_path):
    store.append("fashion", "pi-a", [(0, pack(0))])
    (tmp_path / "link").symlink_to(folder)
    assert list(ParquetStore(f"file://{tmp_path}/link").verify()) == []
