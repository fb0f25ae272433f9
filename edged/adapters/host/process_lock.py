"""One process per node, and one companion per job: locks that go by the node's state folder.

Covers one machine and one folder; `services.node.presence` notices other ones. The locks are the kernel's, so they
leave no file and end with the process, however it ends: of a node, flock(2) on the folder itself; of a companion, which
may not write there and may come before the folder, a name of a socket (unix(7), abstract).

Each yields the lock's name among all of this boot of the machine; "" where it could not be held. Who is refused is told
who holds it, by the kernel's word.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from edged.access import why_refused
from edged.adapters.host.name import host_name
from edged.adapters.host.processes import started_ms
from edged.domain.presence import where
from edged.errors import AlreadyRunning, StateFolderRefused

_MODE = 0o750
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_CREDENTIALS = struct.Struct("3i")
_MAX_ASKERS = 1024
"""Each that asks who listens keeps its place until the lock ends: nobody accepts."""


@contextlib.contextmanager
def process_lock(folder: Path) -> Iterator[str]:
    """Hold the lock on `folder`, which is created if missing.

    Raises AlreadyRunning when another process holds it, StateFolderRefused when the folder cannot be created. On a file
    system without locks, as some network ones are, it does nothing.
    """
    try:
        folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateFolderRefused(f"the state folder {folder} cannot be used: {why_refused(folder, error)}") from error
    try:
        yield _lock(descriptor, folder)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def name_lock(folder: Path, name: str) -> Iterator[str]:
    """Hold the lock called `name` of `folder`, which need not exist.

    Raises AlreadyRunning when another process holds it. Where there are no such locks it does nothing.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        yield _bind(held, folder, name)


def _lock(descriptor: int, folder: Path) -> str:
    status = os.fstat(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise AlreadyRunning(f"another process runs this node: {_told(_flock_holder(status), folder)}") from error
        return ""
    return f"{status.st_dev}:{status.st_ino}"


def _bind(held: socket.socket, folder: Path, name: str) -> str:
    if sys.platform != "linux":
        return ""
    digest = hashlib.blake2b(os.fsencode(f"{os.path.realpath(folder)}\0{name}"), digest_size=16).hexdigest()
    address = f"\0edged/{digest}".encode()
    try:
        held.bind(address)
        held.listen(_MAX_ASKERS)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AlreadyRunning(f"another process runs this companion: {_told(_listener(address), folder)}") from error
        return ""
    try:
        return f"{Path('/proc/self/ns/net').readlink()}/{digest}"  # the names are those of a network namespace
    except OSError:
        return ""


def _flock_holder(status: os.stat_result) -> int:
    """The process that holds flock(2) on this; 0 when it is not of this machine, or cannot be seen from here."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    place = f"{device}:{status.st_ino}"
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text("ascii").splitlines()]
    except OSError:
        return 0
    return next((int(fields[4]) for fields in locks if fields[1:2] == ["FLOCK"] and fields[5] == place), 0)


def _listener(address: bytes) -> int:
    """The process that listens there; 0 when it cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(address)
            pid, _user, _group = _CREDENTIALS.unpack(
                asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
        except OSError:
            return 0
    return int(pid)


def _told(pid: int, folder: Path) -> str:
    if not pid:
        return (
            f"its state folder is {folder}, and its process is not to be seen from here: it may be in another "
            "container, or on another machine that has this folder, too. Stop it there first"
        )
    return f"{where(host_name(), started_ms(pid), pid, str(folder))}. Stop it first"
