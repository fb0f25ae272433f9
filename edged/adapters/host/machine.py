"""This machine as a place for nodes: what is there of their units, folders and drop-ins, and changes to it.

It decides nothing. Of systemd it asks by `systemctl` alone. See also: `domain.systemd`.
"""

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from edged.access import why_refused
from edged.domain.systemd.actions import Action, MakeFolder, RemoveFile, RemoveFolder, WriteFile
from edged.domain.systemd.enabling import Seen, UnitState, wanted_by
from edged.domain.systemd.setup import CREDENTIALS, DROP_IN, UNITS, USER, Folder, Setup, drop_in_of, possible_units
from edged.errors import MachineUnfit
from edged.files import open_regular, read_regular, sync_folder

_BOOTED = "/run/systemd/system"
"""Is there where systemd is PID 1 (sd_booted(3))."""

_ACCESS_LIST = "system.posix_acl_access"
"""The attribute of a file that has one (acl(5))."""

_TEMPORARY = f".{DROP_IN}.tmp"
_ASKED = ("LoadState", "ActiveState", "NeedDaemonReload", "FragmentPath", "ExecStart")
_PROGRAM = re.compile(r"{ path=(\S+) ;")
"""How `systemctl show` begins a command."""

_EMPTY = {b"", b"\n", b"\r\n"}
_MAX_BYTES = 1 << 20
"""Of a file that is looked at: all are of a few lines."""


def accounts(name: str) -> tuple[int, int]:
    """The numbers of the user and the group of this name. Raises KeyError."""
    return pwd.getpwnam(name).pw_uid, grp.getgrnam(name).gr_gid


