"""An edge on a machine that was booted for it: installed, ready, and stopped. See also: tests/slow/booted."""

import tempfile
from pathlib import Path

from tests.support.booted.machine import Machine, need_machine
from tests.support.booted.packages import build_packages
from tests.support.booted.site import TOPOLOGY_FILE, install, put
from tests.support.booted.units import UNIT_STARTED, Unit
from tests.support.pages import ROOT


def test_an_edge_that_was_installed_is_ready_without_its_broker_and_stops_cleanly():
    need_machine()
    with tempfile.TemporaryDirectory(prefix="edged-booted-", dir="/var/tmp") as folder:
        packages = build_packages("bookworm", Path(folder) / "packages", "edged")
        with Machine("bookworm", Path(folder) / "bookworm") as machine:
            machine.boot()
            install(machine, packages)
            put(machine, TOPOLOGY_FILE, (ROOT / "config" / "02-greenhouse.yaml").read_text())
            machine.run("edged", "node", "enable", "pi-a")

            units = [Unit(machine, name) for name in ("edged@pi-a", "edged-infer@pi-a")]
            for unit in units:
                unit.wait_for("life.ready")
                unit.until(lambda each: each.is_kind(UNIT_STARTED))
                assert unit.has(ActiveState="active", SubState="running", NRestarts="0")
            machine.run("edged", "node", "disable", "pi-a")
            for unit in units:
                assert unit.wait_for("life.stopped")["exit_code"] == 0
                assert unit.has(ActiveState="inactive", Result="success", UnitFileState="disabled")
