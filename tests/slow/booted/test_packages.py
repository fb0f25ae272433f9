"""The packages under a running site: an upgrade, a removal, and the way back."""

import pytest

from tests.support.booted.site import PACKAGES, BootedSite


@pytest.fixture(scope="module")
def packages() -> str:
    """As arguments of apt."""
    return f"{PACKAGES}/edged_*.deb {PACKAGES}/edged-archive_*.deb"


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
