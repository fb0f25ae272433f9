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
        """The folders systemd gives when there are any, else the XDG ones, with a folder for the node."""
        home = Path(environment.get("HOME", "/"))
        state = environment.get("STATE_DIRECTORY") or environment.get("XDG_STATE_HOME") or home / ".local/state"
        cache = environment.get("CACHE_DIRECTORY") or environment.get("XDG_CACHE_HOME") or home / ".cache"
        return cls(_folder(state, "edged", node, environment), _folder(cache, "edged", node, environment))


def _folder(base: str | Path, name: str, node: str, environment: Mapping[str, str]) -> Path:
    under_systemd = "STATE_DIRECTORY" in environment
    return (Path(base) if under_systemd else Path(base) / name) / node


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

    stop_s: float = 20.0
    """Most time for a clean stop; below the unit's TimeoutStopSec=30."""
