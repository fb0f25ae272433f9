"""The resource series: rates and levels from two samples of the host's and the services' counters.

Pure arithmetic; `monitor` samples and logs. The first five series (CPU, memory, disk, network in and out) are those
of the thesis that edged follows.
"""

from collections import Counter
from collections.abc import Mapping

from edged.ports import HostSample, LaneClock, Statistics

Field = float | int | Mapping[str, int] | None

_MAX_LAG_TOPICS = 8
"""The longest, in a line."""

_RATES = ("disk_read_bytes", "disk_written_bytes", "net_received_bytes", "net_sent_bytes")
_LEVELS = ("memory_used_bytes", "temperature_c", "throttled_flags", "disk_free_bytes")
_STATISTICS_RATES = (
    "trained_samples",
    "bridged_records",
    "ingested_samples",
    "dead_lettered",
    "archived_samples",
    "predicted_samples",
    "served_samples",
)
_STATISTICS_LEVELS = (
    "refused_samples",
    "lag_records",
    "queue_bytes",
    "cache_bytes",
    "kept_bytes",
    "held_partitions",
)


class ResourceSeries:
    """Turns totals into rates. `now` is in seconds of any one clock and increases from call to call.

    `lanes`: of a node that trains.
    """

    def __init__(self, host: HostSample, statistics: Statistics, now: float, lanes: LaneClock | None = None) -> None:
        self._host = host
        self._statistics = statistics
        self._now = now
        self._lanes = lanes
        self._blocked_s = None if lanes is None else lanes.blocked_s()
        self._seen: set[str] = set()

    def next(self, host: HostSample, statistics: Statistics, now: float) -> dict[str, Field]:
        """The fields of `res.sample` for the time since the last call.

        Fields of the host that are unknown now or were then are left out. A field of the services appears once it is
        not zero, and stays: a node has only the series of what it does.
        """
        elapsed_s = now - self._now
        fields = _host_fields(self._host, host, elapsed_s) | self._service_fields(statistics, elapsed_s)
        if self._lanes is not None:
            fields["blocked_fraction"] = self._blocked_fraction(self._lanes.blocked_s(), elapsed_s)
        self._host, self._statistics, self._now = host, statistics, now
        return fields

    def _blocked_fraction(self, blocked_s: float | None, elapsed_s: float) -> float | None:
        before_s, self._blocked_s = self._blocked_s, blocked_s
        if blocked_s is None or before_s is None:
            return None
        return min(max(round((blocked_s - before_s) / elapsed_s, 3), 0.0), 1.0)

    def _service_fields(self, now: Statistics, elapsed_s: float) -> dict[str, Field]:
        names = ("wait_s", *_STATISTICS_RATES, *_STATISTICS_LEVELS)
        self._seen |= {name for name in names if getattr(now, name)}
        fields: dict[str, Field] = {
            f"{name}_per_s": _rate(getattr(self._statistics, name), getattr(now, name), elapsed_s)
            for name in _STATISTICS_RATES
            if name in self._seen
        }
        if "wait_s" in self._seen:
            fields["wait_fraction"] = min(1.0, round((now.wait_s - self._statistics.wait_s) / elapsed_s, 3))
        if now.lag_by_topic:
            fields["lag_by_topic"] = dict(Counter(now.lag_by_topic).most_common(_MAX_LAG_TOPICS))
        return fields | {name: getattr(now, name) for name in _STATISTICS_LEVELS if name in self._seen}


def _host_fields(before: HostSample, now: HostSample, elapsed_s: float) -> dict[str, Field]:
    fields: dict[str, Field] = {
        "process_cpu_percent": _rate(100 * before.process_cpu_s, 100 * now.process_cpu_s, elapsed_s),
        "rss_bytes": now.rss_bytes,
        "peak_rss_bytes": now.peak_rss_bytes,
    }
    if before.cpu_s is not None and now.cpu_s is not None:
        fields["cpu_percent"] = _rate(100 * before.cpu_s, 100 * now.cpu_s, elapsed_s)
    for name in _RATES:
        total_before, total = getattr(before, name), getattr(now, name)
        if total_before is not None and total is not None:
            fields[f"{name}_per_s"] = _rate(total_before, total, elapsed_s)
    return fields | {name: value for name in _LEVELS if (value := getattr(now, name)) is not None}


def _rate(before: float, now: float, elapsed_s: float) -> float:
    """Per second; zero for a total that decreased, as the network's does when an adapter is unplugged."""
    return round(max(0.0, now - before) / elapsed_s, 1)
