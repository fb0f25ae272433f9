"""A Python for 64-bit ARM with NumPy, run by qemu's user mode: Debian's packages and NumPy's wheel, none installed.

Kept in the user's cache folder. What it can show is what a CPU computes, not how fast, and no order of memory accesses.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.brokers import one_at_a_time
from tests.support.requirements import require

CPUS = ("cortex-a53", "cortex-a76")
"""Of a Raspberry Pi 3 or Zero 2 W, and of a Pi 5."""

_NUMPY = "1.26.4"
"""The oldest that is supported, whatever the tests' own is: bits do not depend on it, and there is a wheel of it."""

_ROOT = Path(__file__).parents[2]


def run_on_arm(cpu: str, arguments: Sequence[str | Path]) -> str:
    """What Python prints on that CPU, in the checkout. Ends the test where it cannot be had."""
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        require("no qemu-aarch64: apt install qemu-user-static")
    root = _arm_root()
    python = Path(os.path.realpath(root / "usr/bin/python3"))
    environment = os.environ | {
        "QEMU_CPU": cpu,
        "PYTHONPATH": f"{root / 'opt/packages'}:{_ROOT}",
        "PYTHONPYCACHEPREFIX": f"{root / 'var/cache/python'}",  # Debian's packages bring no byte code
    }
    # Without `site`: it would find the host's packages. The prefix makes qemu look for each file in the root first.
    command = [qemu, "-L", root, python, "-S", *arguments]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{cpu}, status {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


@functools.cache
def _arm_root() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edged-tests"
    root = cache / f"aarch64-numpy-{_NUMPY}"
    cache.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(root.with_suffix(".lock")):
        if not root.exists():
            with tempfile.TemporaryDirectory(dir=cache) as fresh:
                _fetch(Path(fresh))
                (Path(fresh) / "root").rename(root)
    return root


def _fetch(folder: Path) -> None:
    """Debian's packages of Python, as apt would choose them for an empty ARM system, and NumPy's wheel for that."""
    (folder / "state/lists/partial").mkdir(parents=True)
    (folder / "archives/partial").mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "--quiet", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run([*apt, "update"])
    _run([*apt, "install", "--yes", "--no-install-recommends", "--download-only", "python3"])
    root = folder / "root"
    for package in (folder / "archives").glob("*.deb"):
        _run(["dpkg-deb", "--extract", package, root])
    version = (root / "usr/bin/python3").readlink().name.removeprefix("python")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    platforms = ["--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64"]
    target = root / "opt/packages"
    _run([*pip, "--python-version", version, *platforms, "--target", target, f"numpy=={_NUMPY}"])


def _run(command: Sequence[str | Path]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        require(f"no Python for ARM: {error}")
    if done.returncode:
        require(f"no Python for ARM: {command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
