"""Which actions bring a node to run, and take it off again, from what is there."""

from dataclasses import replace

import pytest

from edged.domain.systemd.actions import MakeFolder, RemoveFile, RemoveFolder, Systemctl, WriteFile
from edged.domain.systemd.enabling import Seen, UnitState, disabling, enabling, missing_secrets, wanted_by
from edged.domain.systemd.setup import drop_in_of, possible_units, setup_of
from tests.support.valid_topology import VALID

DAEMON, COMPANION = possible_units("pi-a")
EDGE, SECURE = setup_of(VALID, "pi-a", {}), setup_of(VALID, "pi-a", {"key": "kafka.security"})
UP = UnitState("active", is_enabled=True)


def seen(setup=EDGE, **changes):
    """A machine on which the setup is complete and runs."""
    complete = Seen(
        units={unit: UP if unit in setup.units else UnitState() for unit in possible_units(setup.node)},
        folders={each.path: each for each in setup.folders},
        files={drop_in_of(unit): text for unit, text in setup.drop_ins.items()},
        entries={f"{drop_in_of(unit).rpartition('/')[0]}": frozenset({"50-node.conf"}) for unit in setup.units},
        secrets=frozenset(setup.secrets.values()),
    )
    return replace(complete, **changes)


def bare(setup=EDGE):
    return Seen(units=dict.fromkeys(possible_units(setup.node), UnitState()))


def test_on_a_new_machine_folders_come_first_and_the_start_last():
    assert enabling(EDGE, bare()) == [
        *(MakeFolder(folder) for folder in EDGE.folders),
        *(WriteFile(drop_in_of(unit), EDGE.drop_ins[unit]) for unit in EDGE.units),
        Systemctl(("daemon-reload",)),
        Systemctl(("enable", DAEMON, COMPANION)),
        Systemctl(("start", DAEMON, COMPANION)),
    ]


def test_when_all_is_there_nothing_is_done():
    assert enabling(EDGE, seen()) == []


def test_without_its_secrets_a_node_gets_the_folders_for_them_and_nothing_else():
    assert enabling(SECURE, bare(SECURE)) == [MakeFolder(folder) for folder in SECURE.folders]
    assert missing_secrets(SECURE, bare(SECURE)) == SECURE.secrets


def test_a_node_that_runs_goes_on_while_a_new_secret_is_missing():
    running = seen(EDGE, folders={each.path: each for each in SECURE.folders})
    assert enabling(SECURE, running) == []
    assert missing_secrets(SECURE, running) == SECURE.secrets


def test_a_unit_is_stopped_before_its_drop_in_changes_and_started_after():
    actions = enabling(EDGE, seen(files={**seen().files, drop_in_of(DAEMON): "of another topology"}))
    assert actions == [
        Systemctl(("stop", DAEMON)),
        WriteFile(drop_in_of(DAEMON), EDGE.drop_ins[DAEMON]),
        Systemctl(("daemon-reload",)),
        Systemctl(("start", DAEMON)),
    ]


def test_a_unit_that_waits_to_be_started_again_is_stopped_too():
    waiting = {**seen().units, DAEMON: UnitState("activating", is_enabled=True)}
    actions = enabling(EDGE, seen(files={}, units=waiting))
    assert actions[0] == Systemctl(("stop", DAEMON, COMPANION))


@pytest.mark.parametrize("active", ["inactive", "failed", "activating"])
def test_a_unit_that_does_not_run_is_started(active):
    actions = enabling(EDGE, seen(units={DAEMON: UP._replace(active=active), COMPANION: UP}))
    assert actions == [Systemctl(("start", DAEMON))]


def test_files_that_systemd_has_not_read_yet_are_reloaded():
    assert enabling(EDGE, seen(units={DAEMON: UP._replace(is_stale=True), COMPANION: UP})) == [
        Systemctl(("daemon-reload",))
    ]


