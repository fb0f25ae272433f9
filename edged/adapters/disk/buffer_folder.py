"""The folder of a device's buffer: its lock, its files of samples, and the cursor.

    0000000007-4f1c9a2e03b7-0000000001.samples     see `domain.device.segments`; begins with a line that names its owner
    cursor                                         the first sample without a receipt, as JSON; replaced by renaming

Other files are left alone. All methods raise OSError. See also: `sample_buffer`, which decides what is in the files.
"""

import contextlib
import errno
import fcntl
import json
import os
import stat
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edged.domain import format_version
from edged.domain.device.frames import MAX_FRAME_BYTES, salt_of, scan
from edged.domain.device.sample import Position
from edged.domain.device.segments import SegmentName, parse_name
from edged.errors import AlreadyRunning, AnotherVersion, FormatError, StateFolderRefused
from edged.files import read_regular, sync_folder

_VERSION = "device_samples/1"
_CURSOR_VERSION, _FORMER_CURSOR_VERSION = "device_cursor/2", "device_cursor/1"
_CURSOR, _TEMPORARY = "cursor", "cursor.tmp"
_MAX_CURSOR_BYTES = 4096

HEADER_BYTES = 1024
"""At most, of the line that a file begins with."""

_FOLDER_MODE, _FILE_MODE = 0o750, 0o640
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


class Cursor(NamedTuple):
    """`first`: the first sample without a receipt. `series`, `next`: of the next sample, after a clean end.

    `boot`: the machine's at the time, see `this_boot`; files from `boot_file` on were written in it.
    """

    first: Position = Position(0, 0)
    series: str = ""
    next: int = 0
    boot: str = ""
    boot_file: int = 0


class Found(NamedTuple):
    """A file of samples. `written_ms`: when it was last written."""

    name: SegmentName
    num_bytes: int
    written_ms: int


class End(NamedTuple):
    """`next`: the number after the last sample, 0 without one. `at`: the byte after it. `steady_ms`: as in Kept."""

    next: int
    at: int
    steady_ms: int = 0


