"""Names of the archive's objects: folders and a last part, "/" between them, that are the same on every store."""

import re

MAX_BYTES = 800
"""An object store takes 1,024, with the folder that the archive is in."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,149}"
"""Not hidden, no "..": it cannot lead out of the archive. A file has 255 bytes; what is left is for temporary names."""

_NAME = re.compile(rf"{_PART}(/{_PART})*")


def check(name: str) -> str:
    """The name. Raises ValueError for what is none: a name that others chose is checked by its own rule before."""
    if not _NAME.fullmatch(name) or len(name) > MAX_BYTES:
        raise ValueError(f"not the name of an object of the archive: {name!r:.100}")
    return name


def parts(name: str) -> tuple[str, str]:
    """The folder, "" for the archive's own, and the last part."""
    folder, _, last = check(name).rpartition("/")
    return folder, last