class Machine:
    """`root`: the folder that all paths are below. Raises MachineUnfit where something is missing, or refused."""

    def __init__(self, root: Path = Path("/"), accounts: Callable[[str], tuple[int, int]] = accounts) -> None:
        self._root = root
        self._accounts = accounts

    def require_systemd(self) -> None:
        """Raise MachineUnfit where systemd does not run the machine."""
        if not self.path(_BOOTED).is_dir() or shutil.which("systemctl") is None:
            raise MachineUnfit(
                "this machine is not run by systemd, which starts the units: have its own service manager start"
                " `edged run` and `edged infer`"
            )

    def environment(self, node: str) -> dict[str, str]:
        """The variables that the node's daemon is given by its unit, with all its drop-ins."""
        shown = _systemctl("show", "--property=Environment", "--value", possible_units(node)[0])
        try:
            return {name: value for word in shlex.split(shown) for name, _, value in [word.partition("=")]}
        except ValueError:  # not as a shell would quote it
            return {}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off others who would change the machine at once: they wait until this one is done, or killed."""
        with _reported(UNITS):
            folder = os.open(self.path(UNITS), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def lacks(self, setup: Setup) -> Iterator[str]:
        """What has to be there before the node can be enabled, and is not."""
        states = self._states(setup.units)
        for unit in setup.units:
            if masked := states[unit].masked_by:
                yield self._why_masked(unit, masked)
            elif not states[unit].is_installed:
                template = f"{unit.partition('@')[0]}@.service"
                yield f"there is no unit {template}: install the package of edged again, or the file by hand"
            elif program := states[unit].program:
                yield from self._lacks_program(unit, program)
        try:
            self._accounts(USER)
        except KeyError:
            yield f'there is no user and group "{USER}": `systemd-sysusers` makes them, once edged.conf is in place'
        if setup.archive:
            with _reported():
                lacks = list(self._lacks_folder(setup.archive))
            yield from lacks

    def closed_to_node(self, files: Iterable[str], right: int = os.R_OK) -> Iterator[str]:
        """The files to which the node's user has not this right, though root has, each with the command that mends it.

        One with an access list is taken to be open to it.
        """
        try:
            own = self._accounts(USER)
        except KeyError:  # which is among what it lacks
            return
        for file in files:
            for each in (*reversed(Path(file).parents), Path(file)):
                there, needed = self.path(str(each)), os.X_OK if each != Path(file) else right
                with _reported():
                    is_closed = there.exists() and not _is_open(there, own, needed)
                if is_closed:
                    mended = f"chmod a+x {each}" if needed == os.X_OK else f"chgrp {USER} {each} && chmod g+r {each}"
                    yield f"the node's user {USER} may not read {file}: `{mended}` lets it"
                    break

    def seen(self, node: str, setup: Setup | None = None) -> Seen:
        """What is there of the node; of its folders and secrets too, when its `setup` is given."""
        units = possible_units(node)
        listed = [CREDENTIALS, f"{CREDENTIALS}/{node}", *(f"{UNITS}/{unit}.d" for unit in units)]
        if setup is not None and setup.archive:
            listed.append(setup.archive)
        folders = [] if setup is None else setup.folders
        with _reported():
            return Seen(
                units=self._states(units),
                folders={folder.path: there for folder in folders if (there := self._folder(folder))},
                files=self._texts(map(drop_in_of, units)),
                entries={path: names for path in listed if (names := self._entries(path)) is not None},
                secrets=frozenset(path for path in (setup.secrets.values() if setup else ()) if self._is_full(path)),
            )

    def drop_ins(self) -> dict[str, str]:
        """The drop-ins of all nodes of this machine that may be read: their texts, by their units."""
        texts: dict[str, str] = {}
        for file in sorted(self.path(UNITS).glob(f"edged*@*.service.d/{DROP_IN}")):
            with contextlib.suppress(OSError):
                texts[file.parent.name.removesuffix(".d")] = _text(file)
        return texts

    def carry_out(self, action: Action) -> None:
        """Do it, durably."""
        match action:
            case MakeFolder(folder):
                with _reported(folder.path):
                    self._make_folder(folder)
            case WriteFile(path, content):
                with _reported(path):
                    self._write(self.path(path), content)
            case RemoveFile(path):
                with _reported(path):
                    self.path(path).unlink(missing_ok=True)
                    sync_folder(self.path(path).parent)
            case RemoveFolder(path):
                with _reported(path):
                    (self.path(path) / _TEMPORARY).unlink(missing_ok=True)
                    self.path(path).rmdir()
            case _:
                _systemctl(*action.words)
                if action.words[0] in {"enable", "disable"}:  # systemctl does not wait for the disk
                    with _reported(UNITS), contextlib.suppress(FileNotFoundError):
                        sync_folder(self.path(wanted_by("")))

    def path(self, path: str) -> Path:
        """The path below the root."""
        return self._root / path.lstrip("/")

    # looking

    def _states(self, units: Iterable[str]) -> dict[str, UnitState]:
        return {unit: self._state(unit) for unit in units}

    def _state(self, unit: str) -> UnitState:
        shown = _systemctl("show", f"--property={','.join(_ASKED)}", unit)
        told = dict(line.partition("=")[::2] for line in shown.splitlines())
        return UnitState(
            active=told.get("ActiveState", "inactive"),
            is_enabled=os.path.lexists(self.path(wanted_by(unit))),
            is_installed=told.get("LoadState") != "not-found",
            masked_by=told.get("FragmentPath", "") if told.get("LoadState") == "masked" else "",
            is_stale=told.get("NeedDaemonReload") == "yes",
            program=found[1] if (found := _PROGRAM.match(told.get("ExecStart", ""))) else "",
        )

    def _folder(self, wanted: Folder) -> Folder | None:
        try:
            status = self.path(wanted.path).stat()
        except FileNotFoundError:
            return None
        owners = (status.st_uid, status.st_gid)
        owner = wanted.owner if owners == self._ids(wanted.owner) else ":".join(map(str, owners))
        return wanted._replace(mode=stat.S_IMODE(status.st_mode), owner=owner)

    def _ids(self, name: str) -> tuple[int, int] | None:
        try:
            return self._accounts(name)
        except KeyError:
            return None

    def _texts(self, paths: Iterable[str]) -> dict[str, str]:
        texts: dict[str, str] = {}
        for path in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                texts[path] = _text(self.path(path))
        return texts

    def _entries(self, path: str) -> frozenset[str] | None:
        """The names in a folder; None where there is none, or root is nobody, as in a network's archive it may be."""
        try:
            return frozenset(each.name for each in self.path(path).iterdir()) - {_TEMPORARY}
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None

    def _is_full(self, path: str) -> bool:
        """Whether a credential is more than the end of a line."""
        try:
            with open_regular(self.path(path)) as file:
                return file.read(3) not in _EMPTY
        except OSError:  # whatever is there is no credential
            return False

    def _why_masked(self, unit: str, by: str) -> str:
        """For systemd a file without content, as a power cut leaves one, is a mask, which `unmask` leaves alone."""
        if not self.path(by).is_symlink():
            return f"{by} is empty: install the package of edged again, or the file by hand"
        runtime = "--runtime " if by.startswith("/run/") else ""
        return f"{unit} is masked: `systemctl unmask {runtime}{PurePosixPath(by).name}` lets it be started"

    def _lacks_program(self, unit: str, program: str) -> Iterator[str]:
        """Of an installation that is gone while its units stayed, or that a umask keeps from everybody but root."""
        with _reported():
            if not self.path(program).exists():
                other = f"remove the file of another installation that has it (`systemctl cat {unit}`)"
                yield f"{unit} runs {program}, which is not there: {other}, or install that again"
            elif any(True for _ in self.closed_to_node([program], os.X_OK)):
                mended = f"chmod -R a+rX {shlex.quote(str(PurePosixPath(program).parents[1]))}"
                yield f"the node's user {USER} may not run {program}: `{mended}` lets it"

    def _lacks_folder(self, folder: str) -> Iterator[str]:
        above = folder.rpartition("/")[0] or "/"
        if point := self._unmounted(folder):
            yield f"{point}, which the archive's folder {folder} lies in, is not mounted: `mount {point}`"
        elif not self.path(folder).is_dir() and not self.path(above).is_dir():
            yield f"{above}, which the archive's folder {folder} lies in, is not there: mount or make it"

    def _unmounted(self, folder: str) -> str:
        """The mount point of /etc/fstab that the folder lies in, if nothing is mounted there; else ""."""
        points = {point for point in self._fields("/etc/fstab", 1) if f"{folder}/".startswith(f"{point.rstrip('/')}/")}
        mounted = self._fields("/proc/self/mountinfo", 4)
        return max(points - mounted - {"/"}, key=len, default="") if mounted else ""

    def _fields(self, path: str, number: int) -> set[str]:
        """That field of every line, with the escapes of fstab(5) and proc(5) undone."""
        text = self._texts([path]).get(path, "")
        lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
        return {
            re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line[number]) for line in lines if line[number:]
        }

    # changing

    def _make_folder(self, folder: Folder) -> None:
        """A new one gets its name once it is whole: after a kill nobody would mend a data folder that is there."""
        path = self.path(folder.path)
        if path.is_dir():
            self._give(path, folder)
            return
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        if not folder.is_data:
            path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.tmp")
        with contextlib.suppress(FileNotFoundError):
            made.rmdir()
        try:
            made.mkdir(mode=stat.S_IRWXU)
            self._give(made, folder)
            made.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                made.rmdir()
            raise OSError(error.errno, error.strerror, str(path)) from error
        sync_folder(path.parent)

    def _give(self, path: Path, folder: Folder) -> None:
        owner = folder.owner
        try:
            os.chown(path, *self._accounts(owner))
        except PermissionError as error:
            mended = f"mount it with uid={owner},gid={owner}, or make the folder on the server of a network's"
            raise PermissionError(error.errno, f"its file system lets nobody give it to {owner}: {mended}") from error
        path.chmod(folder.mode)

    @staticmethod
    def _write(path: Path, content: str) -> None:
        """1. Write a temporary file, 2. fsync, 3. rename, 4. fsync the folder. systemd reads no hidden file."""
        path.parent.mkdir(exist_ok=True)
        path.parent.chmod(0o755)
        temporary = path.with_name(_TEMPORARY)
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(os.fsencode(content))  # a path's bytes, whatever the locale says
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)


