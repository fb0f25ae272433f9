"""The regular files below a folder, and by name and reason all others: hidden ones, junk, links, devices.

Opens no file. Links are followed on request, and then only where they lead below the folder, or into the store that
tools have put the files of such folders into: the blobs of a Hugging Face cache, and the objects of DVC and git-annex.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edged.errors import StorageError
from edged.ports import Omissions

_JUNK = frozenset(
    {
        "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle",
        "$recycle.bin", "recycler", "system volume information", "lost+found", "__pycache__", "folder.htt",
    }
)  # fmt: skip
"""In lower case: what Windows, macOS, network storage and Python leave in folders."""


class File(NamedTuple):
    """A regular file: `name` is its path below the folder, `path` the one to open."""

    name: str
    path: str


class Tree:
    """Lists `folder` once. `omissions` counts each file that is not listed."""

    def __init__(self, folder: Path, omissions: Omissions, *, follow_links: bool = False) -> None:
        self._root = os.path.realpath(folder)
        self._omissions = omissions
        self._stores = (self._root, *_stores(Path(self._root))) if follow_links else ()
        self._links: deque[str] = deque()
        self._listed: set[tuple[int, int]] = set()

    def files(self) -> Iterator[File]:
        """In no order. Raises StorageError when the folder itself cannot be listed."""
        try:
            os.scandir(self._root).close()
        except OSError as error:
            raise StorageError(f"{self._root}: {error.strerror or error}") from error
        yield from self._below("", self._root)
        while self._links:  # last, so that a folder is listed by its own name rather than by a link's
            yield from self._linked(self._links.popleft())

    def _below(self, name: str, path: str) -> Iterator[File]:
        folders = deque([(name, path)])
        while folders:
            name, path = folders.popleft()
            entries = self._entries(name, path)
            for entry in entries:
                entry_name = f"{name}/{entry.name}" if name else entry.name
                if (reason := _reason(entry.name)) is not None:
                    self._leave_out(reason, entry_name, entry)
                elif entry.is_symlink():
                    self._links.append(entry_name)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append((entry_name, entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield File(entry_name, entry.path)
                else:
                    self._omissions.add("special_file", entry_name)

    def _entries(self, name: str, path: str) -> list["os.DirEntry[str]"]:
        try:
            status = Path(path).stat()
            self._listed.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError:
            self._omissions.add("unreadable", f"{name}/")
            return []

    def _leave_out(self, reason: str, name: str, entry: "os.DirEntry[str]") -> None:
        """A file, or all below a folder."""
        if not entry.is_dir(follow_symlinks=False):
            self._omissions.add(reason, name)
        elif count := sum(len(files) for _, _, files in os.walk(entry.path)):
            self._omissions.add(reason, f"{name}/", count)

    def _linked(self, name: str) -> Iterator[File]:
        if not self._stores:
            self._omissions.add("link", name)
            return
        try:
            path = os.path.realpath(f"{self._root}/{name}", strict=True)
            status = os.lstat(path)
        except OSError:
            self._omissions.add("broken_link", name)
            return
        if not any(path == store or path.startswith(f"{store}/") for store in self._stores):
            self._omissions.add("link_outside", name)
        elif stat.S_ISREG(status.st_mode):
            yield File(name, path)
        elif not stat.S_ISDIR(status.st_mode):
            self._omissions.add("special_file", name)
        elif (status.st_dev, status.st_ino) in self._listed:
            self._omissions.add("link_again", f"{name}/")
        else:
            yield from self._below(name, path)


def _reason(name: str) -> str | None:
    """Why a file or folder of this name is left out, if it is."""
    if name.lower() in _JUNK or name.startswith(("._", "~$")):
        return "junk"
    return "hidden" if name.startswith(".") else None


def _stores(root: Path) -> Iterator[str]:
    """Where the links of a snapshot in a Hugging Face cache, or of a DVC or git-annex repository, lead to."""
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots":
            yield os.path.realpath(folder.parent.parent / "blobs")
        for store in (folder / ".dvc" / "cache", folder / ".git" / "annex" / "objects"):
            if store.is_dir():
                yield os.path.realpath(store)
