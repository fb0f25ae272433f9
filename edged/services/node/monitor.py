"""Watches the process: the resource series, the service manager's watchdog and status line, the memory limit.

Acts in one case only: a process that stays above its memory limit is ended, because the kernel would do it without a
checkpoint. (On stock Raspberry Pi OS systemd's `MemoryMax=` does nothing.)
"""

import asyncio
import math
from collections.abc import Callable, Mapping

from edged.aio import sleep_until
from edged.errors import MemoryLimitExceeded
from edged.log import logger
from edged.ports import Host, HostSample, LaneClock, Notifier, Progress, Statistics
from edged.services.node.health import STATUS_LENGTH, HealthBoard, shortened
from edged.services.node.resource_series import ResourceSeries
from edged.services.node.watchdog import StallDetector, Watchdog
from edged.settings import Timing

_FEEDS_PER_WATCHDOG = 3
"""One or two late feeds do no harm."""

_STALLED_FEEDS = 6
"""Feeds without progress that are allowed: a minute of WatchdogSec=30, longer than a service is silent at its work."""

_UNWATCHED_FEED_S = 10.0
"""Without a watchdog, stalls are detected and logged as with WatchdogSec=30."""

_MEMORY_LOG_EVERY_S = 60.0

_GIVE_BACK_S = 60.0
"""How often freed memory goes back to the system: it rises by less than a mebibyte meanwhile."""

_LOOK_S = 1.0
"""The longest time between two looks at the process."""


class Monitor:
    """Logs `res.sample` at every interval, feeds the watchdog while all services progress, and updates the status line.

    `statistics` gives the sum of all services' numbers, `progress` each service's progress by its name.
    `memory_limit`: maximum of resident bytes, or None. `lanes`: of a node that trains. `sample_s`: the interval, read
    again at each look; `timing`'s without it.
    """

    def __init__(
        self,
        host: Host,
        health: HealthBoard,
        notifier: Notifier,
        statistics: Callable[[], Statistics],
        progress: Mapping[str, Callable[[], Progress]],
        *,
        memory_limit: int | None = None,
        lanes: LaneClock | None = None,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        sample_s: Callable[[], float] | None = None,
    ) -> None:
        self._host = host
        self._health = health
        self._notifier = notifier
        self._statistics = statistics
        self._progress = progress
        self._lanes = lanes
        self._timing = timing
        self._sample_s = sample_s or (lambda: timing.sample_s)
        self._memory = _MemoryGuard(memory_limit or math.inf, timing.memory_grace_s)

    async def run(self) -> None:
        """Watch until cancelled, which ends it at once.

        Wake-ups lie on a grid, so they do not drift; those missed in a pause of the machine are skipped.
        Raises MemoryLimitExceeded when the process stays above its limit for `timing.memory_grace_s`.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        feed_s = (self._notifier.watchdog_s or _FEEDS_PER_WATCHDOG * _UNWATCHED_FEED_S) / _FEEDS_PER_WATCHDOG
        watchdog = Watchdog(self._notifier, StallDetector(_STALLED_FEEDS * feed_s))
        series = ResourceSeries(host := self._host.sample(), self._statistics(), start, self._lanes)
        looks = _Looks(start, self._sample_s())
        feeds, statuses = _Grid(start, feed_s), _Grid(start, self._timing.status_s)
        returns = _Grid(start, _GIVE_BACK_S)
        while True:
            now = loop.time()
            if looks.passed(now):
                host = self._host.sample()
                if (late_s := looks.late_s_at_line()) is not None:
                    fields = series.next(host, self._statistics(), now)
                    logger().info("res.sample", **fields, loop_lag_ms=round(1000 * late_s, 1))
                self._memory.check(host.rss_bytes, now)
            if looks.every_s != (every_s := self._sample_s()):
                looks = _Looks(now, every_s)
            if feeds.passed(now):
                progress = {service: sign() for service, sign in self._progress.items()}
                watchdog.feed(progress, now, suspended=self._health.is_awaited)
            if statuses.passed(now):
                self._notifier.status(self._status(host))
            if returns.passed(loop.time()):
                self._host.give_back_memory()
            await sleep_until(min(looks.next, feeds.next, statuses.next, returns.next))

    def _status(self, host: HostSample) -> str:
        statistics = self._statistics()
        done = {
            "trained": statistics.trained_samples,
            "archived": statistics.archived_samples,
            "predicted": statistics.predicted_samples,
            "ingested": statistics.ingested_samples,
        }
        main_count = next((f", {what} {count}" for what, count in done.items() if count), "")
        tail = f"{main_count}, lag {statistics.lag_records}, RSS {host.rss_bytes >> 20} MiB"
        return shortened(self._health.summary(), STATUS_LENGTH - len(tail)) + tail


class _Grid:
    """Times `every_s` apart; the first is `start`."""

    def __init__(self, start: float, every_s: float) -> None:
        self._start = start
        self._every_s = every_s
        self.count = 0

    @property
    def next(self) -> float:
        return self._start + self.count * self._every_s

    def passed(self, now: float) -> bool:
        """Whether `next` is reached; if so, the first time after `now` is next."""
        if now < self.next:
            return False
        self.count = max(self.count, int((now - self._start) / self._every_s)) + 1
        return True


class _Looks:
    """When to look at the process: at least once a second, for its memory, and for a line of the series `every_s`."""

    def __init__(self, start: float, every_s: float) -> None:
        self.every_s = every_s
        self._per_line = math.ceil(every_s / _LOOK_S)
        self._grid = _Grid(start + every_s / self._per_line, every_s / self._per_line)
        self._line_at = self._per_line
        self._late_s = 0.0

    @property
    def next(self) -> float:
        return self._grid.next

    def passed(self, now: float) -> bool:
        """As `_Grid.passed`."""
        late_s = now - self._grid.next
        self._late_s = max(self._late_s, late_s)
        return self._grid.passed(now)

    def late_s_at_line(self) -> float | None:
        """After a look: the most that one was late since the last line, if a line is due; else None."""
        if self._grid.count < self._line_at:
            return None
        self._line_at = (self._grid.count // self._per_line + 1) * self._per_line
        late_s, self._late_s = self._late_s, 0.0
        return late_s


class _MemoryGuard:
    """Raises once the process has been above `limit` bytes for `grace_s` without a break."""

    def __init__(self, limit: float, grace_s: float) -> None:
        self._limit = limit
        self._grace_s = grace_s
        self._above_since: float | None = None
        self._logged_at = -math.inf

    def check(self, rss_bytes: int, now: float) -> None:
        if rss_bytes <= self._limit:
            self._above_since = None
            return
        if self._above_since is None:
            self._above_since = now
        if now - self._logged_at >= _MEMORY_LOG_EVERY_S:
            self._logged_at = now
            logger().warning("res.memory_high", rss_bytes=rss_bytes, limit_bytes=int(self._limit))
        if now - self._above_since >= self._grace_s:
            raise MemoryLimitExceeded(
                f"{rss_bytes >> 20} MiB resident, more than memory_limit ({int(self._limit) >> 20} MiB) "
                f"for {self._grace_s:.0f} s"
            )
