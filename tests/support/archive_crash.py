"""Appends to copies of an archive, in a process for each that kills itself with SIGKILL at its n-th system call.

Arguments: the archive's folder, and the beginning of the copies' paths, to which n is added. It goes on to the n at
which the process came to its end. Calls are counted among those that make a file durable, before and after each.
"""

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from edged.domain.archive.layout import SEGMENT
from tests.support.archive_samples import open_archive, pack


def main(archive: Path, copies: str) -> None:
    for number in itertools.count(1):
        folder = Path(f"{copies}{number}")
        shutil.copytree(archive, folder)
        child = os.fork()  # before there is any thread
        if child == 0:
            append(folder, number)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return


def append(folder: Path, fatal_call: int) -> None:
    calls = 0

    def fatal(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal_call:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            calls += 1
            if calls == fatal_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    os.fsync = fatal(os.fsync)
    os.link = fatal(os.link)
    Path.mkdir = fatal(Path.mkdir)  # type: ignore[method-assign]
    Path.open = fatal(Path.open)  # type: ignore[method-assign]
    store = open_archive(folder)
    store.append("fashion", "pi-a", [(1, pack(4)), (SEGMENT - 1, pack(8))], [(2, SEGMENT - 1)])
    store.append("fashion", "pi-a", [(SEGMENT, pack(12))])
    store.append("fashion", "pi-b", [(0, pack(0))])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
