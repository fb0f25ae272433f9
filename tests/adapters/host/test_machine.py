"""What is seen of a machine, and what changes it, in a folder with a systemctl of its own."""

import errno
import fcntl
import os
import stat
import subprocess
import sys

import pytest

from edged.adapters.host.machine import Machine
from edged.domain.systemd.actions import MakeFolder, RemoveFile, RemoveFolder, Systemctl, WriteFile
from edged.domain.systemd.enabling import UnitState
from edged.domain.systemd.setup import Folder, drop_in_of, setup_of
from edged.errors import MachineUnfit
from tests.support.fake_machine import UNITS, FakeMachine
from tests.support.valid_topology import VALID

DAEMON = "edged@pi-a.service"
SETUP = setup_of(VALID, "pi-a", {"key": "kafka.security"})
VAULT = setup_of(VALID, "vault", {})


@pytest.fixture
def fake(tmp_path, monkeypatch, process):
    return FakeMachine(tmp_path / "root", monkeypatch)


@pytest.fixture
def machine(fake):
    return fake.opened()


def test_a_new_machine_lacks_nothing_and_has_nothing(machine):
    machine.require_systemd()
    assert list(machine.lacks(SETUP)) == []
    seen = machine.seen("pi-a", SETUP)
    assert set(seen.units.values()) == {UnitState()}
    assert (seen.folders, seen.files, seen.entries, seen.secrets) == ({}, {}, {}, frozenset())


def test_without_systemd_it_is_unfit(fake, machine, monkeypatch):
    (fake.root / "run/systemd/system").rmdir()
    with pytest.raises(MachineUnfit, match="not run by systemd"):
        machine.require_systemd()
    (fake.root / "run/systemd/system").mkdir()
    monkeypatch.setenv("PATH", str(fake.root))
    with pytest.raises(MachineUnfit, match="not run by systemd"):
        machine.require_systemd()


def test_all_that_it_lacks_is_told_at_once(fake):
    (fake.root / "usr/lib/systemd/system/edged-infer@.service").unlink()
    lacks = list(Machine(fake.root, dict[str, tuple[int, int]]().__getitem__).lacks(SETUP))
    assert len(lacks) == 2
    assert "edged-infer@.service" in lacks[0]
    assert "systemd-sysusers" in lacks[1]


@pytest.mark.parametrize("link", [DAEMON, "edged@.service"])
def test_a_masked_unit_is_lacking_with_how_to_unmask_it(fake, machine, link):
    (fake.root / UNITS / link).symlink_to("/dev/null")
    assert list(machine.lacks(SETUP)) == [f"{DAEMON} is masked: `systemctl unmask {link}` lets it be started"]


@pytest.mark.parametrize("file", [f"{UNITS}/edged@.service", "usr/lib/systemd/system/edged@.service"])
def test_a_unit_whose_file_a_power_cut_has_emptied_is_to_be_installed_again(fake, machine, file):
    """systemd calls it masked."""
    fake.put(file)
    lacking = f"/{file} is empty: install the package of edged again, or the file by hand"
    assert list(machine.lacks(SETUP)) == [lacking]


def test_a_unit_of_an_installation_that_is_gone_or_closed_to_the_nodes_user_is_told(fake, machine):
    """As one in /etc, which wins over a package's; and pip by a umask of 077."""
    fake.put("usr/lib/systemd/system/edged@.service", "[Service]\nExecStart=/opt/edged/bin/edged run x\n")
    [gone] = machine.lacks(SETUP)
    assert gone.startswith(f"{DAEMON} runs /opt/edged/bin/edged, which is not there: remove the file of another")
    program = fake.put("opt/edged/bin/edged")
    program.chmod(0o755)
    assert list(machine.lacks(SETUP)) == []
    fake.ids["edged"] = (4243, 4243)
    (fake.root / "opt/edged").chmod(0o700)
    assert list(machine.lacks(SETUP)) == [
        "the node's user edged may not run /opt/edged/bin/edged: `chmod -R a+rX /opt/edged` lets it"
    ]


@pytest.mark.parametrize(
    ("fstab", "mounted", "lacks"),
    [
        ("", "/", []),
        ("/dev/sda1 /srv ext4 defaults 0 2\n", "/", ["/srv"]),
        ("/dev/sda1 /srv ext4 defaults 0 2\n", "/srv", []),
        ("/dev/sda1 /srv/edged ext4 defaults 0 2\n", "/", ["/srv/edged"]),
        ("#/dev/sda1 /srv/edged ext4 defaults 0 2\n/dev/sdb none swap\n\n", "/", []),
        ("/dev/sda1 /srv/ed ext4 defaults 0 2\n", "/", []),
    ],
)
def test_a_file_system_of_fstab_that_is_not_mounted_is_lacking(fake, machine, fstab, mounted, lacks):
    """Else the archive would go to the SD card below it."""
    fake.put("etc/fstab", fstab)
    fake.put("proc/self/mountinfo", f"22 1 8:1 / {mounted} rw - ext4 /dev/sda1 rw\n")
    assert [each.partition(",")[0] for each in machine.lacks(VAULT)] == lacks


