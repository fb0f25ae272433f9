"""Who is refused a file or folder is told which one bars the way, whose it is, and the command that mends it."""

import os
import subprocess
from pathlib import Path

import pytest

from edged.access import exposure, require_writable, why_dead, why_refused, why_unusable
from tests.support.rights import NOBODY, as_nobody, passable_folder

REFUSED = PermissionError(13, "Permission denied")


@pytest.fixture
def folder():
    with passable_folder() as made:
        yield made


def refused(path: Path) -> str:
    with as_nobody(), pytest.raises(OSError, match=r".") as caught:
        require_writable(path)
    with as_nobody():
        return why_refused(path, caught.value)


def obey(reason: str) -> None:
    subprocess.run(["sh", "-c", reason.split("`")[1]], check=True)


@pytest.mark.parametrize("name", ["pi-a", "pi a"])
def test_a_folder_of_another_user_is_told_with_its_owner_ours_and_the_command_that_gives_it_to_us(folder, name):
    path = folder / name
    path.mkdir(mode=0o755)
    (path / "cache.sqlite").touch()
    reason = refused(path)
    assert reason.startswith(f"{path} belongs to root (drwxr-xr-x), and this is nobody: `chown -R nobody: ")
    assert reason.endswith("` as root gives it to nobody")
    obey(reason)
    with as_nobody():
        require_writable(path)
    assert (path / "cache.sqlite").stat().st_uid == NOBODY


def test_a_folder_that_cannot_be_made_is_told_by_the_one_above_and_that_one_keeps_its_owner(folder):
    path = folder / "edged" / "pi-a"
    with as_nobody():
        reason = why_unusable(path)
    assert reason.startswith(
        f"{folder}/edged is not there, and {folder} belongs to root (drwxr-xr-x), and this is nobody: `install"
    )
    obey(reason)
    with as_nobody():
        assert why_unusable(path) == ""
    assert folder.stat().st_uid == 0


def test_a_folder_above_that_may_not_be_passed_is_told(folder):
    (folder / "closed" / "pi-a").mkdir(parents=True)
    (folder / "closed" / "pi-a").chmod(0o777)
    (folder / "closed").chmod(0o700)
    with as_nobody():
        reason = why_unusable(folder / "closed" / "pi-a")
    assert reason.startswith(f"{folder}/closed belongs to root (drwx------), and this is nobody: `chmod a+x ")
    obey(reason)
    with as_nobody():
        assert why_unusable(folder / "closed" / "pi-a") == ""


@pytest.mark.parametrize("below", ["", "fashion", "fashion/0.parquet"])
def test_a_person_is_not_told_to_take_what_is_a_services_but_to_act_as_it(folder, below):
    archive = folder / "edged"
    (archive / "fashion").mkdir(parents=True)
    for each, mode in ((archive, 0o750), (archive / "fashion", 0o755)):
        os.chown(each, 888, 888)
        each.chmod(mode)
    with as_nobody():
        reason = why_refused(archive / below, REFUSED)
    assert (
        reason == f"{archive} belongs to 888 (drwxr-x---), and this is nobody: run this by `sudo runuser -u 888 -- …`"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="root's rights")
def test_root_is_not_told_to_take_what_a_network_refuses_even_to_it(folder):
    """Of an NFS with root_squash the node's user has the archive, and root is nobody."""
    archive = folder / "edged"
    archive.mkdir(mode=0o750)
    os.chown(archive, NOBODY, NOBODY)
    assert why_refused(archive, REFUSED) == (
        f"{archive} belongs to nobody (drwxr-x---), and this is root: root is nobody there, as in a network file system"
        " with root_squash; do it as nobody, or on its server"
    )


def test_a_home_folder_is_not_to_be_opened_to_everybody(folder, monkeypatch):
    monkeypatch.setattr("edged.access._HOMES", folder)
    (folder / "pi").mkdir(mode=0o700)
    with as_nobody():
        reason = why_refused(folder / "pi" / "photos", REFUSED, reads=True)
    assert reason.endswith(": nobody else should pass it; put what is to be read elsewhere, such as below /srv")


