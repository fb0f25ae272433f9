"""`edged node` under a real systemd: what it makes, again and again, killed, and undone."""

import os
import pty
import select
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.booted.site import NODES, PASSWORD, TOPOLOGY_FILE, BootedSite, put, topology

UNITS = "/etc/systemd/system"
KILLED_AT = """\
exec 3< <(exec edged node enable pi-a)
while read -r line <&3; do
  case $line in "$0"*) kill -KILL $!; exit 0 ;; esac
done
exit 1
"""
"""Enables a node, and kills the command as soon as it has printed a line that begins so."""

FILE_OF = "/etc/edged/credentials/{}/{}"


@pytest.fixture
def machine(booted_site: BootedSite) -> Iterator[BootedSite]:
    """The module's site; afterwards its nodes are enabled by its own topology again."""
    booted_site.restore()
    yield booted_site
    booted_site.configure(topology())
    for node in NODES:
        booted_site.machine.run("edged", "node", "enable", node)


def made(site: BootedSite) -> list[str]:
    """All of /etc by name, mode and owner."""
    return site.machine.shell("find /etc -printf '%p %M %u:%g\\n' | sort").splitlines()


def test_units_have_their_name_their_secret_and_the_archives_folder(machine):
    assert "NODE=pi-a" in machine.edge.show("Environment")["Environment"]
    assert machine.vault.show("ReadWritePaths")["ReadWritePaths"] == "/srv/edged"
    for unit in machine.units:
        given = machine.machine.run("cat", f"/run/credentials/{unit.name}.service/kafka-password")
        assert given == PASSWORD
    assert machine.machine.run("stat", "-c", "%a %U", "/etc/edged/credentials", "/etc/edged/credentials/pi-a") == (
        "700 root\n700 root\n"
    )


def test_a_second_time_nothing_is_done_and_everything_runs_on(machine):
    before = [unit.pid for unit in machine.units], made(machine)
    for node in NODES:
        assert machine.machine.run("edged", "node", "enable", node).startswith("nothing to do: ")
    assert ([unit.pid for unit in machine.units], made(machine)) == before


def test_a_topology_with_another_secret_is_told_of_and_followed(machine):
    machine.configure(topology().replace("cred:kafka-password", "cred:new-password"))
    told = machine.machine.tried("edged", "check", TOPOLOGY_FILE).stderr
    assert all(f"`edged node enable {node}` as root mends that" in told for node in NODES)

    pid = machine.edge.pid
    refused = machine.machine.tried("edged", "node", "enable", "pi-a")
    assert refused.returncode == 1
    assert "install -m 600 /dev/stdin /etc/edged/credentials/pi-a/new-password" in refused.stderr
    assert machine.edge.pid == pid

    put(machine.machine, FILE_OF.format("pi-a", "new-password"), PASSWORD, mode="600")
    since = machine.edge.now()
    machine.machine.run("edged", "node", "enable", "pi-a")
    machine.edge.wait_for("life.ready", since)
    assert machine.machine.run("ls", "/run/credentials/edged@pi-a.service") == "new-password\n"


def test_a_secret_typed_by_the_printed_command_is_shown_nowhere_and_has_no_line_break(machine):
    path = FILE_OF.format("pi-a", "typed")
    line = f"systemd-ask-password -n typed: | install -m 600 /dev/stdin {path}"
    terminal, end = pty.openpty()
    command = machine.machine.command("setsid", "--ctty", "--wait", "sh", "-c", line)
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end) as typed:
        os.close(end)
        shown = b""
        while b"typed:" not in shown:
            assert select.select([terminal], [], [], 60)[0]
            shown += os.read(terminal, 1000)
        os.write(terminal, b"my secret\n")
        assert typed.wait() == 0
    assert b"my secret" not in shown
    assert machine.machine.run("cat", path) == "my secret"
    assert machine.machine.run("stat", "-c", "%a", path) == "600\n"
    machine.machine.run("rm", path)


def test_disable_leaves_nothing_of_it_and_enable_brings_it_back(machine):
    for node in NODES:
        machine.machine.run("edged", "node", "disable", node)
    without = made(machine)
    assert [each for each in without if f"{UNITS}/edged" in each or "wants/edged" in each] == []
    assert all(unit.has(ActiveState="inactive", UnitFileState="disabled") for unit in machine.units)
    assert machine.checkpoints()

    for node in NODES:
        machine.machine.run("edged", "node", "enable", node)
    assert all(unit.has(ActiveState="active", UnitFileState="enabled") for unit in machine.units)
    for node in NODES:
        machine.machine.run("edged", "node", "disable", node)
    assert made(machine) == without


@pytest.mark.parametrize(
    "step",
    [
        "write /etc/systemd/system/edged@",
        "write /etc/systemd/system/edged-infer@",
        "systemctl daemon-reload",
        "systemctl enable",
        "systemctl start",
    ],
)
def test_after_a_kill_at_any_step_a_second_time_does_the_rest(machine, step):
    machine.machine.run("edged", "node", "disable", "pi-a")
    machine.machine.run("bash", "-c", KILLED_AT, step)
    machine.machine.run("edged", "node", "enable", "pi-a")
    for unit in (machine.edge, machine.companion):
        assert unit.has(ActiveState="active", UnitFileState="enabled", NeedDaemonReload="no")


def test_names_and_folders_that_mean_something_to_systemd(machine):
    """A node that is called as a mount is a service all the same, and the archive's folder is one word."""
    folder = "/srv/my 100% archive"
    machine.configure(
        topology().replace("file:///srv/edged", f"file://{folder}").replace("edges: [", "edges: [{name: a.mount}, ")
    )
    put(machine.machine, FILE_OF.format("a.mount", "kafka-password"), PASSWORD, mode="600")
    since = machine.vault.now()
    for node in ("vault", "a.mount"):
        machine.machine.run("edged", "node", "enable", node)
    assert machine.unit("edged@a.mount.service").has(ActiveState="active")
    assert machine.vault.show("ReadWritePaths")["ReadWritePaths"] == f'"{folder}"'
    machine.machine.run("runuser", "-u", "edged", "--", "edged", "archive", "init", TOPOLOGY_FILE)
    machine.vault.wait_for("health.recovered", since, part="archive")
    machine.machine.run("edged", "node", "disable", "a.mount")
    machine.machine.shell(f"rm -r '{folder}' /etc/edged/credentials/a.mount")


def test_a_file_system_that_is_not_mounted_is_named(machine):
    put(machine.machine, "/etc/fstab", "tmpfs /srv/edged tmpfs noauto 0 0\n")
    refused = machine.machine.tried("edged", "node", "enable", "vault")
    machine.machine.run("rm", "/etc/fstab")
    assert refused.returncode == 1
    assert "/srv/edged, which the archive's folder /srv/edged lies in, is not mounted" in refused.stderr


def test_a_read_only_etc_is_named_and_nothing_is_lost(machine):
    machine.machine.shell("mount --bind /etc /etc; mount -o remount,bind,ro /etc")
    refused = machine.machine.tried("edged", "node", "disable", "pi-a")
    machine.machine.run("umount", "/etc")
    assert refused.returncode == 1
    assert "Read-only file system" in refused.stderr
    machine.machine.run("edged", "node", "enable", "pi-a")
    assert machine.edge.has(ActiveState="active", UnitFileState="enabled")


def test_what_is_enabled_comes_back_at_a_boot(machine):
    machine.machine.reboot()
    for unit in machine.units:
        unit.until(lambda each: each.line.get("event") == "life.ready")
        assert unit.has(ActiveState="active")
