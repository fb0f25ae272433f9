"""The example of a broker on a Pi: its unit is correct and confined, and its settings start a small Apache Kafka."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.brokers import Apache, kafka_jars
from tests.support.pages import ROOT, pages
from tests.support.requirements import require

EXAMPLE = ROOT / "systemd" / "kafka"
UNIT = EXAMPLE / "kafka.service"


def command() -> list[str]:
    """What the unit starts."""
    (found,) = re.findall(r"^ExecStart=(.*)$", UNIT.read_text().replace("\\\n", " "), re.MULTILINE)
    return shlex.split(found)


def settings() -> dict[str, str]:
    lines = (EXAMPLE / "server.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


class Example(Apache):
    """Apache Kafka by the example, but for the places: folders, ports and jars are the tests'."""

    def __init__(self) -> None:
        its = settings()
        for place in ("node.id", "controller.quorum.voters", "listeners", "advertised.listeners", "log.dirs"):
            its.pop(place)
        super().__init__(its)

    def _command(self) -> list[str]:
        its = [word.replace("/opt/kafka/libs", str(kafka_jars())) for word in command()]
        java = os.path.realpath(shutil.which("java") or "java")
        return [java, *its[1:-1], str(self.folder / "server.properties")]


@pytest.fixture
def analyze() -> str:
    return shutil.which("systemd-analyze") or require("systemd-analyze (Debian: systemd)")


def test_systemd_finds_nothing_wrong_with_the_unit(analyze, tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/java", shutil.which("true") or "/bin/true"))
    run = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_the_unit_exposes_no_more_than_a_score_of_2_5(analyze):
    run = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=25", "--no-pager", UNIT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert "Overall exposure level" in run.stdout


def test_the_broker_takes_no_more_memory_than_the_page_says(need_broker):
    """At its peak, of a start."""
    need_broker(Apache)
    (stated,) = re.findall(r"at most (\d+) MiB of memory", pages()["systemd/README.md"].text)
    with Example() as broker:
        (status,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{broker.pid}/status").read_text())
    assert int(status) // 1024 <= int(stated)