def test_ones_own_folder_without_the_right_to_write_is_told(folder):
    path = folder / "pi-a"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o500)
    reason = refused(path)
    assert reason == f"{path} belongs to nobody (dr-x------), and this is nobody: `chmod u+rwX {path}` mends it"
    obey(reason)
    with as_nobody():
        require_writable(path)


def test_a_file_that_is_only_read_stays_its_owners(folder):
    file = folder / "topology.yaml"
    file.touch(mode=0o600)
    with as_nobody():
        with pytest.raises(PermissionError) as caught:
            file.open()
        reason = why_refused(file, caught.value, reads=True)
    assert reason.startswith(
        f"{file} belongs to root (-rw-------), and this is nobody: `chgrp nogroup {file} && chmod g+r"
    )
    obey(reason)
    with as_nobody(), file.open():
        assert file.stat().st_uid == 0


def test_a_file_in_place_of_a_folder_is_told(folder):
    (folder / "file").touch()
    assert why_unusable(folder / "file") == f"{folder}/file is no folder: move it away"
    assert why_unusable(folder / "file" / "pi-a") == f"{folder}/file is no folder: move it away"


@pytest.mark.parametrize("below", ["", "pi-a/jobs"])
def test_a_link_to_where_nothing_is_is_told_with_where_it_leads(folder, below):
    (folder / "edged").symlink_to("mnt/usb")
    reason = f"{folder}/edged is a link to {folder}/mnt/usb, where nothing is: mount or make that"
    assert why_dead(folder / "edged" / below) == reason
    assert why_unusable(folder / "edged" / below) == reason
    (folder / "mnt" / "usb").mkdir(parents=True)
    assert why_dead(folder / "edged" / below) == ""
    assert why_unusable(folder / "edged" / below) == ""


def test_what_is_not_known_is_the_systems_word(folder):
    assert why_refused(folder, REFUSED) == "Permission denied"
    assert why_refused(folder, OSError(5, "Input/output error")) == "Input/output error"


@pytest.mark.parametrize(
    ("mode", "owner", "group", "is_secret", "expected"),
    [
        (0o600, NOBODY, NOBODY, True, None),
        (0o400, NOBODY, 0, True, None),
        (0o440, 0, 0, True, None),  # a credential of systemd's whose access list names the user
        (0o440, 0, NOBODY, True, None),
        (0o660, NOBODY, NOBODY, True, None),
        (0o644, NOBODY, NOBODY, True, ("read", "chmod 600 FILE")),
        (0o644, 0, 0, True, ("read", "chgrp nogroup FILE && chmod 640 FILE")),
        (0o640, NOBODY, 1, True, ("read", "chmod 600 FILE")),
        (0o660, NOBODY, 1, True, ("written", "chmod 600 FILE")),
        (0o602, NOBODY, NOBODY, True, ("written", "chmod 600 FILE")),
        (0o666, 0, 0, True, ("written", "chgrp nogroup FILE && chmod 640 FILE")),
        (0o644, 0, 0, False, None),
        (0o646, 0, 0, False, ("written", "chmod go-w FILE")),
        (0o664, 0, 1, False, ("written", "chmod go-w FILE")),
    ],
)
def test_what_others_may_do_to_a_secret_or_a_certificate_is_told_with_the_command(
    folder, mode, owner, group, is_secret, expected
):
    file = folder / "kafka password"
    file.touch()
    os.chown(file, owner, group)
    file.chmod(mode)
    with as_nobody():
        seen = exposure(file, is_secret=is_secret)
    if expected is None:
        assert seen is None
        return
    verb, command = expected
    assert seen is not None
    assert (seen.is_writable, seen.mended) == (verb == "written", command.replace("FILE", f"'{file}'"))
    assert f"{file} may be {verb} by others (-" in seen.message
    subprocess.run(["sh", "-c", seen.mended], check=True)
    with as_nobody():
        assert exposure(file, is_secret=is_secret) is None
        assert os.access(file, os.R_OK, effective_ids=True)
