"""Local files: durable before they have their name, never over what is there, and nothing outside the folder."""

import ctypes
import errno
import os
import threading
from pathlib import Path

import pytest

from edged.adapters.local import local_store
from edged.adapters.objects.store import Store
from edged.errors import ArchiveFull, ArchiveUnavailable

NAME = "fashion/pi-a/0/a.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    root.mkdir()
    return root


@pytest.fixture
def store(root: Path) -> Store:
    return local_store(f"file://{root}", "arc-1")


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """What is made durable, and when the file gets its name."""
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def recorded_fsync(descriptor: int) -> None:
        steps.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name.partition('.tmp-')[0]}")
        fsync(descriptor)

    def recorded_link(*args, **options) -> None:
        steps.append("name")
        link(*args, **options)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "link", recorded_link)
    return steps


def test_a_file_is_durable_before_it_has_its_name_and_its_name_before_it_is_told(store, steps):
    assert store.publish(NAME, [b"x"])

    assert steps == ["fsync archive", "fsync fashion", "fsync pi-a", "fsync .a.parquet", "name", "fsync 0"]


def test_nothing_else_is_left(store, root):
    assert store.publish(NAME, [b"x"])
    assert not store.publish(NAME, [b"y"])

    assert [each.name for each in (root / NAME).parent.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_a_rename_replaces_nothing(store, root, monkeypatch, number):
    """As on FAT."""

    def refuse(*_args, **_options) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)

    assert store.publish(NAME, [b"x"])
    assert not store.publish(NAME, [b"y"])

    assert (root / NAME).read_bytes() == b"x"
    assert [each.name for each in (root / NAME).parent.iterdir()] == ["a.parquet"]


def test_a_file_system_with_neither_is_refused(store, root, monkeypatch):
    def refuse(*_args, **_options) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    class Libc:
        @staticmethod
        def renameat2(*_args: object) -> int:
            return -1

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_options: Libc)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EINVAL)

    with pytest.raises(ArchiveUnavailable, match="neither hard links nor renames that replace nothing"):
        store.publish(NAME, [b"x"])
    assert list((root / NAME).parent.iterdir()) == []


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota")])
def test_a_full_disk_is_told_as_that_and_nothing_is_left(store, root, monkeypatch, number, expected):
    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    (root / NAME).parent.mkdir(parents=True)

    with pytest.raises(ArchiveFull, match=f"{root}/{NAME}: .*{expected}.*make room"):
        store.publish(NAME, [b"x"])

    assert list((root / NAME).parent.iterdir()) == []


def test_a_file_that_cannot_be_finished_has_no_name(store, root, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_a, **_o: (_ for _ in ()).throw(OSError(errno.EIO, os.strerror(errno.EIO))))

    with pytest.raises(ArchiveUnavailable, match="Input/output error"):
        store.publish(NAME, [b"x" * 10])

    assert list((root / NAME).parent.iterdir()) == []
    assert store.size(NAME) is None


def test_what_an_interrupted_process_left_is_swept_by_its_next_one(store, root):
    folder = (root / NAME).parent
    folder.mkdir(parents=True)
    ours, theirs = ".a.parquet.tmp-arc-1-0badcafe-3", ".a.parquet.tmp-arc-2-0badcafe-3"
    old, foreign = ".b.parquet.tmp-arc-2-0badcafe-4", ".hidden"
    for name in (ours, theirs, old, foreign):
        (folder / name).write_bytes(b"half")
    os.utime(folder / old, (1_000, 1_000))

    assert [each.name for each in store.list("fashion/pi-a/0")] == [".hidden"]
    store.sweep("fashion/pi-a/0")

    assert sorted(each.name for each in folder.iterdir()) == [theirs, foreign]


def test_a_folder_that_is_not_mounted_is_not_made_again(store, root):
    root.rmdir()

    for call in (lambda: store.publish(NAME, [b"x"]), lambda: store.delete(NAME), store.probe):
        with pytest.raises(ArchiveUnavailable, match=f"the archive's folder {root} is not there"):
            call()

    assert not root.exists()


def test_creating_makes_the_folder_and_its_parents(tmp_path):
    store = local_store(f"file://{tmp_path}/a/b/c", "arc-1")

    store.create()
    store.create()

    assert list(store.probe()) == []


def test_no_link_leads_out_of_the_folder(store, root, tmp_path):
    outside = tmp_path / "outside"
    (outside / "pi-a/0").mkdir(parents=True)
    (outside / "pi-a/0/a.parquet").write_bytes(b"x")
    (root / "fashion").symlink_to(outside)

    for call in (
        lambda: store.publish(NAME, [b"x"]),
        lambda: store.read(NAME, 0, 1),
        lambda: store.size(NAME),
        lambda: list(store.list("fashion/pi-a/0")),
        lambda: store.folders("fashion"),
        lambda: store.delete(NAME),
        lambda: store.sweep("fashion/pi-a/0"),
    ):
        with pytest.raises(ArchiveUnavailable, match="leads out of the archive"):
            call()
    assert (outside / "pi-a/0/a.parquet").read_bytes() == b"x"


def test_only_regular_files_are_objects(store, root):
    folder = (root / NAME).parent
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "folder").mkdir()

    assert list(store.list("fashion/pi-a/0")) == []
    with pytest.raises(ArchiveUnavailable, match="no regular file"):
        store.read("fashion/pi-a/0/pipe", 0, 1)


def test_a_folder_without_permission_is_told_with_what_mends_it(store, root, monkeypatch):
    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root / "fashion"))

    monkeypatch.setattr(Path, "mkdir", refuse)

    with pytest.raises(ArchiveUnavailable, match=f"{root}.*Permission denied"):
        store.publish(NAME, [b"x"])


def test_a_disk_that_hangs_costs_one_thread_and_holds_no_stop_up(root, monkeypatch):
    store = local_store(f"file://{root}", "arc-1", deadline_s=0.0)
    goes = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _descriptor: goes.wait())

    with pytest.raises(ArchiveUnavailable, match="no answer for"):
        store.publish(NAME, [b"x"])
    with pytest.raises(ArchiveUnavailable, match="has not returned"):
        store.size(NAME)
    store.close()

    goes.set()
