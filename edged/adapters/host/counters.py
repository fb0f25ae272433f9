"""The machine's and the process's counters, read with psutil and from /proc and /sys.

Needs no privilege: all of it is readable inside the unit's sandbox (ProcSubset=all, ProtectKernelTunables). What a
machine does not have, or a container hides, is None.
"""

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from edged.adapters.host import allocator
from edged.ports import HostSample

T = TypeVar("T")

_UNREADABLE = (OSError, ValueError, AttributeError, NotImplementedError, RuntimeError, psutil.Error)
"""What psutil raises for files that are missing or have an unknown format."""

_NOT_BUSY = {"idle", "iowait", "guest", "guest_nice"}
"""Fields of psutil's CPU times: waiting, and the guests' time, which Linux also counts as user time (proc(5))."""

_CPU_ZONES = ("cpu", "soc", "x86_pkg_temp")
"""Prefixes of the kernel's thermal zones of a processor; "cpu-thermal" on every Raspberry Pi."""


class PsutilHost:
    """This machine and this process.

    `folder`: the one whose file system's free space is reported. `loopback`: count the loopback device as network,
    for a machine that runs all tiers itself. `sys_folder`: where sysfs is mounted.
    """

    def __init__(self, folder: Path, *, loopback: bool = False, sys_folder: Path = Path("/sys")) -> None:
        self._folder = folder
        self._loopback = loopback
        self._process = psutil.Process()
        self._rss_bytes = self._peak_rss_bytes = 0
        self._thermal_zone = _thermal_zone(sys_folder)
        self._throttled = next(iter(sys_folder.glob("devices/platform/soc*/*firmware/get_throttled")), None)

    def sample(self) -> HostSample:
        used = resource.getrusage(resource.RUSAGE_SELF)
        # A process that can open no more files cannot read it: the last value stands.
        self._rss_bytes = _or_none(lambda: self._process.memory_info().rss) or self._rss_bytes
        # The kernel's peak may lag behind the resident size, so samples count too.
        self._peak_rss_bytes = max(self._peak_rss_bytes, self._rss_bytes, _peak_rss_bytes())
        disk = _or_none(psutil.disk_io_counters)
        received, sent = _or_none(self._network) or (None, None)
        return HostSample(
            process_cpu_s=used.ru_utime + used.ru_stime,
            rss_bytes=self._rss_bytes,
            peak_rss_bytes=self._peak_rss_bytes,
            cpu_s=_or_none(_busy_s),
            memory_used_bytes=_or_none(_memory_used_bytes),
            disk_read_bytes=disk.read_bytes if disk else None,
            disk_written_bytes=disk.write_bytes if disk else None,
            net_received_bytes=received,
            net_sent_bytes=sent,
            temperature_c=_or_none(self._temperature_c),
            throttled_flags=_or_none(self._throttled_flags),
            disk_free_bytes=_or_none(lambda: psutil.disk_usage(str(self._folder)).free),
        )

    def give_back_memory(self) -> None:
        allocator.give_back()

    def _network(self) -> tuple[int, int]:
        devices = psutil.net_io_counters(pernic=True)
        counted = [counters for name, counters in devices.items() if self._loopback or not name.startswith("lo")]
        return sum(c.bytes_recv for c in counted), sum(c.bytes_sent for c in counted)

    def _temperature_c(self) -> float | None:
        return int(self._thermal_zone.read_text()) / 1000 if self._thermal_zone else None

    def _throttled_flags(self) -> int | None:
        return int(self._throttled.read_text(), 16) if self._throttled else None


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except _UNREADABLE:
        return None


def _busy_s() -> float:
    times: dict[str, float] = psutil.cpu_times()._asdict()
    return sum(seconds for name, seconds in times.items() if name not in _NOT_BUSY)


def _memory_used_bytes() -> int:
    memory = psutil.virtual_memory()
    return memory.total - memory.available


def _peak_rss_bytes() -> int:
    """The peak of resident memory. getrusage is the second choice: it includes the peak of the parent that forked."""
    status = _or_none(Path("/proc/self/status").read_text) or ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _thermal_zone(sys_folder: Path) -> Path | None:
    """The temperature file (thousandths of a degree) of the processor's zone, else of the first; None without any."""
    zones = sorted(sys_folder.glob("class/thermal/thermal_zone*"))
    of_cpu = [zone for zone in zones if (_or_none((zone / "type").read_text) or "").startswith(_CPU_ZONES)]
    return next((zone / "temp" for zone in of_cpu + zones), None)
