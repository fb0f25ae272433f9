"""Whether the first line of a CSV file names its columns, and which column holds labels.

Looks at the first lines alone, and at the labels of the stream. See also: `csv_text` (what is a number).
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

from edged.adapters.datasets.csv_text import MINUS, is_number
from edged.domain.suggest import nearest
from edged.domain.text import normal_form

LABEL = "label"
"""The name of the column that holds labels."""

Fields = Sequence[str]


def is_header(names: Fields, rows: Sequence[Fields], labels: Collection[str]) -> bool | None:
    """Whether `names` are those of the columns of `rows`, rather than a row; None: it cannot be told."""
    texts = [at for at, name in enumerate(names) if not is_number(name)]
    if len(texts) == len(names) or any(map(_is_label, names)):
        return True
    if any(fields[at] == names[at] for fields in rows for at in texts):
        return False  # a label of the first line is a later line's, too
    if (
        len(texts) == 1
        and (told := _told_by_labels(names[texts[0]], [row[texts[0]] for row in rows], labels)) is not None
    ):
        return told
    if any(name.startswith(("-", MINUS)) for name in names) or (not texts and not _rise(names)):
        return False  # numbers, but not such as channels are named by
    return None


def columns(names: Fields, rows: Sequence[Fields], labels: Collection[str]) -> list[str]:
    """The columns' names below a header. The one that holds labels is called LABEL, whatever its name is."""
    named = [LABEL if _is_label(name) else name for name in names]
    known = [] if LABEL in named else [at for at in range(len(names)) if _are_labels([row[at] for row in rows], labels)]
    return [LABEL if known == [at] else column for at, column in enumerate(named)]


def columns_without_header(rows: Sequence[Fields]) -> list[str]:
    """The columns' names where no line has any: LABEL for the one that holds texts, none for the others."""
    texts = [at for at in range(len(rows[0])) if not any(is_number(fields[at]) for fields in rows)]
    return [LABEL if texts == [at] else "" for at in range(len(rows[0]))]


def _told_by_labels(first: str, others: Fields, labels: Collection[str]) -> bool | None:
    """Whether the first field of a column is its name; None: the stream's labels do not tell it."""
    if normal_form(first) in labels:
        return False
    is_any = any(normal_form(other) in labels for other in others)
    return True if is_any and not nearest(first, labels) else None  # it may be a label, and mistyped


def _are_labels(fields: Fields, labels: Collection[str]) -> bool:
    """Whether they are labels of the stream, and none of them is a number."""
    return bool(fields) and all(normal_form(each) in labels and not is_number(each) for each in fields)


def _is_label(name: str) -> bool:
    return normal_form(name).lower() == LABEL


def _rise(names: Fields) -> bool:
    """Whether the names are numbers such as those of a spectrometer's channels: each more than the one before."""
    try:
        numbers = [float(name.replace(",", ".")) for name in names]
    except ValueError:  # with marks between thousands
        return False
    return len(numbers) > 1 and all(a < b for a, b in pairwise(numbers))