def test_a_mount_points_name_is_read_as_fstab_escapes_it(fake, machine):
    vault = setup_of(VALID, "vault", {})
    fake.put("etc/fstab", "/dev/sda1 /srv\\040x ext4\n")
    fake.put("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    (fake.root / "srv x").mkdir()
    spaced = type(vault)("vault", vault.drop_ins, vault.folders, {}, "/srv x/edged")
    assert [each.partition(",")[0] for each in machine.lacks(spaced)] == ["/srv x"]


def test_an_archives_folder_is_not_made_where_the_one_above_it_is_missing(fake, machine):
    (fake.root / "srv").rmdir()
    [lacking] = machine.lacks(VAULT)
    assert lacking.startswith("/srv, which the archive's folder /srv/edged lies in, is not there")


def test_a_folder_has_its_mode_and_owner_and_is_seen_so(fake, machine):
    folder = Folder("/var/lib/edged", 0o750, "edged", is_data=True)
    machine.carry_out(MakeFolder(folder))
    status = (fake.root / "var/lib/edged").stat()
    assert (stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)) == (0o750, fake.ids["edged"])
    assert machine.seen("pi-a", SETUP).folders == {folder.path: folder}

    (fake.root / "var/lib/edged").chmod(0o755)
    assert machine.seen("pi-a", SETUP).folders[folder.path].mode == 0o755
    machine.carry_out(MakeFolder(folder))
    assert machine.seen("pi-a", SETUP).folders == {folder.path: folder}


def test_a_data_folder_is_there_once_it_is_its_owners(fake, machine, monkeypatch):
    """A kill between would leave one that is root's alone, and counts as somebody's data."""
    folder = Folder("/srv/edged", 0o750, "edged", is_data=True)
    fake.put("srv/.edged.tmp").unlink()
    with monkeypatch.context() as patched:
        patched.setattr("os.chown", interrupt)
        with pytest.raises(KeyboardInterrupt):
            machine.carry_out(MakeFolder(folder))
    assert machine.seen("vault", VAULT).folders == {}
    machine.carry_out(MakeFolder(folder))
    assert machine.seen("vault", VAULT).folders == {folder.path: folder}
    assert [each.name for each in (fake.root / "srv").iterdir()] == ["edged"]


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_folder_that_its_file_system_gives_to_nobody_is_told_and_leaves_nothing(fake, machine, monkeypatch):
    """Of FAT, say, or of a network's that squashes root."""
    fake.put("srv/other").unlink()
    monkeypatch.setattr("os.chown", refuse)
    for is_there in (False, True):
        if is_there:
            (fake.root / "srv/edged").mkdir()
        with pytest.raises(MachineUnfit, match=r"^/srv/edged: its file system .* edged: mount it with uid=edged,gid="):
            machine.carry_out(MakeFolder(Folder("/srv/edged", 0o750, "edged", is_data=True)))
        assert [each.name for each in (fake.root / "srv").iterdir()] == (["edged"] if is_there else [])


def refuse(*_, **_options):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("target", ["", "/nowhere/at/all"], ids=["file", "dead link"])
def test_what_is_in_the_place_of_a_folder_stays_and_is_named(fake, machine, target):
    place = fake.put("var/lib/edged")
    if target:
        place.unlink()
        place.symlink_to(target)
    assert machine.seen("pi-a", SETUP).folders.keys() == set() if target else {"/var/lib/edged"}
    with pytest.raises(MachineUnfit, match=r"/var/lib/edged (is no folder|is a link to /nowhere/at/all, where)"):
        machine.carry_out(MakeFolder(Folder("/var/lib/edged", 0o750, "edged", is_data=True)))
    assert os.path.lexists(place)


def test_who_would_change_the_machine_at_the_same_time_waits(fake, machine):
    with machine.alone():
        folder = os.open(fake.root / UNITS, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)


def test_a_drop_in_is_readable_by_all_and_seen(fake, machine):
    machine.carry_out(WriteFile(drop_in_of(DAEMON), "[Service]\n"))
    file = fake.root / drop_in_of(DAEMON).lstrip("/")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("[Service]\n", 0o644)
    assert [each.name for each in file.parent.iterdir()] == ["50-node.conf"]
    assert machine.seen("pi-a").files == {drop_in_of(DAEMON): "[Service]\n"}
    assert machine.drop_ins() == {DAEMON: "[Service]\n"}


def test_a_path_is_written_in_its_own_bytes_whatever_the_locale_says(tmp_path):
    program = (
        "import os, pathlib, sys\n"
        "from edged.adapters.host.machine import Machine, WriteFile\n"
        "machine, text = Machine(pathlib.Path(sys.argv[1])), os.fsdecode(b'/srv/k\\xc3\\xb6der')\n"
        f"machine.carry_out(WriteFile('{drop_in_of(DAEMON)}', text))\n"
        "assert machine.drop_ins() == {'" + DAEMON + "': text}\n"
    )
    (tmp_path / UNITS).mkdir(parents=True)
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, env={**os.environ, **locale, **paths})
    assert (tmp_path / drop_in_of(DAEMON).lstrip("/")).read_bytes() == "/srv/k\u00f6der".encode()


