"""Temporary names of objects that are being written, and which of them an interrupted call has left."""

import itertools
import re
import secrets

from edged.domain.topology import NAME_PATTERN

_PROCESS = secrets.token_hex(4)
"""Tells this process's names from those of an earlier one of the same writer."""

_numbers = itertools.count()
_TEMPORARY = re.compile(r"\..+\.tmp-(?P<writer>.+)-(?P<process>[0-9a-f]{8})-\d+")

_OTHERS_S = 86_400.0
"""What another writer has not finished by then, nobody will finish."""


def check_writer(name: str) -> str:
    """The writer's name. Raises ValueError for what is none."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"not the name of a writer: {name!r:.100}")
    return name


def temporary_name(last: str, writer: str) -> str:
    """A new name for what becomes an object with this last part."""
    return f".{last}.tmp-{writer}-{_PROCESS}-{next(_numbers)}"


def is_temporary(name: str) -> bool:
    """Whether an object with that name is, or was, being written."""
    return _TEMPORARY.fullmatch(name) is not None


def is_left(name: str, writer: str, age_s: float) -> bool:
    """Whether it is of an earlier process of this writer, or of anybody else, a day ago."""
    match = _TEMPORARY.fullmatch(name)
    if match is None or match["process"] == _PROCESS:
        return False
    return match["writer"] == writer or age_s > _OTHERS_S
