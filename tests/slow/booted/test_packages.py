"""The packages under a running site: an upgrade, a full disk, a removal, and the way back."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged import __version__
from tests.support.booted.machine import Machine
from tests.support.booted.site import PACKAGES, BootedSite
from tests.support.small_disk import fill, mount, mounted


@pytest.fixture(scope="module")
def packages() -> str:
    """As arguments of apt."""
    return f"{PACKAGES}/edged_*.deb {PACKAGES}/edged-archive_*.deb"


NEWER = "/var/newer"
VERSION = "0.99.0"
_MAKE_NEWER = f"""
mkdir -p {NEWER}
for file in {PACKAGES}/*.deb; do
    dpkg-deb --raw-extract $file {NEWER}/tree
    sed -i 's/{__version__}+deb/{VERSION}+deb/' {NEWER}/tree/DEBIAN/control
    find {NEWER}/tree -path '*/site-packages/edged/__init__.py' -exec sed -i 's/{__version__}/{VERSION}/' {{}} +
    dpkg-deb -Znone --build {NEWER}/tree {NEWER}
    rm -r {NEWER}/tree
done
"""


def apt(site: BootedSite, command: str) -> None:
    site.machine.shell(f"apt-get --yes {command}")


def test_an_upgrade_restarts_the_nodes_that_run_and_they_resume(site, packages):
    site.edge.wait_for("checkpoint.saved", site.edge.now())
    site.machine.run("systemctl", "stop", site.companion.name)
    since, pids = site.edge.now(), {unit.name: unit.pid for unit in (site.vault, site.edge)}

    apt(site, f"install --reinstall {packages}")

    for unit in (site.vault, site.edge):
        assert unit.wait_for("life.stopped", since)["exit_code"] == 0
        assert unit.pid not in {0, pids[unit.name]}
    started = site.edge.wait_for("train.started", since)
    assert (started["resumed"], started["step"]) == (True, site.saved_at_its_stop(since))
    assert site.companion.has(ActiveState="inactive")


def test_an_upgrade_to_another_version_goes_on_where_the_older_one_was_also_of_one_package_alone(site, packages):
    site.edge.wait_for("checkpoint.saved", site.edge.now())
    site.companion.wait_for("infer.model_loaded", "")
    site.machine.shell(_MAKE_NEWER)
    since = site.edge.now()

    apt(site, f"install {NEWER}/edged_*.deb")

    for unit in site.units:
        assert unit.wait_for("life.stopped", since)["exit_code"] == 0
        assert unit.wait_for("life.started", since)["version"] == VERSION
    started = site.edge.wait_for("train.started", since)
    assert (started["resumed"], started["step"]) == (True, site.saved_at_its_stop(since))
    site.companion.wait_for("infer.model_loaded", since)

    since = site.vault.now()
    apt(site, f"install {NEWER}/edged-archive_*.deb")
    assert site.vault.wait_for("life.started", since)["version"] == VERSION

    since = site.vault.now()
    apt(site, f"install --allow-downgrades {packages}")
    assert site.vault.wait_for("life.started", since)["version"] == __version__


def test_an_upgrade_is_complete_though_units_do_not_come_up_again(site, packages):
    """One is masked, and the others' topology is wrong."""
    site.machine.run("systemctl", "mask", site.companion.name)
    site.configure("schema: 1")

    apt(site, f"install --reinstall {packages}")

    site.machine.run("systemctl", "unmask", site.companion.name)
    assert site.machine.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "edged", "edged-archive") == "ii ii "
    assert all(unit.has(ActiveState="failed", ExecMainStatus="78") for unit in (site.vault, site.edge))


def test_a_removal_stops_the_nodes_and_leaves_what_they_wrote_from_which_they_go_on(site, packages):
    site.edge.wait_for("checkpoint.saved", site.edge.now())
    since = site.edge.now()

    apt(site, "remove edged edged-archive")

    for unit in site.units:
        assert unit.wait_for("life.stopped", since)["exit_code"] == 0
        assert unit.pid == 0
    saved = site.checkpoints()[-1]
    assert site.machine.tried("edged", "--help").returncode == 127
    assert not list(site.machine.file("/usr/lib").glob("edged/**/*.so"))

    apt(site, f"install {packages}")
    site.machine.run("systemctl", "start", *(unit.name for unit in site.units))
    assert site.edge.wait_for("train.started", since)["step"] == saved


_MAKE_UNAWARE = f"""
dpkg-deb --raw-extract {PACKAGES}/edged_*.deb /var/unaware
sed -i 's/-lt [0-9]* ]/-lt 0 ]/' /var/unaware/DEBIAN/preinst
dpkg-deb -Znone --build /var/unaware /var/unaware.deb
rm -r /var/unaware
"""
"""A package that does not look at the room there is, as if another program took it meanwhile."""


@pytest.fixture
def cramped(suite, files, installed_layer, tmp_path) -> Iterator[tuple[BootedSite, Path]]:
    """A site of the test's own, and the small file system in memory that it is on."""
    with (
        mounted(tmp_path, "size=4g") as disk,
        Machine(suite, disk / suite, over=installed_layer, seen=files) as machine,
    ):
        settings = machine.layer / "etc/systemd/journald.conf.d/tests.conf"
        settings.parent.mkdir(parents=True)
        settings.write_text("[Journal]\nSystemKeepFree=1M\n")  # it leaves 15 % of a disk, and writes nothing then
        machine.boot()
        site = BootedSite(machine)
        site.restore()
        yield site, disk


def leave_free(disk: Path, mebibytes: int) -> None:
    found = os.statvfs(disk)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    mount(disk, f"remount,size={used + (mebibytes << 20)}")


def test_a_full_disk_at_an_upgrade_leaves_the_node_at_work_and_the_package_whole(cramped, packages):
    site, disk = cramped
    apt(site, f"install --reinstall {packages}")  # out of the overlay's lower folder, whose files dpkg cannot restore
    site.machine.shell(_MAKE_UNAWARE)
    site.edge.wait_for("checkpoint.saved", site.edge.now())
    pid = site.edge.pid

    def refused(files: str) -> str:
        done = site.machine.tried("bash", "-c", f"apt-get --yes install --reinstall {files}")
        assert done.returncode != 0
        printed: str = done.stdout + done.stderr
        return printed

    def assert_nothing_has_changed() -> None:
        site.machine.run("systemctl", "start", "kafka")  # which ends itself when its disk is full
        site.edge.wait_for("checkpoint.saved", site.edge.now())
        assert site.edge.pid == pid
        assert site.machine.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "edged", "edged-archive") == "ii ii "
        assert site.machine.run("dpkg", "--verify", "edged", "edged-archive") == ""
        assert site.machine.run("find", "/usr/lib/edged/lib", "-path", "*/edged/__pycache__/*.pyc") != ""

    leave_free(disk, 60)
    assert re.search(r"needs \d+ MiB on the file system of /usr, and \d\d MiB are free", refused(packages))
    assert_nothing_has_changed()

    assert "No space left on device" in refused("/var/unaware.deb")
    assert_nothing_has_changed()

    filler = fill(disk)
    refused(packages)
    filler.unlink()
    assert_nothing_has_changed()

    mount(disk, "remount,size=4g")
    since = site.edge.now()
    apt(site, f"install --reinstall {packages}")
    started = site.edge.wait_for("train.started", since)
    assert (started["resumed"], started["step"]) == (True, site.saved_at_its_stop(since))
