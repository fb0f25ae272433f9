"""The process, its machine and its service manager."""

from dataclasses import astuple, dataclass
from typing import NamedTuple, Protocol


class Progress(NamedTuple):
    """A service's sign of life for the watchdog: `steps` rises with work done; `idle`: no work is there to do."""

    steps: int
    idle: bool


@dataclass(frozen=True, slots=True)
class Statistics:
    """A service's share of the monitor's series. Totals since start but for the last three, which are now."""

    trained_samples: int = 0
    wait_s: float = 0.0
    """Time the trainer waited for data."""
    ingested_samples: int = 0
    dead_lettered: int = 0
    archived_samples: int = 0
    predicted_samples: int = 0
    served_samples: int = 0
    lag_records: int = 0
    queue_bytes: int = 0
    cache_bytes: int = 0

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Health(Protocol):
    """Where a part says that it cannot do its work for now, and that it can again."""

    def degraded(self, part: str, reason: str) -> None:
        """`part` (one word: kafka, archive, disk) is not usable because of `reason`. Repeating it is free."""

    def recovered(self, part: str) -> None:
        """`part` works. Free when it was never degraded."""


@dataclass(frozen=True, slots=True)
class HostSample:
    """The machine and this process at one moment. None: the host does not let us read it.

    Times in seconds and bytes read, written, received or sent are totals that never fall while the process runs.
    """

    process_cpu_s: float
    """CPU time of this process, all its threads."""
    rss_bytes: int
    peak_rss_bytes: int
    cpu_s: float | None = None
    """Time that the machine's cores were busy, summed over them."""
    memory_used_bytes: int | None = None
    """The machine's memory that could not be had for something else."""
    disk_read_bytes: int | None = None
    disk_written_bytes: int | None = None
    net_received_bytes: int | None = None
    net_sent_bytes: int | None = None
    temperature_c: float | None = None
    throttled_flags: int | None = None
    """Raspberry Pi: bit 0 under-voltage, 1 capped, 2 throttled, 3 soft temperature limit; 16 to 19 the same, ever."""
    disk_free_bytes: int | None = None
    """Space left where the node keeps its state."""


class Host(Protocol):
    """The machine's and the process's counters."""

    def sample(self) -> HostSample:
        """The counters now. Takes about a millisecond and waits for no disk; never raises for what is unreadable."""


class Notifier(Protocol):
    """The service manager: systemd, or nobody. No method waits or raises."""

    @property
    def watchdog_s(self) -> float | None:
        """The process counts as hung when `watchdog` was not called for this long; None: nobody watches."""

    def ready(self) -> None:
        """Start-up is over."""

    def status(self, text: str) -> None:
        """One line for people."""

    def watchdog(self) -> None:
        """The process is alive."""

    def stopping(self) -> None:
        """A clean stop has begun."""
