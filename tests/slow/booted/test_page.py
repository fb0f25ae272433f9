"""Every command of systemd/README.md, as it stands there, on a machine that has nothing of edged yet.

Both ways of installing edged lead to a site that runs by the page's other commands.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.booted.machine import Machine
from tests.support.booted.packages import build_packages
from tests.support.booted.site import KAFKA_PORT, TOPOLOGY_FILE, put, unpack_kafka
from tests.support.booted.units import Unit
from tests.support.pages import ROOT, pages

PAGE = pages()["systemd/README.md"]

BY_PACKAGE = ("apt install ./",)
FOR_ARCHIVE = "apt install ./edged*_0.1.0+deb13_arm64.deb"
BY_PIP = ("python3 -m venv", "ln -s", "install -m 644 systemd/", "install -D -m 644 systemd/")
"""How the commands of each way of installing edged begin."""

FROM_254 = "systemd-254.conf"
"""In commands that are only for a systemd that knows it."""

ELSEWHERE = ("edged replay", "mosquitto_sub -i edged:")
"""Commands that want a group's log, or an MQTT broker: see test_docs_commands.py, test_mqtt_bridge.py."""

OF_BROKER = re.compile(r"openjdk|systemd/kafka|-[gu] kafka|--now kafka")
"""In commands that make the example of a broker on a Pi, in the page's order."""

ADAPTED = {
    " -f ": " ",
    "--rate 50": "--rate max",
    "_0.1.0+deb13_arm64.deb": "_*.deb",
    "systemd-ask-password -n kafka-password:": "echo -n a-secret",
    "apt install openjdk-17-jre-headless": "java -version",
    "edged archive": "runuser -u edged -- edged archive",  # as the page says of all of them
    "runuser -u edged -- runuser -u edged -- ": "runuser -u edged -- ",
}
"""Replacements in commands, so that they end, soon, and without a person."""

RUNNING = ("systemctl reload edged@", "systemctl restart edged@", "journalctl -u edged@")
"""How commands in passing begin that are about a node that runs."""


def of_broker() -> list[str]:
    return [each for each in PAGE.commands() if OF_BROKER.search(each)]


def of_nodes() -> list[str]:
    return [each for each in PAGE.commands() if not OF_BROKER.search(each)]


def installing(way: tuple[str, ...]) -> list[str]:
    return [each for each in of_nodes() if each.startswith(way)]


def others() -> list[str]:
    return [each for each in of_nodes() if not each.startswith((*BY_PACKAGE, *BY_PIP, *ELSEWHERE))]


def in_passing() -> list[str]:
    return [each for each in PAGE.spans if each.startswith(RUNNING)]


@pytest.fixture
def machine(suite, files) -> Iterator[Machine]:
    """One with the page's own broker and, in /srv/site, a topology."""
    with (
        tempfile.TemporaryDirectory(prefix="edged-booted-", dir="/var/tmp") as folder,
        Machine(suite, Path(folder) / suite, seen=files) as machine,
    ):
        machine.boot()
        unpack_kafka(machine)
        shutil.copytree(ROOT / "systemd" / "kafka", machine.file("/srv/site/systemd/kafka"))
        settings = machine.file("/srv/site/systemd/kafka/server.properties")
        settings.write_text(settings.read_text().replace("broker.site.lan", "127.0.0.1"))
        assert len(of_broker()) >= 7
        for command in of_broker():
            run(machine, command)
        greenhouse = (ROOT / "config" / "02-greenhouse.yaml").read_text()
        put(
            machine,
            "/srv/site/topology.yaml",
            greenhouse.replace("broker.greenhouse.lan:9092", f"127.0.0.1:{KAFKA_PORT}"),
        )
        yield machine


def run(machine: Machine, command: str, *, network: bool = False) -> str:
    for there, here in ADAPTED.items():
        command = command.replace(there, here)
    return machine.shell(f"cd /srv/site; {command}", network=network)


def run_others(machine: Machine) -> None:
    """All but the installation, in the page's order."""
    edge, vault = Unit(machine, "edged@pi-a"), Unit(machine, "edged@vault")
    machine.run("install", "-d", "-m", "700", "/etc/edged/credentials/pi-a")  # where the topology names secrets
    for command in others():
        run(machine, command)
        if command.startswith("edged node enable pi-a"):
            for unit in (edge, Unit(machine, "edged-infer@pi-a")):
                assert unit.has(ActiveState="active", UnitFileState="enabled")
            assert in_passing()
            for named in in_passing():
                run(machine, named)
        elif command.startswith("edged node disable pi-a"):
            assert edge.has(ActiveState="inactive", UnitFileState="disabled")
        elif "archive init" in command:
            vault.wait_for("health.recovered", part="archive")
    assert vault.has(ActiveState="active", NRestarts="0")
    assert machine.file(TOPOLOGY_FILE).exists()


def test_every_command_is_of_a_kind_that_is_run():
    assert len(others()) >= 10
    for command in others():
        assert re.match(r"(edged|install|runuser|journalctl|systemd-ask-password|systemctl) ", command), command


def test_by_the_packages(machine, suite):
    with tempfile.TemporaryDirectory() as folder:
        for each in build_packages(suite, Path(folder)):
            shutil.copy(each, machine.file("/srv/site"))
    assert FOR_ARCHIVE in PAGE.spans
    for command in [*installing(BY_PACKAGE), FOR_ARCHIVE]:
        run(machine, command.replace("apt install", "apt install --yes"))
    run_others(machine)


def test_by_pip_in_a_checkout(machine):
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(
        ["xargs", "-0", "cp", "--parents", "-t", machine.file("/srv/site")], cwd=ROOT, input=files, check=True
    )
    assert "apt install gcc libc6-dev" in PAGE.spans
    machine.shell("apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev", network=True)
    for command in installing(BY_PIP):
        if machine.systemd >= 254 or FROM_254 not in command:
            run(machine, command.replace("pip install .", "pip install '.[archive]'"), network="pip" in command)
    run_others(machine)
    assert "computed by compiled kernels" in run(machine, "edged check topology.yaml")
