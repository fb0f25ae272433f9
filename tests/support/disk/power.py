"""What may be on a disk after a power cut, from the record of all that was written to it.

Replays the record up to a moment and drops what was not made durable by then, as far as POSIX lets a file system: data
of a file since its last fsync, entries of a folder since the folder's. See also: `disk.c` (which writes the record).
"""

import random
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple

Loss = Literal["nothing", "all", "data", "torn", "some"]
LOSSES: tuple[Loss, ...] = ("nothing", "all", "data", "torn", "some")
"""What is lost of what is not durable: nothing, as by kill -9; all; the data, but no names, so that new files are
empty; of the data, sectors here and there; of each folder's entries the latest, and of the data sectors."""

_HEADER = struct.Struct("=8q")
_SECTOR = 512


class _Call(IntEnum):
    CREATED, WRITTEN, TRUNCATED, SYNCED, RENAMED, LINKED, UNLINKED, FOLDER_MADE, FOLDER_REMOVED = range(1, 10)


class Op(NamedTuple):
    """A recorded call; see `disk.c`."""

    call: _Call
    inode: int
    offset: int
    mode: int
    path: str
    other: str
    data: bytes


def recorded(file: Path) -> list[Op]:
    """All calls of a record, in order."""
    blob, at, ops = file.read_bytes(), 0, []
    while at < len(blob):
        call, inode, offset, mode, num_path, num_other, num_data, _ = _HEADER.unpack_from(blob, at)
        at += _HEADER.size
        path, other = blob[at : at + num_path], blob[at + num_path : at + num_path + num_other]
        at += num_path + num_other
        ops.append(Op(_Call(call), inode, offset, mode, path.decode(), other.decode(), blob[at : at + num_data]))
        at += num_data
    return ops


@dataclass
class _File:
    """Content as written, and as made durable; the writes since."""

    written: bytearray = field(default_factory=bytearray)
    durable: bytes = b""

    def write(self, op: Op) -> None:
        if op.call == _Call.TRUNCATED:
            del self.written[op.offset :]
        self.written.extend(bytes(max(0, op.offset - len(self.written))))
        self.written[op.offset : op.offset + len(op.data)] = op.data

    def sync(self) -> None:
        self.durable = bytes(self.written)

    def after(self, loss: Loss, rng: random.Random) -> bytes:
        if loss == "nothing" or self.durable == self.written:
            return bytes(self.written)
        if loss in {"all", "data"}:
            return self.durable
        torn = bytearray(self.written)
        for start in range(0, len(torn), _SECTOR):
            if rng.random() < 0.5:  # this sector was not written any more: it is as before, or blank
                end = min(start + _SECTOR, len(torn))
                torn[start:end] = self.durable[start:end].ljust(end - start, b"\0")
        return bytes(torn)


Entry = _File | None
"""A file, or (None) a folder."""


class _Change(NamedTuple):
    """An entry of a folder appears under `path`, or (`is_there` not) goes; a rename is two that are one."""

    path: str
    entry: Entry
    is_there: bool


class RecordedDisk:
    """The disk as a record makes it, call by call. `root`: the folder that the record is of, which was empty."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.num_calls = 0
        """Taken so far."""
        self._files: dict[str, Entry] = {str(root): None}
        self._durable: dict[str, Entry] = {str(root): None}
        self._pending: list[tuple[str, Sequence[_Change]]] = []  # by folder: changes of entries that are not durable
        self._file_of: dict[int, _File] = {}
        self._folder_of = {root.stat().st_ino: str(root)}

    def take(self, op: Op) -> None:
        """The next call."""
        self.num_calls += 1
        changes: list[_Change] = []
        match op.call:
            case _Call.CREATED:
                self._file_of[op.inode] = _File()
                changes = [_Change(op.path, self._file_of[op.inode], is_there=True)]
            case _Call.FOLDER_MADE:
                self._folder_of[op.inode] = op.path
                changes = [_Change(op.path, None, is_there=True)]
            case _Call.LINKED:
                changes = [_Change(op.path, self._file_of[op.inode], is_there=True)]
            case _Call.UNLINKED | _Call.FOLDER_REMOVED:
                changes = [_Change(op.path, None, is_there=False)]
            case _Call.RENAMED:
                changes = [
                    change
                    for path in self._files
                    if path == op.path or path.startswith(op.path + "/")
                    for change in (
                        _Change(op.other + path.removeprefix(op.path), self._files[path], is_there=True),
                        _Change(path, None, is_there=False),
                    )
                ]
            case _Call.WRITTEN | _Call.TRUNCATED:
                if op.inode in self._file_of:  # else it was deleted, or opened, before the record began
                    self._file_of[op.inode].write(op)
            case _Call.SYNCED:
                self._sync(op.inode)
        if changes:
            _apply(self._files, changes)
            self._pending.append((str(Path(changes[0].path).parent), changes))

    def content(self, path: Path) -> bytes:
        """Of a file, as whoever reads it sees it now; empty if there is none."""
        entry = self._files.get(str(path))
        return b"" if entry is None else bytes(entry.written)

    def after_cut(self, loss: Loss, seed: int) -> dict[Path, bytes | None]:
        """What would be there after a power cut now: files with content and folders (None), relative to the root."""
        rng = random.Random(f"{seed} {self.num_calls} {loss}")  # noqa: S311 - guards nothing
        entries = dict(self._durable if loss in {"all", "some"} else self._files)
        if loss == "some":
            survives = {folder: rng.randint(0, len(self._pending)) for folder, _ in self._pending}
            for index, (folder, changes) in enumerate(self._pending):
                if index < survives[folder]:
                    _apply(entries, changes)
        return {
            Path(path).relative_to(self.root): None if entry is None else entry.after(loss, rng)
            for path, entry in sorted(entries.items())
            if all(str(parent) in entries for parent in Path(path).parents if parent.is_relative_to(self.root))
        }

    def _sync(self, inode: int) -> None:
        if inode in self._file_of:
            self._file_of[inode].sync()
        folder = self._folder_of.get(inode)
        for where, changes in self._pending:
            if where == folder:
                _apply(self._durable, changes)
        self._pending = [each for each in self._pending if each[0] != folder]


def put(entries: Mapping[Path, bytes | None], folder: Path) -> None:
    """Make `folder` hold this, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in entries.items():  # a folder comes before what is in it
        if content is None:
            (folder / path).mkdir(parents=True)
        else:
            (folder / path).write_bytes(content)


def _apply(entries: dict[str, Entry], changes: Sequence[_Change]) -> None:
    for path, entry, is_there in changes:
        if is_there:
            entries[path] = entry
        else:
            entries.pop(path, None)
