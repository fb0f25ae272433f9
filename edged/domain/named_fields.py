"""Fields of a dataclass under their names in digests, files and records.

Such names are data: a field may be renamed in the code, its name in a table may not, or digests change and stored
files are refused. Each table is beside the code that writes it; `tests/test_pinned_names.py` pins the results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def to_named(record: Any, names: Sequence[str]) -> dict[str, Any]:
    """The values of a dataclass's fields; `names`: one for each field, in the fields' order."""
    return dict(zip(names, (getattr(record, each.name) for each in fields(record)), strict=True))


def from_named(kind: type[T], names: Sequence[str], values: Mapping[str, Any]) -> T:
    """The inverse of `to_named`."""
    return kind(*(values[name] for name in names))
