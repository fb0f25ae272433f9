"""How many cores this process may use: those that it may run on, or fewer where its control groups have a quota.

A quota (systemd's `CPUQuota=`, Docker's `--cpus`, Kubernetes' limits) leaves all cores visible. A process that has used
it up is stopped until the next period, its event loop with it.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def num_cores(root: Path = Path("/")) -> int:
    """CPUs that this process may run on, but no more than its quota is for, rounded up; at least one.

    `root`: where /proc and /sys are.
    """
    runnable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([runnable, *(max(math.ceil(quota), 1) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Of the control groups that the process is in, in cores; none of those that have no limit or cannot be read."""
    for folder, is_version_1 in _groups(root):
        try:
            if is_version_1:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            else:
                quota, period = (folder / "cpu.max").read_text().split()
            if quota.strip() not in {"max", "-1"}:
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue


def _groups(root: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of the control groups that count CPU time, from the process's own to the root of all.

    In a container the path may be the host's, while the root is the container's own group.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        is_version_1 = "cpu" in controllers.split(",")
        if is_version_1 or not controllers:
            mounted = root / "sys/fs/cgroup" / ("cpu" if is_version_1 else "")
            own = PurePosixPath(path.lstrip("/"))
            yield from ((mounted / group, is_version_1) for group in (own, *own.parents))
