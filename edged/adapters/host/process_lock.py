"""One process per node, and one companion per job: locks that go by the node's state folder.

Covers one machine and one folder; `services.node.presence` notices other ones. The locks are the kernel's, so they
leave no file and end with the process, however it ends: of a node, flock(2) on the folder itself; of a companion, which
may not write there and may come before the folder, a name of a socket (unix(7), abstract).

Each yields the lock's name among all of this boot of the machine; "" where it could not be held.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from edged.errors import AlreadyRunning, StateFolderRefused

_MODE = 0o750
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


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
        reason = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
        raise StateFolderRefused(f"the state folder {folder} cannot be used: {reason}") from error
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
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise AlreadyRunning(f"another process runs this node: it holds the lock of {folder}") from error
        return ""
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def _bind(held: socket.socket, folder: Path, name: str) -> str:
    if sys.platform != "linux":
        return ""
    digest = hashlib.blake2b(f"{os.path.realpath(folder)}\0{name}".encode(), digest_size=16).hexdigest()
    try:
        held.bind(f"\0edged/{digest}".encode())
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AlreadyRunning(f"another process runs this companion, with the models of {folder}") from error
        return ""
    try:
        return f"{Path('/proc/self/ns/net').readlink()}/{digest}"  # the names are those of a network namespace
    except OSError:
        return ""
