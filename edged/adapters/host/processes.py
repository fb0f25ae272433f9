"""This process, and whether another one of this machine has ended: by pid and start time, or by a lock that it held.

Certain or not at all: a process in another container, of another boot or hidden by /proc's options counts as running.
"""

import os
from pathlib import Path

import psutil

from edged.domain.presence import Process

_PROC = Path("/proc")
_STATE, _STARTED = 0, 19
"""Fields of /proc/<pid>/stat behind the name, which may have blanks in it (proc(5): 3 and 22)."""

_ENDED_STATES = frozenset("ZXx")


class LocalProcesses:
    """A `ports.Processes`. `lock`: the name of one that this process holds, as `process_lock` tells it, or ""."""

    def __init__(self, lock: str, proc: Path = _PROC) -> None:
        self._proc = proc
        self.own = Process(
            boot=_text(proc / "sys/kernel/random/boot_id"),
            namespace=_link(proc / "self/ns/pid"),
            pid=os.getpid(),
            started=int(stat[_STARTED]) if (stat := _stat(proc / "self/stat")) else 0,
            lock=lock,
        )

    def is_gone(self, process: Process) -> bool:
        if not self.own.boot or process.boot != self.own.boot or process.pid <= 0:
            return False
        if self.own.lock and process.lock == self.own.lock:
            return True
        is_near = self.own.namespace != "" and process.namespace == self.own.namespace
        return is_near and not self._is_running(process)

    def _is_running(self, process: Process) -> bool:
        try:
            os.kill(process.pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            pass  # another user's, or not to be asked about here
        stat = _stat(self._proc / str(process.pid) / "stat")  # hidden, where /proc is mounted so
        return stat is None or (stat[_STATE] not in _ENDED_STATES and stat[_STARTED] == str(process.started))


def started_ms(pid: int) -> int:
    """When the process started, as Unix time in milliseconds; -1 when it cannot be told."""
    try:
        return round(psutil.Process(pid).create_time() * 1000)
    except psutil.Error:
        return -1


def _stat(path: Path) -> list[str] | None:
    fields = _text(path).rpartition(")")[2].split()
    return fields if len(fields) > _STARTED else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return path.readlink().name
    except OSError:
        return ""
