"""A wall clock for processes that a test sets while they run; their monotonic clock stays as it is.

`clock.c` is compiled when it is first needed and preloaded into the processes, which read the difference from a file.
"""

import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support import preloaded
from tests.support.brokers import Apache

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
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(preloaded.library(_SOURCE)),
            "EDGED_TEST_CLOCK": str(file),
        }

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
