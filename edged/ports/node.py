"""The process, its machine and its service manager."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Protocol

from edged.domain.presence import Process


class Progress(NamedTuple):
    """A service's progress, for the watchdog: `steps` grows with work done; `idle`: there is nothing to do."""

    steps: int
    idle: bool


@dataclass(frozen=True, slots=True)
class Statistics:
    """A service's part of the monitor's series: totals since start, but from `lag_by_topic` on current values."""

    trained_samples: int = 0
    wait_s: float = 0.0
    """Time the trainer waited for data."""
    bridged_records: int = 0
    """Of MQTT devices, written to their topics."""
    ingested_samples: int = 0
    dead_lettered: int = 0
    archived_samples: int = 0
    predicted_samples: int = 0
    served_samples: int = 0
    refused_samples: int = 0
    """Left out at a border, or of training because it or its loss is not finite."""
    lag_by_topic: Mapping[str, int] = field(default_factory=dict)
    """Records waiting in each topic that has any: whose they are."""
    queue_bytes: int = 0
    cache_bytes: int = 0
    kept_bytes: int = 0
    """Payload bytes, about, in Kafka of packs that are archived."""
    held_partitions: int = 0
    """Of archive topics and requests, by one of several archive nodes."""

    @property
    def lag_records(self) -> int:
        """Records waiting in all topics."""
        return sum(self.lag_by_topic.values())

    def __add__(self, other: "Statistics") -> "Statistics":
        names = [each.name for each in fields(self) if each.name != "lag_by_topic"]
        return Statistics(
            **{name: getattr(self, name) + getattr(other, name) for name in names},
            lag_by_topic=Counter(self.lag_by_topic) + Counter(other.lag_by_topic),
        )


@dataclass(frozen=True, slots=True)
class HostSample:
    """The machine and this process at one moment. None: not readable on this host.

    Times in seconds and bytes read, written, received or sent are totals that never fall while the process runs.
    """

    process_cpu_s: float
    """CPU time of this process, all its threads."""
    rss_bytes: int
    peak_rss_bytes: int
    cpu_s: float | None = None
    """Time that the machine's cores were busy, summed over them."""
    memory_used_bytes: int | None = None
    """The machine's memory that is not available to other programs."""
    disk_read_bytes: int | None = None
    disk_written_bytes: int | None = None
    net_received_bytes: int | None = None
    net_sent_bytes: int | None = None
    temperature_c: float | None = None
    throttled_flags: int | None = None
    """Raspberry Pi: bit 0 under-voltage, 1 capped, 2 throttled, 3 soft temperature limit; 16 to 19 since boot."""
    disk_free_bytes: int | None = None
    """Free space on the file system of the state folder."""


class Processes(Protocol):
    """The processes of this machine."""

    def is_gone(self, process: Process) -> bool:
        """Whether it is certain that the process has ended. Never raises, and takes no time."""


class Host(Protocol):
    """The machine's and the process's counters."""

    def sample(self) -> HostSample:
        """The current counters, unreadable ones None; never raises. Takes about a millisecond and no disk access."""

    def give_back_memory(self) -> None:
        """Return to the system what this process has freed. Takes milliseconds; in the event loop's thread."""


class LaneClock(Protocol):
    """The times of the threads that compute a trainer's lanes, as the kernel counts them."""

    def blocked_s(self) -> float | None:
        """Seconds in which a lane's thread neither ran nor waited for a core, the mean of the lanes.

        A total since the start, whatever they were blocked for; None: not readable on this host. Never raises.
        """


class Notifier(Protocol):
    """The service manager: systemd, or none. No method blocks or raises."""

    @property
    def watchdog_s(self) -> float | None:
        """The process is considered hung when `watchdog` was not called for this long; None: no watchdog."""

    def ready(self) -> None:
        """Start-up is complete."""

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""

    def watchdog(self) -> None:
        """The process is alive."""

    def reloading(self) -> None:
        """The configuration is being read again; `ready` follows."""

    def stopping(self) -> None:
        """A clean stop has begun."""
