"""A place that is no archive of the site is neither read nor filled; an archive is made once."""

import json
import os
import socket
from pathlib import Path

import pytest

from edged.adapters.memory.objects import MemoryPlace
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.layout import MARKER
from edged.domain.archive.snapshot import BlockRef
from edged.errors import ArchiveUnavailable, BlockAbsent, StorageError
from tests.support.archive_samples import file_name, new_archive, open_archive, pack, read_packs, segment
from tests.support.rights import as_nobody, passable_folder


def test_an_archive_of_roots_is_told_with_its_owner_and_the_command_that_gives_it_to_us():
    with passable_folder() as folder:
        url = f"file://{folder}/archive"
        open_archive(url).create("lab")
        for part in (folder / "archive", folder / "archive" / MARKER):
            part.chmod(0o755)
        with as_nobody(), pytest.raises(StorageError) as written:
            open_archive(url).append("fashion", "pi-a", [(0, pack(0))])
        (folder / "archive").chmod(0o750)
        with as_nobody(), pytest.raises(ArchiveUnavailable) as opened:
            open_archive(url).check()
        with as_nobody(), pytest.raises(ArchiveUnavailable) as below:
            open_archive(url).remove_leftovers("fashion", "pi-a")
        (folder / "archive").chmod(0o755)
        (folder / "archive" / MARKER).chmod(0o600)
        with as_nobody(), pytest.raises(ArchiveUnavailable) as read:
            open_archive(url).check()
    given = f"and this is nobody: `chown -R nobody: {folder}/archive` as root gives it to nobody"
    assert f"{folder}/archive belongs to root (drwxr-xr-x), {given}" in str(written.value)
    assert f"{folder}/archive belongs to root (drwxr-x---), and this is nobody: " in str(opened.value)
    assert f"{folder}/archive belongs to root (drwxr-x---), and this is nobody: " in str(below.value)
    assert f"{MARKER} belongs to root (-rw-------), and this is nobody: `chown nobody: " in str(read.value)


def test_an_archive_that_is_a_link_to_nowhere_is_told_with_where_it_leads(tmp_path):
    (tmp_path / "archive").symlink_to("/mnt/no-such-disk")
    reason = f"{tmp_path}/archive is a link to /mnt/no-such-disk, where nothing is"
    with pytest.raises(ArchiveUnavailable, match=reason):
        open_archive(tmp_path / "archive").check()
    with pytest.raises(ArchiveUnavailable, match=reason):
        open_archive(tmp_path / "archive").create("lab")


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
    store = open_archive(folder)
    for reason in ("is not there: is its file system mounted", f"has no {MARKER}"):
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


def test_an_archive_is_created_once_and_for_one_site(folder):
    assert [open_archive(folder).create(site) for site in ("lab", "lab")] == [True, False]
    marker = json.loads((folder / MARKER).read_text())
    assert (marker["format"], marker["site"], len(marker["id"])) == (3, "lab", 16)


def test_two_sites_on_one_url_are_told_apart():
    place = MemoryPlace()
    ParquetStore(place.store(), "lab").create("lab")
    other = ParquetStore(place.store(), "roof")
    for attempt in (
        lambda: other.create("roof"),
        lambda: other.append("fashion", "pi-a", [(0, pack(0))]),
        lambda: other.snapshot("fashion"),
    ):
        with pytest.raises(
            ArchiveUnavailable, match=r"is the archive of the site 'lab', and this is 'roof': give each"
        ):
            attempt()
    assert list(place.objects) == [MARKER]


def test_what_is_known_of_an_archive_is_forgotten_when_another_one_takes_its_place():
    place = MemoryPlace()
    store = ParquetStore(place.store())
    store.create("lab")
    store.append("fashion", "pi-a", [(0, pack(0)), (1, pack(4))])
    place.objects.clear()
    ParquetStore(place.store()).create("lab")

    assert store.ends("fashion") == {}
    store.append("fashion", "pi-a", [(0, pack(0))])
    assert store.ends("fashion") == {"pi-a": 1}


@pytest.mark.parametrize(
    ("marker", "message"), [("", "damaged"), ("[]", "damaged"), ('{"format": 4}', "names format 4"), ("{}", "damaged")]
)
def test_another_archives_format_is_refused(store, folder, marker, message):
    (folder / MARKER).write_text(marker)

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
    monkeypatch.chdir(segment(folder))  # a socket's path is short
    special(Path(file_name(3)), kind)

    (summary,) = store.summaries()
    store.append("fashion", "pi-a", [(1, pack(4)), (2, pack(8))])

    assert (summary.files, summary.next) == (1, 1)
    assert read_packs(store, 0, 1, 2) == [pack(0), pack(4), pack(8)]
    assert list(store.verify()) == []


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_marker_that_is_no_file_marks_no_archive(folder, kind):
    folder.mkdir()
    special(folder / MARKER, kind)
    with pytest.raises(ArchiveUnavailable, match="no regular file"):
        open_archive(folder).check()


def test_no_link_leads_out_of_the_archive(store, folder, tmp_path):
    """Not a file, not a source, not a stream; what is beside them is read as ever."""
    other = new_archive(tmp_path / "other")
    other.append("fashion", "pi-b", [(0, pack(0))])
    outside = tmp_path / "other" / "fashion"
    store.append("fashion", "pi-a", [(0, pack(0))])
    (segment(folder) / file_name(1)).symlink_to(segment(tmp_path / "other", "pi-b") / file_name(0))
    (folder / "fashion" / "pi-b").symlink_to(outside / "pi-b")
    (folder / "sounds").symlink_to(outside)

    findings = {(Path(each.path).name, each.kind) for each in store.verify()}

    assert findings == {("pi-b", "foreign"), ("sounds", "foreign")}
    assert [summary.source for summary in store.summaries("fashion")] == ["pi-a"]
    assert [summary.source for summary in store.summaries()] == ["pi-a"]
    assert store.snapshot("fashion").sources == ("pi-a",)
    with pytest.raises(StorageError, match="leads out of the archive"):
        store.append("fashion", "pi-b", [(1, pack(4))])


def test_an_archive_may_itself_be_reached_by_a_link(store, folder, tmp_path):
    store.append("fashion", "pi-a", [(0, pack(0))])
    (tmp_path / "link").symlink_to(folder)
    assert list(open_archive(tmp_path / "link").verify()) == []
