"""Changes copies of an archive, in a process for each that kills itself with SIGKILL at its n-th failpoint.

Arguments: what is done, the archive's folder, and the beginning of the copies' paths, to which n is added. It goes on
to the n at which the process came to its end. Failpoints are before and behind each call that makes a change durable;
standard output is their table, a line each: the call, and the name in the source's folder, with N for its numbers.
"""

import itertools
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edged.adapters.local import local_store
from edged.adapters.parquet.migrate import migrate
from edged.domain.archive.layout import SEGMENT
from edged.domain.archive.retention import Limits
from tests.support.archive_samples import PATIENT_S, open_archive, pack


def append(archive: Path) -> None:
    """A source's next files, over the border of a segment; and another source's first one."""
    store = open_archive(archive)
    store.append("fashion", "pi-a", [(1, pack(4)), (SEGMENT - 1, pack(8))], [(2, SEGMENT - 1)])
    store.append("fashion", "pi-a", [(SEGMENT, pack(12))])
    store.append("fashion", "pi-b", [(0, pack(0))])


def compact(archive: Path) -> None:
    """All that can be packed, without a grace: what is replaced is deleted at once."""
    list(open_archive(archive).compact(grace_s=0))


def retain(archive: Path) -> None:
    """As little as may be, without a grace: what is forgotten is deleted at once."""
    list(open_archive(archive).retain("fashion", Limits(size=0), grace_s=0, is_certain=True))


def bring_up(archive: Path) -> None:
    """To the present layout."""
    list(migrate(local_store(archive.as_uri(), "tests", PATIENT_S)))


CHANGES: dict[str, Callable[[Path], None]] = {
    "append": append,
    "compact": compact,
    "retain": retain,
    "migrate": bring_up,
}


def main(change: str, archive: Path, copies: str) -> None:
    for number in itertools.count(1):
        folder = Path(f"{copies}{number}")
        shutil.copytree(archive, folder)
        child = os.fork()  # before there is any thread
        if child == 0:
            _Failpoints(folder, number).set()
            CHANGES[change](folder)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return


class _Failpoints:
    """Of this process; the one with number `fatal` is its last."""

    def __init__(self, folder: Path, fatal: int) -> None:
        self._folder = folder
        self._fatal = fatal
        self._passed = 0

    def set(self) -> None:
        # A kill loses nothing that the kernel has, and a busy disk takes a second for each.
        os.fsync = self._around("fsync", lambda _fd: None, lambda fd: Path(f"/proc/self/fd/{fd}").readlink())
        os.link = self._around("link", os.link, lambda _source, target: target)
        for call in ("mkdir", "open", "unlink"):
            setattr(Path, call, self._around(call, getattr(Path, call), lambda path, *_: path))

    def _around(self, call: str, function: Any, path_of: Callable[..., Any]) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            name = f"{call} {self._name(Path(path_of(*args)))}"
            self._pass(name)
            result = function(*args, **kwargs)
            self._pass(name)
            return result

        return called

    def _pass(self, name: str) -> None:
        self._passed += 1
        if self._passed == self._fatal:
            os.write(sys.stdout.fileno(), f"{name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def _name(self, path: Path) -> str:
        name = re.sub(r"\.([^/]+)\.tmp-[^/]+$", r"\1 (temporary)", str(path.relative_to(self._folder)))
        return re.sub("[0-9]{15,20}", "N", re.sub("^fashion/[^/]+/", "", name))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
