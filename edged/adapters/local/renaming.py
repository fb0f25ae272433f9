"""Giving a finished file its name, never over what is there: two writers may do so at the same time."""

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def give_name(temporary: Path, name: Path) -> bool:
    """Give the file another name, at once and as a whole; False when that is taken. It may keep the first name, too.

    Raises OSError. By a hard link, which every network file system refuses to make over another file; where there are
    none, as on FAT, by a rename that the kernel lets replace nothing.
    """
    try:
        os.link(temporary, name, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename(temporary, name)
    return True


def _rename(temporary: Path, name: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(name), _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    if number == errno.EINVAL:
        number = errno.ENOTSUP
    raise OSError(number, f"{os.strerror(number)}: neither hard links nor renames that replace nothing", str(name))
