"""How long the threads of a trainer's lanes were blocked, by the kernel's own count.

Linux alone counts this for each thread, in /proc; the unit's sandbox leaves it readable (ProcSubset=all).
"""

import threading
import time
from pathlib import Path


class KernelLaneClock:
    """The threads that have registered, of `num_lanes`; one that has not begun yet counts as blocked.

    `tasks`: where the kernel tells of each thread of this process.
    """

    def __init__(self, num_lanes: int, tasks: Path = Path("/proc/self/task")) -> None:
        self._num_lanes = num_lanes
        self._tasks = tasks
        self._threads: list[int] = []
        self._begun_s = time.monotonic()

    def register(self) -> None:
        """The calling thread computes a lane from now on."""
        self._threads.append(threading.get_native_id())

    def blocked_s(self) -> float | None:
        try:
            self._busy_s(threading.get_native_id())  # so that none is readable before a lane has begun either
            busy_s = sum(map(self._busy_s, self._threads))
        except (OSError, ValueError):
            return None
        return max(time.monotonic() - self._begun_s - busy_s / self._num_lanes, 0.0)

    def _busy_s(self, thread: int) -> float:
        """Seconds that the thread has run or waited for a core (proc(5), schedstat)."""
        ran_ns, waited_ns, _ = (self._tasks / str(thread) / "schedstat").read_text().split()
        return (int(ran_ns) + int(waited_ns)) / 1e9
