"""What of the archive is given to other programs, and under which names.

A name that becomes a path is checked: labels are anybody's texts. Sources are names, and stay so.
"""

from typing import NamedTuple

from edged.domain.archive.snapshot import TEST_SOURCE

_MAX_BYTES = 255
"""Of one part of a path, on Linux."""


class Exported(NamedTuple):
    """One sample on its way out. `split`: "train" or "test"; `name`: of its file, without a suffix."""

    split: str
    name: str
    label: str | None
    codec: str
    payload: bytes


def split_of(source: str) -> str:
    """The split of what lies in the source: imported test sets are apart, all else is for training."""
    return "test" if source.startswith(TEST_SOURCE) else "train"


def name_of(source: str, offset: int, row: int) -> str:
    """The name of a sample's file: its address, which no other sample has, without a dot, at which others cut names."""
    return f"{source.replace('.', '+')}-{offset:012d}-{row:03d}"


def is_folder_name(label: str) -> bool:
    """Whether a folder may be called as the label: on Linux, and without leading anybody astray."""
    return (
        label not in {"", ".", ".."}
        and "/" not in label
        and "\\" not in label
        and label[0] not in ".-"
        and label.isprintable()
        and len(label.encode()) <= _MAX_BYTES
    )
