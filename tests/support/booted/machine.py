"""A machine with systemd as PID 1: a Debian system booted by systemd-nspawn, alone on a loopback network of its own.

Covers its life (boot, reboot, power), its files and commands in it. See `journal.py` for what its log says. Everything
it writes is in an overlay over `roots.debian`, so that machines do not see each other. The kernel ends it when the
thread that has booted it ends.
"""

import contextlib
import os
import select
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import pytest

from edged.adapters.embedded.server import killed_with_parent
from tests.support.booted import roots
from tests.support.requirements import require

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = (f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")
_HOSTS = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""Files of the host's that let commands in its network reach package registries."""

_BOOT = """\
set -e
echo 0 > "$GROUP/cgroup.procs"
rm -rf "$OVERLAY/work/work/incompat"
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mount -t overlay overlay -o "volatile,lowerdir=$LOWER,upperdir=$OVERLAY/upper,workdir=$OVERLAY/work" "$OVERLAY/root"
systemd-nspawn "$@"
"""
"""Run by PID 1 of namespaces that end with it, the machine and its overlay too, which an nspawn that is killed leaves.

`volatile`: nothing need survive this computer. nspawn clears /run/systemd/nspawn up only where that is a tmpfs.
"""
_TRIAL = """\
cd "$1"
mkdir lower upper work root
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work root
"""
_CLOCKLESS = ("setpriv", "--bounding-set=-sys_time")
"""What runs as root on the machine: its clock is the host's, which no test may set."""

_ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def need_machine() -> None:
    """Skip the test, with the reason, where no machine can be booted: what could be installed is required."""
    for program, package in (("systemd-nspawn", "systemd-container"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            require(f"no {program}, to boot a machine: apt install {package}")
    if reason := _hindrance():
        pytest.skip(reason)


class Machine:
    """A system of this suite, not booted yet; a context manager that powers it off at the end.

    `folder`: a new one, for what it writes. `over`: the `layer` of a machine that is off, to begin as that one ended.
    `seen`: files and folders of the host's that it sees at the same place.
    """

    def __init__(self, suite: str, folder: Path, *, over: Path | None = None, seen: Sequence[Path] = ()) -> None:
        need_machine()
        self.suite = suite
        self.systemd = roots.SYSTEMD[suite]
        self._folder = folder
        self._lower = [each for each in (over, roots.debian(suite)) if each is not None]
        self._seen = seen
        self._group: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)
        (folder / "upper").chmod(0o755)

    @property
    def layer(self) -> Path:
        """What it has written, as the upper folder of an overlay: to be read and written while it is off."""
        return self._folder / "upper"

    def file(self, path: str) -> Path:
        """A path in the booted machine, as the host sees it."""
        return Path(f"/proc/{self._pid}/root") / path.lstrip("/")

    def boot(self) -> None:
        """Start it, and return when all that it starts by itself has been started."""
        assert self._process is None
        self._group = _make_group(self._folder.name)
        notify = self._folder / "notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, _short(notify) as address:
            told.bind(address)
            environment = {
                "NOTIFY_SOCKET": str(notify),
                "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                "GROUP": str(self._group),
                "OVERLAY": str(self._folder),
                "LOWER": ":".join(map(str, self._lower)),
            }
            with (self._folder / "console").open("ab") as console:
                self._process = subprocess.Popen(
                    killed_with_parent([*_ALONE, "sh", "-c", _BOOT, "nspawn", *self._nspawn()]),
                    env=os.environ | environment,
                    stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                )  # fmt: skip
            self._wait_for_boot(told)
        self._pid = int((self._group / "payload/init.scope/cgroup.procs").read_text().split()[0])

    def run(self, *command: str, expect: int | None = 0, network: bool = False, **options: Any) -> str:
        """Run a command as root and return what it prints; `network`: in the host's, where package registries are.

        Fails unless it exits with `expect`; None: whatever it exits with.
        """
        done = self.tried(*command, network=network, **options)
        assert expect in {None, done.returncode}, (
            f"{shlex.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def tried(self, *command: str, network: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command as root; how it ended."""
        return subprocess.run(
            self.command(*command, network=network), capture_output=True, text=True, check=False, **options
        )

    def shell(self, line: str, *, network: bool = False, **options: Any) -> str:
        """Run a line of shell as `run` does; a command that fails ends it."""
        return self.run("bash", "-ec", line, network=network, **options)

    def command(self, *command: str, network: bool = False) -> list[str]:
        """The host's command that runs this one in the machine."""
        namespaces = ("-m", "-u", "-i", "-p", "-C", *(() if network else ("-n",)))
        return ["nsenter", "-t", str(self._pid), *namespaces, "--", *_CLOCKLESS, "env", "-i", *_ENVIRONMENT, *command]

    def reboot(self) -> None:
        """Reboot it as its user would; return when it is up again."""
        self._end("reboot")
        self.boot()

    def power_off(self) -> None:
        """Shut it down as its user would."""
        self._end("poweroff")

    def console(self) -> str:
        """The last lines that it wrote to its console."""
        return (self._folder / "console").read_text(errors="replace")[-3000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._clear()

    def _nspawn(self) -> list[str]:
        java = [Path("/usr/lib/jvm"), *Path("/etc").glob("java-*-openjdk")]
        seen = [*java, *(Path(each) for each in _HOSTS), *self._seen]
        return [
            *("--quiet", "--boot", f"--directory={self._folder / 'root'}", "--console=read-only", "--notify-ready=yes"),
            "--drop-capability=CAP_SYS_TIME",
            *("--register=no", "--keep-unit", "--private-network", "--link-journal=no", "--timezone=off"),
            *("--resolv-conf=off", f"--hostname=pi-{self.suite}", f"--machine={self._folder.name}"),
            *(f"--bind-ro={each}" for each in seen if each.exists()),
        ]

    def _wait_for_boot(self, told: socket.socket) -> None:
        """Return when the machine's PID 1 says that it has started what it starts by itself."""
        assert self._process is not None
        ended = os.pidfd_open(self._process.pid)
        try:
            while told.fileno() in select.select([told.fileno(), ended], [], [])[0]:
                if "READY=1" in told.recv(65536).decode().splitlines():
                    return
        finally:
            os.close(ended)
        raise AssertionError(f"{self.suite} did not boot\n{self.console()}")

    def _end(self, how: str) -> None:
        assert self._process is not None
        self.tried("systemctl", how)  # it may be ended itself before it can exit with 0
        self._process.wait()
        self._clear()

    def _clear(self) -> None:
        self._process, group = None, self._group
        assert group is not None
        _wait_until_empty(group)
        for each in sorted(group.rglob("*/"), reverse=True):
            each.rmdir()
        group.rmdir()


@cache
def _hindrance() -> str:
    """What this host does not let us do, which no package would change; "" when machines can be booted."""
    if os.geteuid() != 0:
        return "machines are booted by root alone"
    if _cgroups() is None:
        return "no cgroup2 is mounted, which systemd needs as PID 1"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        try:
            _make_group(Path(folder).name).rmdir()
        except OSError as error:
            return f"no cgroup can be made: {error}"
        done = subprocess.run(
            [*_ALONE, "sh", "-c", _TRIAL, "trial", folder], capture_output=True, text=True, check=False
        )
    return f"no overlay can be mounted: {done.stderr.strip()}" if done.returncode else ""


def _cgroups() -> Path | None:
    """Where cgroup2 is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    return None


def _make_group(name: str) -> Path:
    """A cgroup of the machine's own: its PID 1 makes groups in it, which it may not among the host's."""
    mounted = _cgroups()
    assert mounted is not None
    group = mounted / f"edged-tests-{os.getpid()}-{name}"
    group.mkdir()
    return group


def _wait_until_empty(group: Path) -> None:
    """The kernel ends the processes of a machine one after the other."""
    events = os.open(group / "cgroup.events", os.O_RDONLY)
    changes = select.poll()
    changes.register(events, select.POLLPRI)
    while b"populated 1" in os.pread(events, 4096, 0):  # one read: it also tells the kernel what is known
        changes.poll()
    os.close(events)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address of a socket at this path, whose length addresses limit to some 100 bytes."""
    folder = os.open(path.parent, os.O_PATH)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