def this_boot() -> str:
    """The id of this boot of the machine, in which its monotonic clock goes on; empty where it is unknown."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


class BufferFolder:
    """The folder, locked until `close` where its file system has locks. `owner`: whose samples are in it.

    Raises AlreadyRunning when another process has it, and StateFolderRefused when it is another device's.
    """

    def __init__(self, folder: Path, owner: Mapping[str, str]) -> None:
        self._folder = folder
        self._owner = dict(owner)
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._take()
            self.num_foreign = 0
            """Files in the folder that are not the buffer's."""
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        os.close(self._lock)

    def segments(self) -> list[Found]:
        """The files of samples in the order of reading."""
        found: list[Found] = []
        self.num_foreign = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = parse_name(entry.name)
                status = entry.stat(follow_symlinks=False)
                if name is not None and stat.S_ISREG(status.st_mode):
                    found.append(Found(name, status.st_size, status.st_mtime_ns // 1_000_000))
                elif entry.name not in {_CURSOR, _TEMPORARY}:
                    self.num_foreign += 1
        return sorted(found)

    def check(self, name: SegmentName) -> None:
        """Raise StateFolderRefused for samples of another device, or of another version of edged.

        A damaged header is passed over: it names neither.
        """
        with self._folder.joinpath(str(name)).open("rb") as file:
            line = file.readline(HEADER_BYTES)
        try:
            header = json.loads(line)
            version, owner = str(header.pop("version")), {key: str(value) for key, value in header.items()}
        except (ValueError, RecursionError, AttributeError, KeyError):
            return
        try:
            format_version.check(version, _VERSION)
        except AnotherVersion as error:
            raise StateFolderRefused(
                f"the buffer {self._folder} cannot be used: {error}: empty it with that"
            ) from error
        except FormatError:
            return
        if owner != self._owner:
            raise StateFolderRefused(
                f"the buffer {self._folder} holds samples of {_shown(owner)}, not of {_shown(self._owner)}: give each"
                " device a folder of its own"
            )

    def end(self, name: SegmentName) -> End:
        """Where the file's last whole frame ends."""
        at, end, salt, size = 0, End(0, 0), salt_of(str(name)), self._folder.joinpath(str(name)).stat().st_size
        while at < size:
            data = self.read(name, at, MAX_FRAME_BYTES)
            scanned = scan(data, salt, is_all=at + len(data) >= size)
            if scanned.frames:
                last = scanned.frames[-1][0]
                end = End(last.number + 1, at + scanned.end, last.steady_ms)
            at += scanned.consumed or size
        return end if end.next else End(0, min(size, HEADER_BYTES))

    def read(self, name: SegmentName, at: int, num_bytes: int) -> bytes:
        """At most `num_bytes` of the file, from the byte `at` on."""
        descriptor = os.open(self._folder / str(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.pread(descriptor, num_bytes, at)
        finally:
            os.close(descriptor)

    def cut(self, name: SegmentName, num_bytes: int) -> None:
        """Truncate the file to this length, durably."""
        with self._folder.joinpath(str(name)).open("r+b") as file:
            file.truncate(num_bytes)
            os.fsync(file.fileno())

    def create(self, name: SegmentName) -> "SegmentFile":
        """Create a file of samples, durably."""
        header = json.dumps({"version": _VERSION, **self._owner}, separators=(",", ":")).encode() + b"\n"
        file = SegmentFile(self._folder / str(name))
        try:
            file.append(header)
            sync_folder(self._folder)
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):
                self.delete(name)
            raise
        return file

    def delete(self, name: SegmentName) -> None:
        """Delete the file, if it exists; not durably: after a crash it may be back, and lies before the cursor."""
        self._folder.joinpath(str(name)).unlink(missing_ok=True)

    def cursor(self) -> Cursor | None:
        """The cursor; None if it cannot be read."""
        try:
            values = json.loads(read_regular(self._folder / _CURSOR, _MAX_CURSOR_BYTES))
            version = format_version.check(values["version"], _CURSOR_VERSION, _FORMER_CURSOR_VERSION)
            if version == _CURSOR_VERSION and values.pop("crc") != _checksum(values):
                return None  # one digit more, and samples would be taken for received
            first = Position(_count(values["file"]), _count(values["number"]))
            boot = (str(values["boot"]), _count(values["boot_file"])) if version == _CURSOR_VERSION else ()
            return Cursor(first, str(values["series"]), _count(values["next"]), *boot)
        except FileNotFoundError:
            return Cursor()
        except (OSError, ValueError, RecursionError, TypeError, KeyError, FormatError):
            return None

    def set_cursor(self, cursor: Cursor) -> None:
        """Replace the cursor, durably and atomically."""
        values = {"version": _CURSOR_VERSION, **cursor.first._asdict(), **cursor._asdict()}
        del values["first"]
        temporary = self._folder / _TEMPORARY
        temporary.unlink(missing_ok=True)  # a link would be followed, and a FIFO wait for its reader
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps({**values, "crc": _checksum(values)}).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._folder / _CURSOR)
        sync_folder(self._folder)

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise AlreadyRunning(
                    f"another process has the buffer {self._folder}: stop it first, or give each a folder of its own"
                ) from error


class SegmentFile:
    """A file of samples that is being written. Raises FileExistsError when there is one of this name."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        self.num_bytes = 0
        """Bytes that are durable."""

    def append(self, data: bytes) -> None:
        """Write and sync. Raises OSError; the file is then truncated to what was durable, if the disk allows."""
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fdatasync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.num_bytes)
                os.lseek(self._descriptor, self.num_bytes, os.SEEK_SET)
            raise
        self.num_bytes += len(data)

    def close(self) -> None:
        os.close(self._descriptor)


def _checksum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return int(value)


def _shown(owner: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(owner.items()))
