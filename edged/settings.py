"""Settings of the daemon that are not the topology's subject: folders, deadlines, intervals.

Every field says what it is and why that default. Values are given once, by app.py and the tests.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a node keeps what must survive a restart, and what need not."""

    state: Path
    """Checkpoints and deployed models; systemd's StateDirectory."""

    cache: Path
    """Deletable at any time; systemd's CacheDirectory."""

    @classmethod
    def of(cls, node: str, environment: Mapping[str, str] = os.environ) -> "Folders":
        """A folder for the node in those that systemd gives (the units ask for `edged`), else in the XDG ones.

        So /var/lib/edged/<node> and /var/cache/edged/<node> under the units.
        """
        return cls(
            state=_base(environment, "STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state") / node,
            cache=_base(environment, "CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache") / node,
        )


def _base(environment: Mapping[str, str], by_systemd: str, by_xdg: str, below_home: str) -> Path:
    if given := environment.get(by_systemd):
        return Path(given)
    base = Path(environment.get(by_xdg, ""))
    if not base.is_absolute():  # the XDG specification has relative and empty paths ignored
        base = Path(environment.get("HOME", "/")) / below_home
    return base / "edged"


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines and intervals, in seconds."""

    kafka_deadline_s: float = 5.0
    """A Kafka call without an answer for this long means degraded; below the promised 10 s to say so."""

    poll_s: float = 1.0
    """How long a reader waits for records before its loop looks at other things; also the worst delay of a stop."""

    linger_s: float = 0.5
    """How long the uplink waits to fill a pack; a lone sample reaches the archive topic within this."""

    archive_deadline_s: float = 15.0
    """Silence of the archive after which the edge asks again; a cold block read on a busy disk stays below it."""

    sample_s: float = 1.0
    """Interval of the monitor's series; the thesis sampled once a second."""

    status_s: float = 10.0
    """Least time between two status lines for the service manager; a person reads them, and each costs a wake-up."""

    memory_grace_s: float = 30.0
    """How long the process may stay above its memory limit; a checkpoint or a test run's peak is over sooner."""

    stop_s: float = 20.0
    """Most time for a clean stop; below the unit's TimeoutStopSec=30."""
