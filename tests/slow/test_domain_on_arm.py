"""The domain's tests on a Pi's processors, emulated: what is computed there is what is computed here."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from systemd.package import wheels
from systemd.package.suites import MACHINES, SUITES
from tests.support.arm import CPUS, run_on_arm

_RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
_OPTIONS = (
    "-q",
    "--confcutdir",
    "tests/domain",
    "-c",
    "/dev/null",
    "--import-mode",
    "importlib",
    "-p",
    "no:cacheprovider",
    "--tb",
    "short",
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tests import beside an edge's packages, for ARM; NumPy with its testing part, which those lack."""
    folder = tmp_path_factory.mktemp("packages")
    fitting = wheels.target(SUITES["bookworm"], MACHINES["arm64"])
    wanted = [f"{name}=={version(name)}" for name in ("pytest", "hypothesis", "safetensors", "numpy")]
    wheels.uv("pip", "install", "--target", folder, *fitting, *wanted)
    return folder


@pytest.mark.parametrize("cpu", CPUS)
def test_a_pis_processor_passes_the_domains_tests(cpu, packages):
    said = run_on_arm(cpu, ["-c", _RUN, packages, *_OPTIONS, "tests/domain"])
    assert re.search(r"(?m)^\d{4} passed", said), said[-2000:]