def test_folders_of_secrets_with_other_rights_are_mended_and_the_others_left():
    """systemd gives state and cache to the user with all that is in them, unless the folder alone was given before."""
    vault = setup_of(VALID, "vault", {"key": "kafka.security"})
    foreign = {each.path: each._replace(owner="1:1") for each in vault.folders}
    assert enabling(vault, seen(vault, folders=foreign)) == [
        MakeFolder(each) for each in vault.folders if each.path.startswith("/etc/edged/credentials")
    ]


def test_a_companion_that_the_topology_needs_no_longer_is_withdrawn():
    actions = enabling(setup_of(replace(VALID, jobs=()), "pi-a", {}), seen())
    assert actions == [
        Systemctl(("stop", COMPANION)),
        Systemctl(("disable", COMPANION)),
        RemoveFile(drop_in_of(COMPANION)),
        RemoveFolder(f"/etc/systemd/system/{COMPANION}.d"),
        Systemctl(("daemon-reload",)),
    ]


def test_disable_undoes_all_but_state_and_secrets():
    assert disabling("pi-a", seen()) == [
        Systemctl(("stop", DAEMON, COMPANION)),
        Systemctl(("disable", DAEMON, COMPANION)),
        RemoveFile(drop_in_of(DAEMON)),
        RemoveFolder(f"/etc/systemd/system/{DAEMON}.d"),
        RemoveFile(drop_in_of(COMPANION)),
        RemoveFolder(f"/etc/systemd/system/{COMPANION}.d"),
        Systemctl(("daemon-reload",)),
    ]


def test_disable_of_what_is_not_enabled_does_nothing():
    assert disabling("pi-a", bare()) == []


def test_an_administrators_own_drop_in_stays_and_its_folder():
    folder = f"/etc/systemd/system/{DAEMON}.d"
    entries = {**seen().entries, folder: frozenset({"50-node.conf", "override.conf"})}
    assert RemoveFolder(folder) not in disabling("pi-a", seen(entries=entries))


@pytest.mark.parametrize(
    ("own", "all_nodes", "removed"),
    [
        (set(), {"pi-a"}, ["/etc/edged/credentials/pi-a", "/etc/edged/credentials"]),
        (set(), {"pi-a", "vault"}, ["/etc/edged/credentials/pi-a"]),
        ({"key"}, {"pi-a"}, []),
    ],
    ids=["empty", "another node's", "with a secret"],
)
def test_folders_for_secrets_are_removed_once_they_are_empty(own, all_nodes, removed):
    entries = {"/etc/edged/credentials/pi-a": frozenset(own), "/etc/edged/credentials": frozenset(all_nodes)}
    actions = disabling("pi-a", replace(bare(), entries=entries))
    assert actions == [RemoveFolder(each) for each in removed]


def test_a_failed_unit_is_forgotten():
    assert disabling(
        "pi-a", seen(units={DAEMON: UnitState("failed"), COMPANION: UnitState()}, files={}, entries={})
    ) == [Systemctl(("reset-failed", DAEMON))]


def test_the_link_of_a_unit_whose_file_is_gone_is_removed():
    """As after the package was removed: systemctl does not know the unit any more."""
    gone = UnitState(is_enabled=True, is_installed=False)
    actions = disabling("pi-a", replace(bare(), units={DAEMON: gone, COMPANION: UnitState(is_installed=False)}))
    assert actions == [RemoveFile(wanted_by(DAEMON))]


def test_a_masked_units_link_is_removed_as_systemctl_leaves_it():
    masked = UnitState(is_enabled=True, masked_by=f"/etc/systemd/system/{DAEMON}")
    actions = disabling("pi-a", seen(units={DAEMON: masked, COMPANION: UP}))
    assert actions[:3] == [
        Systemctl(("stop", COMPANION)),
        Systemctl(("disable", COMPANION)),
        RemoveFile(wanted_by(DAEMON)),
    ]
