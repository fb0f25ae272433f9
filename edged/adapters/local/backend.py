"""The backend of `ports.ObjectStore` on local files.

Only regular files count, and no link leads out of the folder. See also: `renaming` (never over what is there).
"""

import contextlib
import errno
import os
import posixpath
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from edged.access import why_dead, why_refused_in
from edged.adapters.local.renaming import give_name
from edged.adapters.objects.bounded import DEADLINE_S, GoesOn
from edged.adapters.objects.leftovers import is_left, is_temporary, temporary_name
from edged.adapters.objects.store import Store
from edged.domain.archive import object_name
from edged.errors import ArchiveFull, ArchiveUnavailable
from edged.files import open_regular, sync_folder
from edged.ports.objects import Listed

_CHUNK_BYTES = 4 << 20
_MAX_KNOWN = 4096
"""Folders that are known to be inside."""

_IS_FULL = {errno.ENOSPC, errno.EDQUOT}
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def local_store(url: str, writer: str, deadline_s: float = DEADLINE_S) -> Store:
    """The store at file:///folder."""
    root = Path(posixpath.normpath("/" + urlsplit(url).path.lstrip("/")))
    return Store(
        str(root), lambda: _Folder(root, writer), lambda error, name: _translated(root, error, name), writer, deadline_s
    )


class _Folder:
    """A `Backend`."""

    def __init__(self, root: Path, writer: str) -> None:
        self._root = root
        self._writer = writer
        self._inside: set[Path] = set()

    def put(self, name: str, pieces: Sequence[bytes | memoryview], goes_on: GoesOn) -> bool:
        """1. Write it under a temporary name; 2. fsync; 3. give it its name; 4. fsync the folder."""
        folder, last = object_name.parts(name)
        path = self._path(folder)
        self.require_place()
        self._require_inside(path)
        _make_folders(path, self._root)
        temporary = path / temporary_name(last, self._writer)
        try:
            with temporary.open("xb") as file:
                for piece in pieces:
                    view = memoryview(piece).cast("B")
                    for begin in range(0, view.nbytes, _CHUNK_BYTES):
                        file.write(view[begin : begin + _CHUNK_BYTES])
                        goes_on()
                file.flush()
                os.fsync(file.fileno())
            goes_on()
            if not give_name(temporary, path / last):
                return False
            sync_folder(path)
            return True
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def read(self, name: str, offset: int, length: int) -> bytes | None:
        path = self._path(name)
        try:
            self._look_inside(path.parent)
            with open_regular(path) as file:
                return os.pread(file.fileno(), length, offset)
        except _ABSENT:
            return None

    def size(self, name: str) -> int | None:
        path = self._path(name)
        try:
            self._look_inside(path.parent)
            with open_regular(path) as file:
                return os.fstat(file.fileno()).st_size
        except _ABSENT:
            return None

    def pages(self, folder: str, after: str) -> Iterator[Sequence[Listed]]:
        path = self._path(folder)
        self._require_inside(path)
        with contextlib.suppress(*_ABSENT), os.scandir(path) as entries:
            found = sorted(
                (os.fsencode(each.name), each)
                for each in entries
                if each.name > after and not is_temporary(each.name) and each.is_file(follow_symlinks=False)
            )
            yield [Listed(each.name, size) for _, each in found if (size := _size(each)) is not None]

    def folders(self, folder: str) -> Sequence[str]:
        path = self._path(folder)
        self._require_inside(path)
        with contextlib.suppress(*_ABSENT), os.scandir(path) as entries:
            return [each.name for each in entries if each.is_dir()]
        return []

    def delete(self, name: str) -> None:
        path = self._path(name)
        self._require_inside(path.parent)
        with contextlib.suppress(*_ABSENT):
            path.unlink()
            sync_folder(path.parent)

    def sweep(self, folder: str) -> None:
        path = self._path(folder)
        self._require_inside(path)
        with contextlib.suppress(*_ABSENT), os.scandir(path) as entries:
            for each in entries:
                if is_temporary(each.name):
                    age_s = time.time() - each.stat(follow_symlinks=False).st_mtime
                    if is_left(each.name, self._writer, age_s):
                        Path(each.path).unlink(missing_ok=True)

    def create(self) -> None:
        _make_folders(self._root, Path("/"))

    def require_place(self) -> None:
        if not self._root.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._root))

    def notes(self, _name: str) -> Sequence[str]:
        return ()

    def _path(self, name: str) -> Path:
        return self._root / name if name else self._root

    def _look_inside(self, folder: Path) -> None:
        """As `_require_inside`, once: it takes ten times what reading a block's bytes does."""
        if folder not in self._inside:
            self._require_inside(folder)
            if len(self._inside) >= _MAX_KNOWN:
                self._inside.clear()
            self._inside.add(folder)

    def _require_inside(self, folder: Path) -> None:
        """Raise when a link leads from inside the place to outside."""
        if folder != self._root and not folder.resolve().is_relative_to(self._root.resolve()):
            raise _LeadsOutError(folder)


class _LeadsOutError(Exception):
    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is a link that leads out of the archive: mount the other folder there instead")


def _size(entry: "os.DirEntry[str]") -> int | None:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # deleted meanwhile
        return None


def _make_folders(folder: Path, below: Path) -> None:
    """Make `folder` and its missing parents, each durable in its parent; `below` itself must exist."""
    if folder != below and not folder.is_dir():
        _make_folders(folder.parent, below)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _translated(root: Path, error: Exception, name: str) -> ArchiveUnavailable:
    path = root / name if name else root
    if isinstance(error, _LeadsOutError):
        return ArchiveUnavailable(str(error))
    if not isinstance(error, OSError):
        return ArchiveUnavailable(f"{path}: {type(error).__name__}: {error}")
    if error.errno in _IS_FULL:
        what = "its disk is full" if error.errno == errno.ENOSPC else "the quota of its user is used up"
        return ArchiveFull(f"{path}: {what}: make room, or set when_full: oldest_first")
    if not root.is_dir():
        reason = why_dead(root) or "is its file system mounted?"
        return ArchiveUnavailable(f"the archive's folder {root} is not there: {reason}")
    return ArchiveUnavailable(why_refused_in(path, error))
