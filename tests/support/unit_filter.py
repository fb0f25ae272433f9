"""A process under a unit's own system call filter, where no systemd runs: `python -m tests.support.unit_filter UNIT …`.

Applies `SystemCallFilter=` of the unit file UNIT to itself, as systemd would, and becomes `python …`. The sets are
those of this machine's systemd; the library is the one that it uses itself.
"""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_LIBRARY = "libseccomp.so.2"
_REFUSE = 0x00050000 | errno.EPERM  # SCMP_ACT_ERRNO: the units have SystemCallErrorNumber=EPERM
_ALLOW = 0x7FFF0000
_UNKNOWN = -1


def is_available() -> bool:
    """Whether a filter can be applied here."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True


def allowed(unit: Path) -> frozenset[str]:
    """The system calls that the unit allows: its lines one after the other, the first of which allows."""
    calls: set[str] = set()
    for line in unit.read_text().splitlines():
        if line.startswith("SystemCallFilter="):
            words = line.partition("=")[2]
            named = {call for word in words.lstrip("~").split() for call in _expanded(word)}
            calls = calls - named if words.startswith("~") else calls | named
    return frozenset(calls)


def apply(unit: Path) -> None:
    """Refuse from now on, in this process and its children, what the unit does not allow."""
    library = ctypes.CDLL(_LIBRARY, use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    filter_ = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_REFUSE)))
    for call in sorted(allowed(unit)):
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number != _UNKNOWN:  # not of this machine's kind
            library.seccomp_rule_add(filter_, ctypes.c_uint32(_ALLOW), ctypes.c_int(number), ctypes.c_uint(0))
    if (result := library.seccomp_load(filter_)) != 0:
        raise OSError(-result, os.strerror(-result))


def _expanded(word: str) -> frozenset[str]:
    if not word.startswith("@"):
        return frozenset({word})
    shown = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True)
    members = [line.strip() for line in shown.stdout.splitlines()[1:]]
    return frozenset(call for each in members if each and not each.startswith("#") for call in _expanded(each))


def _run(unit: str, arguments: Sequence[str]) -> None:
    apply(Path(unit))
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - the filter stays with the process


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2:])
