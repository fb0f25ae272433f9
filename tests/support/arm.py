"""A Python for 64-bit ARM, run by qemu's user mode: Debian's, and the wheels of edged's package, none installed.

Kept in the user's cache folder. What it can show is what a CPU computes, not how fast, and no order of memory accesses.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from systemd.package import wheels
from systemd.package.suites import SUITES
from tests.support.brokers import one_at_a_time
from tests.support.requirements import require

CPUS = ("cortex-a53", "cortex-a76")
"""Of a Raspberry Pi 3 or Zero 2 W, and of a Pi 5."""

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
    pins = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(wheels.PINS.iterdir()))).hexdigest()
    root = cache / f"aarch64-{pins[:8]}"
    cache.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(root.with_suffix(".lock")):
        if not root.exists():
            with tempfile.TemporaryDirectory(dir=cache) as fresh:
                _fetch(Path(fresh))
                (Path(fresh) / "root").rename(root)
    return root


def _fetch(folder: Path) -> None:
    """Debian's packages of Python, as apt would choose them for an empty ARM system, and an edge's wheels for that."""
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
    suites = [suite for suite in SUITES.values() if suite.python_version == version]
    if not suites:
        require(f"no Python for ARM: this Debian's is {version}, for which edged has no package")
    target = root / "opt/packages"
    target.mkdir(parents=True)
    wheels.unpack("edged", suites[0], "arm64", target)


def _run(command: Sequence[str | Path]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        require(f"no Python for ARM: {error}")
    if done.returncode:
        require(f"no Python for ARM: {command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