def test_what_a_killed_write_left_is_no_drop_in_and_is_in_nobodys_way(fake, machine):
    left = fake.put(f"{drop_in_of(DAEMON).rpartition('/')[0]}/.50-node.conf.tmp", "[Serv")
    assert machine.seen("pi-a").files == {}
    assert machine.seen("pi-a").entries == {f"/{UNITS}/{DAEMON}.d": frozenset()}
    machine.carry_out(RemoveFolder(f"/{UNITS}/{DAEMON}.d"))
    assert not left.parent.exists()


@pytest.mark.parametrize("empty", ["", "\n", "\r\n"])
def test_a_secret_counts_once_it_is_a_file_and_not_empty(fake, machine, empty):
    path = SETUP.secrets["key"]
    fake.put(path, empty)
    assert machine.seen("pi-a", SETUP).secrets == frozenset()
    fake.put(path, "hush")
    assert machine.seen("pi-a", SETUP).secrets == {path}


@pytest.mark.parametrize("kind", ["FIFO", "folder", "loop"])
def test_what_is_no_file_in_a_secrets_or_a_drop_ins_place_keeps_nobody_waiting(fake, machine, kind):
    for path in (SETUP.secrets["key"], drop_in_of(DAEMON)):
        place = fake.put(path)
        place.unlink()
        match kind:
            case "FIFO":
                os.mkfifo(place)
            case "folder":
                place.mkdir()
            case _:
                place.symlink_to(place)
    assert machine.drop_ins() == {}
    if kind != "FIFO":  # systemd itself would wait
        with pytest.raises(MachineUnfit, match=r"50-node\.conf"):
            machine.seen("pi-a", SETUP)
    place.rmdir() if kind == "folder" else place.unlink()
    assert machine.seen("pi-a", SETUP).secrets == frozenset()


def test_an_archive_that_root_may_not_look_into_is_there_and_one_that_it_may_not_even_see_is_told(
    fake, machine, monkeypatch
):
    """Of a network file system that squashes root: the node's user may."""
    (fake.root / "srv/edged").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.iterdir", refuse)
        seen = machine.seen("vault", VAULT)
    assert ("/srv/edged" in seen.folders, "/srv/edged" in seen.entries) == (True, False)
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.stat", refuse)
        for look in (lambda: machine.lacks(VAULT), lambda: machine.closed_to_node(["/srv/ca.pem"])):
            with pytest.raises(MachineUnfit, match=r": Operation not permitted$"):
                list(look())


def test_a_file_in_a_folders_place_does_not_keep_a_node_on_the_machine(fake, machine):
    """What disables it looks into both folders, and removes only empty ones."""
    for path in ("etc/edged/credentials", f"{UNITS}/{DAEMON}.d"):
        fake.put(path)
    assert machine.seen("pi-a").entries == {}


def test_a_units_state_is_systemds(fake, machine):
    fake.put("etc/edged/credentials/pi-a/key", "hush")
    machine.carry_out(WriteFile(drop_in_of(DAEMON), SETUP.drop_ins[DAEMON]))
    assert machine.seen("pi-a").units[DAEMON] == UnitState(is_stale=True)
    for words in (("daemon-reload",), ("enable", DAEMON), ("start", DAEMON)):
        machine.carry_out(Systemctl(words))
    assert machine.seen("pi-a").units[DAEMON] == UnitState("active", is_enabled=True)
    machine.carry_out(RemoveFile(drop_in_of(DAEMON)))
    assert machine.seen("pi-a").units[DAEMON].is_stale


def test_what_systemctl_says_when_it_fails_is_the_reason(fake, machine):
    fake.put("run/fake/broken")
    with pytest.raises(MachineUnfit, match=rf"^`systemctl start {DAEMON}`: Job for {DAEMON} failed"):
        machine.carry_out(Systemctl(("start", DAEMON)))


def test_the_units_own_variables_are_known(fake, machine):
    assert machine.environment("pi-a") == {}
    fake.put("run/fake/environment", 'A=1 "B=two words" C=$x\n')
    assert machine.environment("pi-a") == {"A": "1", "B": "two words", "C": "$x"}
    fake.put("run/fake/environment", 'A="\n')
    assert machine.environment("pi-a") == {}


def test_what_the_system_refuses_is_told_with_its_path(fake, machine):
    fake.put(f"{UNITS}/{DAEMON}.d", "a file in the way")
    with pytest.raises(MachineUnfit, match=r"50-node\.conf: .*edged@pi-a\.service\.d is no folder"):
        machine.carry_out(WriteFile(drop_in_of(DAEMON), "[Service]\n"))
