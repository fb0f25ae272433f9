"""CPUs of a tenth of their speed: processes held to a share of one core, as slow edges on a fast machine.

By a control group (version 1 or 2) where this process may make one; else by a duty cycle: stopped and continued again,
which also stops a process that waits. Does not start the processes.
"""

import contextlib
import os
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")
_PERIOD_US = 20_000
"""Short beside a training step, so that a limited process is slow rather than absent for a tenth of a second."""

_DUTY_PERIOD_S = 0.1


class _Group:
    """A control group. `within`: the beginning of a command that is limited from its first instruction on."""

    limits = True

    def __init__(self, folder: Path) -> None:
        self._procs = folder / "cgroup.procs"
        self._outside = folder.parent / "cgroup.procs"
        self.within = ("sh", "-c", f'echo $$ > {shlex.quote(str(self._procs))} && exec "$@"', "sh")

    def take(self, pid: int) -> None:
        """Limit this process, if `within` did not."""
        self._procs.write_text(str(pid))

    def release(self, pid: int) -> None:
        """Let it run freely from now on."""
        self._outside.write_text(str(pid))


class _DutyCycle:
    """A thread that stops the process for the rest of each period."""

    limits = True
    within: Sequence[str] = ()

    def __init__(self, cores: float) -> None:
        self._cores = cores
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, pid: int) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(pid,), daemon=True)
            self._thread.start()

    def release(self, _pid: int) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, and so has this
            while not self._over.is_set():
                os.kill(pid, signal.SIGSTOP)
                self._over.wait(_DUTY_PERIOD_S * (1 - self._cores))
                os.kill(pid, signal.SIGCONT)
                self._over.wait(_DUTY_PERIOD_S * self._cores)


class _Unlimited:
    limits = False
    within: Sequence[str] = ()

    def take(self, pid: int) -> None:
        """Nothing to do."""

    def release(self, pid: int) -> None:
        """Nothing to do."""


Limit = _Group | _DutyCycle | _Unlimited


def how() -> str:
    """What limits, in words for the report."""
    root = _root()
    if root is None:
        return "CPU limited by SIGSTOP and SIGCONT: no rights to make a control group"
    return f"CPU limited by a control group of version {1 if root == _V1 else 2}, period {_PERIOD_US // 1000} ms"


@contextlib.contextmanager
def limits(num: int, cores: float) -> Iterator[list[Limit]]:
    """So many limits of `cores` (share of one CPU) each; 0: none. The processes must have ended when this ends."""
    if not cores:
        yield [_Unlimited() for _ in range(num)]
        return
    root = _root()
    if root is None:
        cycles = [_DutyCycle(cores) for _ in range(num)]
        yield [*cycles]
        for cycle in cycles:
            cycle.release(0)
        return
    folders = [root / f"edged-bench-{os.getpid()}-{i}" for i in range(num)]
    try:
        for folder in folders:
            folder.mkdir()
            _set(folder, cores)
        yield [_Group(folder) for folder in folders]
    finally:
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()


@contextlib.contextmanager
def together() -> Iterator[bool]:
    """Inside, this process and those that it starts are one control group: their niceness counts among them.

    As in a systemd slice; otherwise each session is scheduled for itself. False where no group can be made. What was
    started must have ended when this ends.
    """
    root = _root()
    if root is None:
        yield False
        return
    folder = root / f"edged-bench-{os.getpid()}-together"
    folder.mkdir()
    group = _Group(folder)
    group.take(os.getpid())
    try:
        yield True
    finally:
        group.release(os.getpid())
        folder.rmdir()


def _root() -> Path | None:
    """The folder in which this process may make groups."""
    if (_V1 / "cgroup.procs").exists():
        root = _V1
    elif "cpu" in _words(_V2 / "cgroup.subtree_control"):
        root = _V2
    else:
        return None
    return root if os.access(root, os.W_OK) else None


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _set(folder: Path, cores: float) -> None:
    quota = round(_PERIOD_US * cores)
    if folder.parent == _V2:
        (folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        return
    (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
    (folder / "cpu.cfs_quota_us").write_text(str(quota))
