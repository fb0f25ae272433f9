"""The text of a CSV file as loggers and spreadsheets write it: its encoding, its lines, its separator, its numbers.

Covers UTF-8, UTF-16 and Windows-1252, commas, semicolons, tabs and bars, decimal points and commas, U+2212 as a minus.
Lines are read one at a time; a quoted field ends on its own line. See also: `csv_table` (which of them are columns,
labels and samples).
"""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from operator import itemgetter
from pathlib import Path

from edged.files import open_regular

MAX_LINE = 1 << 16
"""Characters of a line; a longer one is no row."""

_CHUNK = 1 << 16
_SEPARATORS = ("\t", ";", "|", ",")
"""If several would do equally well, the first one: in a decimal comma's file the comma is no separator."""

MINUS = "\u2212"
"""As typesetters and statistics programs write it."""
_INTEGER = re.compile(r"[+-]?[0-9]+")
_POINT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_COMMA = re.compile(r"[+-]?([0-9]+,?[0-9]*|,[0-9]+)([eE][+-]?[0-9]+)?")
_PATTERNS = {".": _POINT, ",": _COMMA}
_THOUSANDS = re.compile(
    r"([+-]?[1-9][0-9]{0,2})(?=(?P<mark>[.,'\u2019 \xa0\u2009\u202f]))((?P=mark)[0-9]{3})+(?!(?P=mark))([.,][0-9]+)?"
)
"""1,000 and 1.000,5: with a mark between thousands, or as if."""
_BLANKS = " \t\xa0\x1a"
"""What may be around a field; DOS ends a file with 0x1a."""


def encoding(path: Path) -> str:
    """The encoding of the file, which is read once for it: by its byte order mark, else by what its bytes can be.

    Raises OSError.
    """
    with open_regular(path) as file:
        head = file.read(_CHUNK)
        if head.startswith(codecs.BOM_UTF8):
            return "utf-8-sig"
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        for name, zeros, others in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
            if zeros.count(0) * 2 > len(zeros) and others.count(0) * 10 < len(others):
                return name
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            chunk = head
            while chunk:
                decoder.decode(chunk)
                chunk = file.read(_CHUNK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


def lines(path: Path, encoded: str) -> Iterator[tuple[int, str | None]]:
    """Number and text of each line that is not blank; None for one longer than MAX_LINE, whatever is in it.

    Raises OSError, UnicodeDecodeError.
    """
    with TextIOWrapper(open_regular(path), encoded) as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            is_long = len(line) > MAX_LINE
            while line and not line.endswith("\n") and len(line) > MAX_LINE:
                line = file.readline(MAX_LINE + 1)
            if is_long:
                yield number, None
            elif line.strip(_BLANKS + '\n",;|'):
                yield number, line.rstrip("\n")


@dataclass(frozen=True, slots=True)
class Separator:
    """How lines are divided into fields. `num_fields`: what most of the lines have."""

    character: str
    num_fields: int

    def fields(self, line: str) -> list[str]:
        """The fields, without blanks around them. Raises csv.Error for a quote that is not closed."""
        if '"' in line:
            [fields] = csv.reader([line], delimiter=self.character, skipinitialspace=True, strict=True)
        else:
            fields = line.split(self.character)
        if len(fields) == self.num_fields + 1 and not fields[-1].strip(_BLANKS):
            fields.pop()  # many loggers end each line with a separator
        return [field.strip(_BLANKS) for field in fields]

    def may_have_marks(self, line: str) -> bool:
        """Whether a field of the line may have a point or comma in it."""
        return "." in line or (("," in line) if self.character != "," else ('"' in line))


def separator(sample: Sequence[str]) -> Separator:
    """The separator by which the most lines of `sample` are rows of as many numbers, with one text at most."""
    best = max((_tried(character, sample) for character in _SEPARATORS), key=itemgetter(0))[1]
    in_header = [character for character in _SEPARATORS if sample and character in sample[0]]
    if best.num_fields == 1 and in_header:  # one column, and its name has separators? rather several, and bad rows
        best = max((_tried(character, sample[:1]) for character in in_header), key=itemgetter(0))[1]
    return best


def _tried(character: str, sample: Sequence[str]) -> tuple[tuple[int, ...], Separator]:
    """The separator, and how well it does."""
    rows = [fields for line in sample if (fields := _fields(character, line))]
    counts = Counter(len(fields) for fields in rows)
    num_fields = max(counts, key=lambda count: (counts[count], count), default=1)
    of_table = [fields for fields in rows if len(fields) == num_fields]
    texts = [sum(not is_number(field) for field in fields) for fields in of_table]
    good = [each for each in texts if each <= 1 and each < num_fields]
    is_whole = bool(rows) and len(rows[0]) == num_fields
    score = (len(good), -sum(good), is_whole, len(of_table), num_fields)
    return score, Separator(character, num_fields)


def _fields(character: str, line: str) -> list[str]:
    try:
        fields = Separator(character, 0).fields(line)
    except csv.Error:
        return []
    return fields[:-1] if len(fields) > 1 and not fields[-1] else fields


def is_number(field: str) -> bool:
    """Whether a field is a number by some convention. Between commas, one with a comma must have been in quotes."""
    plain = _plain(field)
    return any(each.fullmatch(plain) for each in (_POINT, _COMMA, _THOUSANDS))


class AmbiguousNumber(ValueError):  # noqa: N818 - named for what is wrong with it
    """1,234 may be 1.234 or 1234."""


class ThousandsMark(ValueError):  # noqa: N818 - named for what is wrong with it
    """1.000,5 has a mark between thousands. `without`: the number without it; `or_else`: what else it may have."""

    def __init__(self, field: str, without: str, or_else: str) -> None:
        super().__init__(field)
        self.without = without
        self.or_else = or_else


class OtherMark(ValueError):  # noqa: N818 - named for what is wrong with it
    """1,5 where the file's decimal mark is a point, or 1.5 where it is a comma."""


def decimal_mark(fields: Iterable[str], separator_character: str) -> str:
    """The decimal mark of a file with these fields; empty: it cannot be told.

    It is that of the first number other than such as 1.234 and 1,234, whose mark may be between thousands. Where all
    are such, points are decimal, and so are commas between semicolons.
    """
    doubtful = set[str]()
    for field in fields:
        plain = _plain(field)
        marks = {mark for mark, pattern in _PATTERNS.items() if mark in plain and pattern.fullmatch(plain)}
        if marks and not _THOUSANDS.fullmatch(plain):
            return marks.pop()
        doubtful |= marks
    if doubtful == {","}:
        return "," if separator_character == ";" else ""
    return "" if doubtful == {".", ","} else "."


@dataclass(frozen=True, slots=True)
class Numbers:
    """Reads numbers by the file's decimal mark; empty: it cannot be told."""

    decimal: str

    def __call__(self, field: str) -> float:
        """The number. Raises ValueError when it is none, such as 1_000 or nan, and its kinds above."""
        if _INTEGER.fullmatch(field):
            return float(field)
        if self.decimal and _PATTERNS[self.decimal].fullmatch(field):
            return float(field.replace(",", "."))
        if MINUS in field:
            return self(_plain(field))
        is_other = any(each.fullmatch(field) for each in _PATTERNS.values())
        if is_other and not self.decimal:
            raise AmbiguousNumber(field)
        if match := _THOUSANDS.fullmatch(field):
            or_else = ", or another decimal mark than the file's" if is_other else ""
            raise ThousandsMark(field, field.replace(match["mark"], ""), or_else)
        raise OtherMark(field) if is_other else ValueError(field)


def _plain(field: str) -> str:
    return field.replace(MINUS, "-")
