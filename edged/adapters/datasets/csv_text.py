"""The text of a CSV file as loggers and spreadsheets write it: its encoding, its lines, its separator, its numbers.

Covers UTF-8, UTF-16 and Windows-1252, commas, semicolons, tabs and bars, decimal points and commas. Lines are read one
at a time; a quoted field ends on its own line. See also: `csv_table` (which of them are columns, labels and samples).
"""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
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

_INTEGER = re.compile(r"[+-]?[0-9]+")
_POINT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_COMMA = re.compile(r"[+-]?([0-9]+,?[0-9]*|,[0-9]+)([eE][+-]?[0-9]+)?")
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+")
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
    texts = [sum(not is_number(field, character) for field in fields) for fields in of_table]
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


def is_number(field: str, character: str) -> bool:
    """Whether a field between such separators may be a number."""
    return _POINT.fullmatch(field) is not None or (character != "," and _COMMA.fullmatch(field) is not None)


class AmbiguousNumber(ValueError):  # noqa: N818 - named for what is wrong with it
    """1,234 may be 1.234 or 1234."""


class Numbers:
    """Reads numbers by one decimal mark: the one of the first number that has any."""

    def __init__(self, character: str) -> None:
        self._character = character
        self._decimal = "." if character == "," else ""

    def __call__(self, field: str) -> float:
        """The number. Raises ValueError when it is none, such as 1_000, nan or 1.234,5; AmbiguousNumber."""
        if _INTEGER.fullmatch(field):
            return float(field)
        if not self._decimal:
            self._decimal = self._mark(field)
        pattern = _COMMA if self._decimal == "," else _POINT
        if not pattern.fullmatch(field):
            raise ValueError(field)
        return float(field.replace(",", "."))

    def _mark(self, field: str) -> str:
        """The decimal mark in `field`, the first that has one; empty: it has none, or is no number."""
        if _POINT.fullmatch(field):
            return "." if "." in field else ""
        if not _COMMA.fullmatch(field) or "," not in field:
            return ""
        if self._character != ";" and _GROUPED.fullmatch(field):
            raise AmbiguousNumber(field)
        return ","
