"""Each extra installs from wheels alone on the Debians that have packages, on both architectures.

A Pi compiles nothing: the day that a release of some dependency comes without a wheel for it, and no older one fits,
this fails.
"""

import subprocess
import sys
import tomllib

import pytest

from systemd.package.suites import MACHINES, SUITES, Suite
from systemd.package.wheels import ROOT, target

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOR_DEVELOPERS = {"package", "test"}
EXTRAS = sorted(PROJECT["optional-dependencies"].keys() - FOR_DEVELOPERS)


def resolve(requirements: str, suite: Suite, machine: str) -> subprocess.CompletedProcess[str]:
    """Let uv choose versions, of which each has a wheel; nothing but what it reads of them is fetched."""
    command = [sys.executable, "-P", "-m", "uv", "pip", "compile", "--quiet", "--no-header", *target(suite, machine)]
    return subprocess.run([*command, "-"], input=requirements, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("machine", MACHINES.values())
@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_from_wheels(extra, suite, machine):
    done = resolve("\n".join(PROJECT["dependencies"] + of_extras(extra)), suite, machine)
    assert done.returncode == 0, done.stderr
    assert "numpy==" in done.stdout


def of_extras(extra: str) -> list[str]:
    """What it asks for, and the extras that it is made of."""
    result: list[str] = []
    for each in PROJECT["optional-dependencies"][extra]:
        inner = each.removeprefix("edged[").removesuffix("]").split(",") if each.startswith("edged[") else []
        result += [wanted for name in inner for wanted in of_extras(name)] if inner else [each]
    return result


@pytest.mark.parametrize(
    ("package", "has", "lacks", "says"),
    [
        ("tflite-runtime>=2.14", ("bookworm", "aarch64"), ("trixie", "aarch64"), "Python"),
        ("intel-openmp", ("bookworm", "x86_64"), ("bookworm", "aarch64"), "platform"),
    ],
    ids=["for that Python", "for that machine"],
)
def test_what_has_no_wheel_is_refused(package, has, lacks, says):
    assert resolve(package, SUITES[has[0]], has[1]).returncode == 0
    done = resolve(package, SUITES[lacks[0]], lacks[1])
    assert done.returncode == 1
    assert f"no wheels with a matching {says}" in done.stderr