def _is_open(path: Path, accounts: tuple[int, int], needed: int) -> bool:
    """Whether the user and group of these numbers have this right to it."""
    status = path.stat()
    user, group = accounts
    shift = 6 if status.st_uid == user else 3 if status.st_gid == group else 0
    return bool(status.st_mode >> shift & needed) or _ACCESS_LIST in os.listxattr(path)


def _text(file: Path) -> str:
    """What a file says, with paths as Python has them. Raises OSError, also of what is no file."""
    return os.fsdecode(read_regular(file, _MAX_BYTES))


@contextlib.contextmanager
def _reported(what: str = "") -> Iterator[None]:
    """Turn an OSError into MachineUnfit: about `what`, or the path that the error has."""
    try:
        yield
    except OSError as error:
        what = what or str(error.filename or UNITS)
        reason = why_refused(Path(what), error)
        hint = ": mount it writable (`mount -o remount,rw /`)" if error.errno == errno.EROFS else ""
        raise MachineUnfit(f"{what}: {reason}{hint}") from error


def _systemctl(*words: str) -> str:
    """Run it to its end, and return what it prints."""
    plain = {**os.environ, "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False, env=plain)  # noqa: S603, S607 - the service manager's own command
    if done.returncode != 0:
        raise MachineUnfit(f"`systemctl {' '.join(words)}`: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
