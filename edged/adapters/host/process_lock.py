"""One process per node: a lock on the node's state folder.

Covers one machine; only Kafka's ACLs and the archive notice that two machines run the same node. The lock is the
kernel's (flock(2)) on the folder itself, so it leaves no file and ends with the process, however it ends.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edged.errors import AlreadyRunning, StorageError

_MODE = 0o750
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextlib.contextmanager
def process_lock(folder: Path) -> Iterator[None]:
    """Hold the lock on `folder`, which is created if missing.

    Raises AlreadyRunning when another process holds it, StorageError when the folder cannot be created. On a file
    system without locks, as some network ones are, it does nothing.
    """
    try:
        folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(str(error)) from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise AlreadyRunning(f"another process runs this node: it holds the lock of {folder}") from error
