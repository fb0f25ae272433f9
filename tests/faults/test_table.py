"""The table of faults names tests that there are, and misses none of its rows; the soak excuses nothing by itself."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from edged.events import EVENTS
from tests.support.soak import excuses, faults
from tests.support.soak.excuses import EXPLAINED_BY, Excuses
from tests.support.soak.plant import NODES
from tests.support.soak.site_file import DEVICES

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "tests" / "faults" / "README.md").read_text()
NUM_ROWS = (43, 8, 11)
_ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.*?) ?\| (.*?) ?\|$", re.MULTILINE)
ROWS = _ROW.findall(TABLE)


@cache
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_row_is_there():
    expected = [number for rows in NUM_ROWS for number in range(1, rows + 1)]
    assert [int(number) for number, *_ in ROWS] == expected


@pytest.mark.parametrize("row", range(sum(NUM_ROWS)))
def test_a_row_is_shown_by_tests_that_there_are_or_says_that_it_is_open(row):
    _number, fault, shown, is_open = ROWS[row]
    names = re.findall(r"`([^`]+)`", shown)
    assert names or is_open, fault
    for name in names:
        path, _, function = name.partition("::")
        assert (ROOT / path).is_file(), name
        assert not function or function in functions_in(path), name


@pytest.mark.parametrize("name", EXPLAINED_BY)
def test_an_excuse_names_an_event_and_faults_that_there_are(name):
    assert name.partition(" ")[0] in EVENTS
    kinds = {*faults.ACTS, *faults.CALM_ACTS, excuses.START, excuses.BUSY, excuses.RECREATED}
    for kind, _, target in (each.partition(" ") for each in EXPLAINED_BY[name]):
        assert kind in kinds
        assert target in {"", "here", *NODES, *DEVICES.values()}


@pytest.mark.parametrize(
    ("event", "explaining", "other"),
    [
        ({"event": "archive.rejected"}, ("recreate", "pi-a"), ("kill", "pi-a")),
        ({"event": "archive.bad_request"}, ("broker_away", "broker"), ("kill", "pi-a")),
        ({"event": "archive.unanswered"}, ("disk", "vault"), ("disk", "pi-a")),
        ({"event": "health.degraded", "part": "disk"}, ("disk", "pi-b"), ("disk", "pi-a")),
    ],
    ids=["kind", "long_outage", "target", "own"],
)
def test_a_warning_is_a_defect_unless_a_fault_of_its_round_explains_it(monkeypatch, event, explaining, other):
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    line, judged = {"level": "warning", **event}, Excuses()
    judged.begin([explaining])
    assert judged.judge("pi-b", line) == ""
    judged.begin([other])
    assert event["event"] in judged.judge("pi-b", line)
    assert judged.judge("pi-b", line) == "", "told once a round"
    judged.begin([other, explaining])
    assert judged.judge("pi-b", line) == ""
    assert sum(judged.explained.values()) == 2


def test_what_no_fault_explains_is_a_defect_whatever_is_done_and_information_is_none():
    judged = Excuses()
    judged.begin([(kind, "vault") for kind in (*faults.ACTS, *faults.CALM_ACTS)])
    assert judged.judge("vault", {"level": "error", "event": "life.crashed"})
    assert judged.judge("vault", {"level": "info", "event": "archive.flushed"}) == ""


def test_only_what_comes_late_is_explained_by_a_busy_machine(monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    judged = Excuses()
    judged.begin([("poison", "dev-1")])
    assert judged.judge("pi-a", {"level": "warning", "event": "epoch.asked_again"}) == ""
    assert judged.judge("pi-a", {"level": "warning", "event": "kafka.another_log"})
    assert judged.explained == {"epoch.asked_again (busy)": 1}
