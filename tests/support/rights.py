"""The rights of another user, for a while: what root's tests would never be refused."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.requirements import require

NOBODY = 65534


@contextlib.contextmanager
def passable_folder() -> Iterator[Path]:
    """A folder of root's that every user may pass and list, unlike pytest's."""
    if os.geteuid() != 0:
        require("root, who can be another user for a while")
    with tempfile.TemporaryDirectory(prefix="edged-rights-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Inside, this process is the user nobody, in no group but nogroup. What it imports must be imported before."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
