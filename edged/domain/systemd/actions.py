"""What is done to a machine, one thing each: as values, whose texts are what an administrator would type."""

import shlex
from dataclasses import dataclass

from edged.domain.systemd.setup import Folder


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """Make the folder, or give the one that is there this mode and owner."""

    folder: Folder

    def __str__(self) -> str:
        path, mode, owner, _ = self.folder
        return f"install -d -m {mode:o} -o {owner} -g {owner} {shlex.quote(path)}"


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Put a file there, whole or not at all; its folder too."""

    path: str
    content: str

    def __str__(self) -> str:
        lines = "".join(f"\n    {line}".rstrip(" ") for line in self.content.splitlines())
        return f"write {shlex.quote(self.path)}{lines}"


@dataclass(frozen=True, slots=True)
class RemoveFile:
    path: str

    def __str__(self) -> str:
        return f"rm {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class RemoveFolder:
    """An empty one."""

    path: str

    def __str__(self) -> str:
        return f"rmdir {shlex.quote(self.path)}"


@dataclass(frozen=True, slots=True)
class Systemctl:
    """`systemctl` with these words."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["systemctl", *self.words])


Action = MakeFolder | WriteFile | RemoveFile | RemoveFolder | Systemctl
