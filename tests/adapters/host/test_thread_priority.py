"""Threads that compute give way to the event loop's, also in the unit's sandbox; a refusal is logged once."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edged.adapters.host.thread_priority import LowerPriority
from tests.support import unit_filter
from tests.support.requirements import require

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "systemd" / "edged@.service"
LINE = "SystemCallFilter=setpriority\n"

PROGRAM = """
import json, os, threading
from concurrent.futures import ThreadPoolExecutor
from edged.log import output
from edged.adapters.host.thread_priority import LowerPriority

output.configure(node="pi-a", tier="edge", run_id="r1")
both = threading.Barrier(2)

def niceness(_):
    both.wait()
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

with ThreadPoolExecutor(2, initializer=LowerPriority().lower) as pool:
    of_threads = list(pool.map(niceness, range(2)))
print(json.dumps([os.getpriority(os.PRIO_PROCESS, 0), *of_threads]))
"""


def run_under(unit, *, niceness):
    """The niceness of the main thread and of two that were lowered, and the log."""
    if not unit_filter.is_available():
        require("libseccomp.so.2 (Debian: libseccomp2)")
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.unit_filter", unit, "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.setpriority(os.PRIO_PROCESS, 0, niceness),
    )
    return json.loads(run.stdout), [json.loads(line) for line in run.stderr.splitlines()]


@pytest.mark.parametrize(("of_process", "of_threads"), [(5, 10), (17, 19)])
def test_under_the_units_filter_threads_are_nicer_than_the_process(of_process, of_threads):
    assert run_under(UNIT, niceness=of_process) == ([of_process, of_threads, of_threads], [])


def test_a_filter_that_refuses_is_logged_once(tmp_path):
    without = tmp_path / UNIT.name
    without.write_text(UNIT.read_text().replace(LINE, ""))
    niceness, log = run_under(without, niceness=5)
    assert niceness == [5, 5, 5]
    assert [(line["event"], line["level"], line["niceness"]) for line in log] == [
        ("res.priority_refused", "warning", 10)
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="priorities per thread are Linux's")
def test_only_the_calling_thread_is_lowered():
    before = os.getpriority(os.PRIO_PROCESS, os.getpid())
    with ThreadPoolExecutor(1, initializer=LowerPriority().lower) as pool:
        lowered = pool.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result()
    assert (lowered, os.getpriority(os.PRIO_PROCESS, os.getpid())) == (min(before + 5, 19), before)
