"""Debian systems to boot: the files of one for each suite, made once by mmdebstrap and kept in the user's cache folder.

Nobody writes to them: each machine has an overlay of its own (see `machine.py`). What a Raspberry Pi OS has beyond them
(a kernel, a desktop) does not matter to edged.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.brokers import one_at_a_time
from tests.support.requirements import require

SYSTEMD = {"bookworm": 252, "trixie": 257}
"""Suites, and the version of systemd that each has."""

MIRROR = "http://deb.debian.org/debian"
_PACKAGES = ("systemd", "systemd-sysv", "dbus", "udev", "python3-venv", "ca-certificates", "procps")

_TIMERS = "apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all"

_SETUP = (
    # A machine that loses its power loses all: nobody has to wait for a disk.
    'echo force-unsafe-io > "$1/etc/dpkg/dpkg.cfg.d/tests"',
    # Nothing that a test looks at, and each takes seconds of a boot.
    f'cd "$1/etc/systemd/system"; for each in {_TIMERS}; do ln -sf /dev/null $each.timer; done',
)


@functools.cache
def debian(suite: str) -> Path:
    """The root folder of this suite's system. Ends the test where it cannot be had."""
    if shutil.which("mmdebstrap") is None:
        require("no mmdebstrap, for a system to boot: apt install mmdebstrap")
    recipe = "\n".join((MIRROR, *_PACKAGES, *_SETUP))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edged-tests"
    root = cache / f"debian-{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    cache.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(root.with_suffix(".lock")):
        if not root.exists():
            with tempfile.TemporaryDirectory(dir=cache) as fresh:
                _make(suite, Path(fresh) / "root")
                (Path(fresh) / "root").rename(root)
    return root


def _make(suite: str, root: Path) -> None:
    hooks = [word for each in _SETUP for word in ("--customize-hook", each)]
    options = ["--variant=minbase", f"--include={','.join(_PACKAGES)}", *hooks]
    command = ["mmdebstrap", *options, suite, str(root), MIRROR]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        require(f"no {suite} to boot: {done.stderr.strip()[-500:]}")
    root.chmod(0o755)
