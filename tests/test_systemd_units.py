"""The units are correct, as confined as promised, and agree with the program about its folders.

`systemd-analyze` reads unit files without a running systemd. The program's place is replaced by one that exists, as
the installed one does not on a developer's machine.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edged.domain.systemd.enabling import wanted_by
from edged.domain.systemd.setup import TOPOLOGY, USER, setup_of
from edged.domain.topology import Archive
from edged.settings import Folders, Timing
from tests.support.requirements import require
from tests.support.valid_topology import VALID

UNITS = Path(__file__).parent.parent / "systemd"
NAMES = ("edged@.service", "edged-infer@.service")
INSTALLED = "/opt/edged/bin/edged"


@pytest.fixture
def analyze() -> str:
    return shutil.which("systemd-analyze") or require("systemd-analyze (Debian: systemd)")


def settings(name: str) -> dict[str, list[str]]:
    lines = (UNITS / name).read_text().splitlines()
    result: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith(("#", "[")) and "=" in line:
            key, value = line.split("=", 1)
            result.setdefault(key, []).append(value)
    return result


def examples(name: str) -> str:
    """The drop-in that the unit's comment shows."""
    indented = re.findall(r"^#   (\[Service\]|# .*|\w+=.*)$", (UNITS / name).read_text(), re.MULTILINE)
    return "\n".join(indented)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_examples", [False, True])
def test_systemd_finds_nothing_wrong_with_the_unit(analyze, tmp_path, name, with_examples):
    unit = tmp_path / name
    unit.write_text((UNITS / name).read_text().replace(INSTALLED, sys.executable))
    if with_examples:
        shown = examples("edged@.service")
        assert "SupplementaryGroups=" in shown
        (tmp_path / f"{name}.d").mkdir()
        (tmp_path / f"{name}.d" / "own.conf").write_text(shown)
        for number, folder in enumerate(("/srv/edged", '/srv/my "100%" archive \\ größe')):
            topology = replace(VALID, archive=(Archive("vault", f"file://{folder}"),))
            (made,) = setup_of(topology, "vault", {"kafka-password": "kafka.security"}).drop_ins.values()
            (tmp_path / f"{name}.d" / f"{number}.conf").write_text(made)
    run = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_exposes_no_more_than_a_score_of_1_5(analyze, name):
    run = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=15", "--no-pager", UNITS / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "Overall exposure level" in run.stdout


def test_the_user_is_made_by_sysusers(tmp_path):
    sysusers = shutil.which("systemd-sysusers") or require("systemd-sysusers (Debian: systemd)")
    (tmp_path / "etc").mkdir()
    subprocess.run([sysusers, f"--root={tmp_path}", UNITS / "edged.sysusers"], check=True, capture_output=True)
    assert (tmp_path / "etc/passwd").read_text().startswith("edged:x:")


@pytest.mark.parametrize(("name", "command"), [("edged@.service", "run"), ("edged-infer@.service", "infer")])
def test_the_unit_starts_its_command_for_the_instance(name, command):
    assert settings(name)["ExecStart"] == [f"{INSTALLED} {command} /etc/edged/topology.yaml --node %i"]


@pytest.mark.parametrize("name", NAMES)
def test_what_edged_node_takes_for_granted_is_the_units(name):
    """The file that they read, their user, and that a boot starts them by the link that `wanted_by` names."""
    unit = settings(name)
    assert TOPOLOGY in unit["ExecStart"][0].split()
    assert (unit["User"], unit["Group"]) == ([USER], [USER])
    assert unit["WantedBy"] == ["multi-user.target"]
    assert wanted_by("x") == "/etc/systemd/system/multi-user.target.wants/x"


@pytest.mark.parametrize("name", NAMES)
def test_a_clean_stop_fits_into_the_stop_timeout(name):
    assert Timing().stop_s < int(settings(name)["TimeoutStopSec"][0])


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_topology_is_not_started_again(name):
    assert settings(name)["RestartPreventExitStatus"] == ["78"]


def test_daemon_and_companion_see_the_same_state_folder_and_only_the_daemon_writes_it():
    daemon, companion = settings("edged@.service"), settings("edged-infer@.service")
    given = {"STATE_DIRECTORY": f"/var/lib/{daemon['StateDirectory'][0]}"}  # what systemd makes of it
    named = [value for value in companion["Environment"] if value.startswith("STATE_DIRECTORY=")]
    named_folder = named[0].removeprefix("STATE_DIRECTORY=").replace("%S", "/var/lib")
    assert Folders.of("pi-a", given).state == Folders.of("pi-a", {"STATE_DIRECTORY": named_folder}).state
    assert daemon["User"] == companion["User"]
    assert "StateDirectory" not in companion
    assert "ReadWritePaths" not in companion
    assert companion["ProtectSystem"] == ["strict"]


def test_both_units_have_the_same_sandbox():
    daemon, companion = ((UNITS / name).read_text().partition("# Sandbox")[2].split("\n", 1)[1] for name in NAMES)
    strip = re.compile(r"^#.*\n", re.MULTILINE)
    assert strip.sub("", daemon) == strip.sub("", companion)


@pytest.mark.parametrize("name", NAMES)
def test_a_node_is_started_again_however_often_it_has_failed(name):
    assert settings(name)["StartLimitIntervalSec"] == ["0"]
    assert settings(name)["Restart"] == ["on-failure"]
    assert int(settings(name)["RestartSec"][0]) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_reload_is_a_hangup_which_a_newer_systemd_sends_itself(name):
    assert settings(name)["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    newer = settings("systemd-254.conf")
    assert (newer["Type"], newer["ExecReload"]) == (["notify-reload"], [""])
    assert newer["RestartMaxDelaySec"] == ["2min"]
