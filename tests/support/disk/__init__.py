"""A disk for processes that a test lets fail while they run, and a record of all that they write.

`disk.c` is compiled when it is first needed and preloaded into the processes; what it does it does to calls of the C
library, so that Python, SQLite and pyarrow meet it alike. Memory that is mapped is not covered: nobody here maps a file
to write it. See also: `power` (what a power cut leaves of a record).
"""

import errno
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tests.support import preloaded

Call = Literal["read", "write", "fsync", "rename", "create", "unlink", "open"]
CALLS: tuple[Call, ...] = ("read", "write", "fsync", "rename", "create", "unlink", "open")
"""As in `disk.c`; `create`: new files, folders and links."""

FULL: Mapping[Call, int] = {"write": errno.ENOSPC, "create": errno.ENOSPC}
BROKEN: Mapping[Call, int] = dict.fromkeys(CALLS, errno.EIO)
READ_ONLY: Mapping[Call, int] = {
    "write": errno.EROFS, "rename": errno.EROFS, "create": errno.EROFS, "unlink": errno.EROFS,
}  # fmt: skip
"""A file system that the kernel has made read-only after an error, as ext4 does: also for files that are open."""

_SOURCE = Path(__file__).parent / "disk.c"
_DELAY = len(CALLS)


class Disk:
    """The disk of the processes that get `environment`: all below `folder`; it works until it is told otherwise."""

    def __init__(self, file: Path, folder: Path, *, record: Path | None = None) -> None:
        self._file = file
        self._set(dict.fromkeys(CALLS, 0), 0)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(preloaded.library(_SOURCE)),
            "EDGED_TEST_DISK": str(file),
            "EDGED_TEST_DISK_BELOW": str(folder.resolve()),
            **({} if record is None else {"EDGED_TEST_DISK_RECORD": str(record)}),
        }

    def fail(self, errors: Mapping[Call, int]) -> None:
        """From now on these calls fail with these errno; all others succeed."""
        self._set(errors, 0)

    def slow(self, fsync_s: float) -> None:
        """From now on each fsync takes so long, and all succeed."""
        self._set({}, round(fsync_s * 1000))

    def heal(self) -> None:
        """It works; an fsync that was waiting goes on."""
        self._set({}, 0)

    def _set(self, errors: Mapping[Call, int], delay_ms: int) -> None:
        numbers = [errors.get(call, 0) for call in CALLS]
        with self._file.open("r+b" if self._file.exists() else "w+b", buffering=0) as file:
            file.write(struct.pack(f"={_DELAY + 1}i", *numbers, delay_ms))
