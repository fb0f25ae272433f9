"""The Debian packages of this checkout, for the machines to install."""

import subprocess
import sys
from pathlib import Path

from tests.support.pages import ROOT


def build_packages(suite: str, folder: Path, *packages: str) -> list[Path]:
    """Make these, or both, for this suite and computer; not compressed, which takes most of the time."""
    arch = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    command = [sys.executable, "-m", "systemd.package", "--suite", suite, "--arch", arch, "--quick", str(folder)]
    command += [word for package in packages for word in ("--package", package)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(folder.glob("*.deb"))
