"""A wall clock for processes that a test sets while they run; their monotonic clock stays as it is.

`clock.c` is compiled when it is first needed and preloaded into the processes, which read the difference from a file.
"""

import functools
import hashlib
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.brokers import Apache, one_at_a_time
from tests.support.requirements import require

DAY_S = 86_400.0
CLOCKS = {
    60 * DAY_S - time.time(): "behind",
    -10 * DAY_S: "10 days behind",
    3 * 3600.0: "3 h ahead of",
    3653 * DAY_S: "10 years ahead of",
}
"""By how many seconds a clock may be ahead, and how a node says so; the first is one in 1970."""

_SOURCE = Path(__file__).parent / "clock.c"


class Clock:
    """The wall clock of the processes that get `environment`; right until it is `set`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._file.write_bytes(bytes(8))
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(_library()), "EDGED_TEST_CLOCK": str(file)}

    def set(self, ahead_s: float) -> None:
        """It shows the right time plus this from now on; 0: it is right."""
        with self._file.open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", round(ahead_s)))

    def set_to(self, unix_s: float) -> None:
        """It shows this time now."""
        self.set(unix_s - time.time())


def tidy_kafka() -> Apache:
    """Apache Kafka that looks for what its retention lets it delete twice a second, not every five minutes."""
    return Apache({"log.retention.check.interval.ms": "500", "log.initial.task.delay.ms": "500"})


def need_compiler() -> None:
    """Skip the test, with the reason, where no C compiler is installed."""
    if _compiler() is None:
        require("no cc or gcc on the PATH, to compile a clock")


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


@functools.cache
def _library() -> Path:
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    library = Path.home() / ".cache" / "edged-tests" / f"clock-{digest}-{os.uname().machine}.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(library.with_suffix(".lock")):
        if not library.exists():
            fresh = library.with_suffix(".new")
            compiler = _compiler()
            assert compiler is not None, "ask need_compiler() first"
            command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(fresh), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True)
            fresh.rename(library)
    return library
