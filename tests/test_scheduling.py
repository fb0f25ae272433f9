"""The workers among which a run of tests is spread: tests/support/scheduling.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_CONFTEST = """
import pytest
from tests.support.scheduling import ScopeScheduling

class Scheduling(ScopeScheduling):
    def _split_scope(self, nodeid):
        return nodeid if "alone" in nodeid else nodeid.partition("::")[0]

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)
"""
_TESTS = """
import os, pytest

@pytest.mark.parametrize("number", range({count}))
def test_{name}(number):
    if number in {crashes}:
        os._exit(3)
"""


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_worker_that_crashes_fails_its_test_and_others_do_all_that_it_left(tmp_path, num_workers):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    modules = {"alone": (5, {3}), "many": (4, {0, 3}), "one": (1, set()), "last_alone": (1, {0})}
    for name, (count, crashes) in modules.items():
        (tmp_path / f"test_{name}.py").write_text(_TESTS.format(name=name, count=count, crashes=crashes))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(_ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-q", "-p", "xdist.plugin", "-n", str(num_workers), "--dist", "loadscope", "--no-loadscope-reorder"]

    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--max-worker-restart", "9"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "4 failed, 7 passed" in run.stdout, run.stdout + run.stderr
    assert run.stdout.count("FAILED test_alone.py::test_alone[3]") == 1
