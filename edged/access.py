"""Rights to files and folders, for people: why this process has none, and who else has some to what nobody else should.

Each with whose it is and the command that mends it: `strerror` says only what kind of refusal it was. Says nothing of
what that means for a node.
"""

import contextlib
import errno
import grp
import os
import pwd
import shlex
import stat
from pathlib import Path
from typing import NamedTuple

_FOLDER_MODE = 0o750
_FIRST_PERSON = 1000
"""The numbers of users below it are services' (Debian Policy, 9.2)."""
_ROOTS_HOME, _HOMES = Path("/root"), Path("/home")
_NOT_ALLOWED = {errno.EACCES, errno.EPERM}
_NO_FOLDER = {errno.ENOTDIR, errno.EEXIST}


class Exposure(NamedTuple):
    """Who else has a right to a file. `mended`: by which command."""

    is_writable: bool
    message: str
    mended: str


def exposure(path: Path, *, is_secret: bool = True) -> Exposure | None:
    """Whether others may write the file, or, if it `is_secret`, read it. Raises OSError.

    Others are not its owner, root, and this process's user and groups: systemd gives credentials to root's group, and
    `chgrp edged` gives a key to the service.
    """
    status = path.stat()
    others = status.st_mode & stat.S_IRWXO
    group = (status.st_mode & stat.S_IRWXG) >> 3
    if status.st_gid not in {0, os.getegid()}:
        others |= group & os.W_OK
    if status.st_gid not in {0, os.getegid(), *os.getgroups()}:
        others |= group
    verb = "written" if others & os.W_OK else "read" if others & os.R_OK and is_secret else ""
    if not verb:
        return None
    rights = f"{stat.filemode(status.st_mode)} {_user(status.st_uid)}:{_group(status.st_gid)}"
    mended = _closing(path, status, is_secret=is_secret)
    return Exposure(verb == "written", f"{path} may be {verb} by others ({rights})", mended)


def _closing(path: Path, status: os.stat_result, *, is_secret: bool) -> str:
    """The command that takes the others' rights and leaves this process its own."""
    if not is_secret:
        return f"chmod go-w {_quoted(path)}"
    if status.st_uid == os.geteuid():
        return f"chmod 600 {_quoted(path)}"
    return f"chgrp {_group(os.getegid())} {_quoted(path)} && chmod 640 {_quoted(path)}"


def why_refused(path: Path, error: OSError, *, reads: bool = False) -> str:
    """Why the system refused what concerned `path`, or what is in it if the error names that. Never raises.

    `reads`: it is somebody else's, and only to be read; else it should belong to this process's user.
    """
    path = Path(error.filename) if isinstance(error.filename, str) else path
    try:
        return _why(path.absolute(), error, reads=reads)
    except OSError:  # it is being changed
        return error.strerror or str(error)


def why_refused_in(path: Path, error: OSError) -> str:
    """As `why_refused`, of a file that this process keeps in a folder of its own: the path, and what bars the way."""
    if not isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
        return f"{path}: {error}"
    barred = Path(error.filename or path)
    with contextlib.suppress(PermissionError):  # a folder above lets nobody see which it is, and is told of
        if path.is_dir() and not os.access(path, os.X_OK, effective_ids=True):
            barred = path
        elif barred != path and not barred.exists() and barred.parent.is_dir():
            barred = barred.parent  # a file that is to be made there
    reason = why_refused(barred, OSError(error.errno, error.strerror))
    return reason if reason.startswith(str(path)) else f"{path}: {reason}"


def why_dead(path: Path) -> str:
    """Which part of `path` is a link to where nothing is; "" when none is."""
    with contextlib.suppress(PermissionError):  # whoever meets that is told of it
        for link in reversed([path, *path.parents]):
            if link.is_symlink() and not link.exists():
                return f"{link} is a link to {link.parent / link.readlink()}, where nothing is: mount or make that"
    return ""


def why_unusable(folder: Path) -> str:
    """Make the folder if it is missing. Why this process cannot make files in it, or ""."""
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        require_writable(folder)
    except OSError as error:
        return why_refused(folder, error)
    return ""


def require_writable(folder: Path) -> None:
    """Raise PermissionError, naming the folder, when this process may not make files in it."""
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def user() -> str:
    """The name of this process's user, or its number."""
    return _user(os.geteuid())


def _why(path: Path, error: OSError, *, reads: bool) -> str:
    if dead := why_dead(path):
        return dead
    if error.errno in _NO_FOLDER and (file := _file_in_the_way(path)) is not None:
        return f"{file} is no folder" + ("" if reads else ": move it away")
    if error.errno in _NOT_ALLOWED and (reason := _barred(path, reads=reads)):
        return reason
    return error.strerror or str(error)


def _file_in_the_way(path: Path) -> Path | None:
    return next((each for each in reversed([path, *path.parents]) if each.exists() and not each.is_dir()), None)


def _barred(path: Path, *, reads: bool) -> str:
    """Whose what bars the way is, and what mends it; "" when it is not the rights of files."""
    for above in reversed(path.parents):
        if above.exists() and not os.access(above, os.X_OK, effective_ids=True):
            return f"{_described(above)}: {_as_service(above) or _opening(above)}"
    return _closed(path, reads=reads) if path.exists() else _missing(path)


def _opening(folder: Path) -> str:
    if folder == _ROOTS_HOME or folder.parent == _HOMES:
        return "nobody else should pass it; put what is to be read elsewhere, such as below /srv"
    return f"`chmod a+x {_quoted(folder)}` lets it through"


def _as_service(path: Path) -> str:
    """How a person acts as the service that owns the path, which would lose what was given away; "" for another."""
    owner = path.stat().st_uid
    if not 0 < owner < _FIRST_PERSON <= os.geteuid():
        return ""
    return f"run this by `sudo runuser -u {_user(owner)} -- …`"


def _beyond_root(path: Path) -> str:
    """What root does that is refused all the same; "" for anybody else."""
    if os.geteuid() != 0:
        return ""
    owner = _user(path.stat().st_uid)
    return f"root is nobody there, as in a network file system with root_squash; do it as {owner}, or on its server"


def _missing(path: Path) -> str:
    existing = next(each for each in path.parents if each.exists())
    if os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        return ""
    if by := _as_service(existing) or _beyond_root(existing):
        return f"{path} is not there, and {_described(existing)}: {by}"
    made = f"install -d -m 750 -o {user()} -g {_group(os.getegid())} {_quoted(path)}"
    return f"{path} is not there, and {_described(existing)}: `{made}` as root makes it"


def _closed(path: Path, *, reads: bool) -> str:
    is_own = path.stat().st_uid == os.geteuid()
    if by := _as_service(path) or (not is_own and _beyond_root(path)):
        return f"{_described(path)}: {by}"
    needed = os.R_OK | (0 if reads else os.W_OK) | (os.X_OK if path.is_dir() else 0)
    if is_own and os.access(path, needed, effective_ids=True):
        return ""
    if is_own:
        mended = f"`chmod u+rwX {_quoted(path)}` mends it"
    elif reads:
        own = _group(os.getegid())
        mended = f"`chgrp {own} {_quoted(path)} && chmod g+r {_quoted(path)}` as root lets {own} read it"
    else:
        recursive = "-R " if path.is_dir() else ""
        mended = f"`chown {recursive}{user()}: {_quoted(path)}` as root gives it to {user()}"
    return f"{_described(path)}: {mended}"


def _described(path: Path) -> str:
    status = path.stat()
    return f"{path} belongs to {_user(status.st_uid)} ({stat.filemode(status.st_mode)}), and this is {user()}"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
