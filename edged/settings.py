"""Settings of the daemon that the topology does not hold: folders, deadlines, intervals.

Each field states its meaning and the reason for its default.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from edged.domain.topology import Topology
from edged.domain.validation.writes import SERVICE_LINES_S
from edged.errors import ConfigError, Problem
from edged.log import is_journal

_TIMING = "EDGED_TIMING"

_SHORTEST_S, _LONGEST_S = 0.001, 86_400


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a node keeps its state and its cache."""

    state: Path
    """Must survive a restart: checkpoints and deployed models; systemd's StateDirectory."""

    cache: Path
    """May be deleted at any time; systemd's CacheDirectory."""

    @classmethod
    def of(cls, node: str, environment: Mapping[str, str] = os.environ) -> "Folders":
        """The node's folders below systemd's, or else below the XDG ones.

        With the units, which ask for `edged`: /var/lib/edged/<node> and /var/cache/edged/<node>.
        """
        return cls(
            state=_base(environment, "STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state") / node,
            cache=_base(environment, "CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache") / node,
        )

    def of_job(self, job: str) -> Path:
        """The checkpoints and models of the job with this name ("": of an only job without one)."""
        return job_folder(self.state, job)


def job_folder(state: Path, job: str) -> Path:
    """The folder of a job's checkpoints and models in a node's `state` folder."""
    return state / "jobs" / job if job else state


def _base(environment: Mapping[str, str], by_systemd: str, by_xdg: str, below_home: str) -> Path:
    if given := environment.get(by_systemd):
        return Path(given)
    base = Path(environment.get(by_xdg, ""))
    if not base.is_absolute():  # the XDG specification has relative and empty paths ignored
        base = Path(environment.get("HOME", "/")) / below_home
    return base / "edged"


class TopologyInUse:
    """The topology that is in use, until a reload replaces it.

    A service that needs a part of it which may change so (`domain.topology.changes`) reads it each time, and keeps no
    copy.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._replaced = asyncio.Event()

    @property
    def topology(self) -> Topology:
        """What is in use now; always the same object until it is replaced."""
        return self._topology

    def replace(self, topology: Topology) -> None:
        """Use this one from now on."""
        self._topology = topology
        self._replaced.set()
        self._replaced = asyncio.Event()

    async def other_than(self, known: Topology) -> Topology:
        """What is in use once that is not `known`."""
        while self._topology is known:
            await self._replaced.wait()
        return self._topology


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines and intervals, in seconds."""

    kafka_deadline_s: float = 5.0
    """A Kafka call unanswered for this long means degraded; below the 10 s promised for reporting that."""

    poll_s: float = 1.0
    """How long a reader waits for records before its loop does other things; also the longest delay of a stop."""

    linger_s: float = 0.5
    """How long the uplink waits to fill a pack; a lone sample reaches the archive topic within this."""

    archive_deadline_s: float = 15.0
    """Silence of the archive after which the edge retries; a cold block read on a busy disk takes less."""

    trimming_s: float = 60.0
    """How often the archive node looks at what Kafka still has of what is archived; disks fill more slowly."""

    retention_s: float = 600.0
    """How often the archive node looks what is beyond its limits: what is kept is told in days."""

    topics_s: float = 30.0
    """How often a node looks whether its topics are there: one that is missing at two looks makes it degraded."""

    presence_s: float = 5.0
    """Interval of a run's beats: a second run ends within it."""

    sample_s: float = 1.0
    """Interval of the monitor's series where the topology gives none; the thesis sampled once per second. A service's
    is SERVICE_LINES_S."""

    report_s: float = 10.0
    """Interval of the companion's lines about its predictions. A service's is SERVICE_LINES_S."""

    status_s: float = 10.0
    """Minimum time between two status lines for systemd; people read them, and each costs a wake-up."""

    first_deadline_s: float = 30.0
    """How long a group's member waits for others of whom nothing is known yet: their first gradients, joins, offers."""

    min_deadline_s: float = 1.0
    """The least that a member waits for missing gradients, however short the steps are: a pause of the machine is no
    reason to continue without a member."""

    memory_grace_s: float = 30.0
    """How long the process may exceed its memory limit; the peak of a checkpoint or an evaluation is shorter."""

    stop_s: float = 20.0
    """Time limit of a clean stop; below the unit's TimeoutStopSec=30."""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "Timing":
        """The defaults, for a service or by hand, but for what EDGED_TIMING gives: for developers' tests.

        Such as `{"sample_s": 0.2}`. Raises ConfigError when that is not a JSON object of these fields with seconds from
        1 ms to a day.
        """
        try:
            given = json.loads(environment.get(_TIMING) or "{}")
        except (ValueError, RecursionError) as error:
            raise _wrong_timing(f"no JSON: {error}") from error
        if not isinstance(given, dict):
            raise _wrong_timing("no JSON object")
        names = [field.name for field in fields(cls)]
        for name, value in given.items():
            if name not in names:
                raise _wrong_timing(f'"{name}" is none of {", ".join(names)}')
            if type(value) not in {int, float} or not _SHORTEST_S <= value <= _LONGEST_S:
                raise _wrong_timing(f"{name} is no number of seconds from {_SHORTEST_S} to {_LONGEST_S}")
        is_service = bool(environment.get("NOTIFY_SOCKET")) or is_journal(sys.stderr)
        lines = dict.fromkeys(("sample_s", "report_s"), SERVICE_LINES_S) if is_service else {}
        return cls(**lines | given)


def _wrong_timing(reason: str) -> ConfigError:
    return ConfigError((Problem("", reason, place=_TIMING),))
