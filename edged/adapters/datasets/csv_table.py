"""CSV files of measurements as a data set: one sample per row, float32.

Covers files that fit into memory as float32. A column "label" holds labels, all others hold numbers; what is no such
row is left out and counted. See also: `csv_text` (encoding, separators, numbers),
`csv_header` (which line and column is what).
"""

import csv
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edged.adapters.datasets import csv_header, csv_text
from edged.adapters.datasets.csv_header import LABEL
from edged.adapters.datasets.csv_text import AmbiguousNumber, Numbers, OtherMark, ThousandsMark
from edged.adapters.datasets.layout import ALL
from edged.domain.counted import counted
from edged.domain.text import normal_form, shown
from edged.domain.topology import Dtype
from edged.errors import FormatError, StorageError
from edged.ports import Item, LeftOut, Omissions

_MAX_BYTES = 1 << 30
_NO_TABLE = "no table: a line that names the columns, and rows of numbers below it, are expected"
_SAMPLE_LINES = 200
"""Lines by which separator and header are told."""
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class CsvTable:
    """`values` float32 [n, columns], and each row's index into `labels` (empty: without labels) and line."""

    name: str
    labels: tuple[str, ...]
    values: npt.NDArray[np.float32]
    index_of_label: npt.NDArray[np.int32]
    line_of_row: npt.NDArray[np.int64]
    left_out: tuple[LeftOut, ...] = ()
    splits: tuple[str, ...] = (ALL,)
    dtype: Dtype = "float32"
    label_place: str = f'the column "{LABEL}"'

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[1:]

    def count(self, split: str) -> int:
        if split not in self.splits:
            raise KeyError(split)
        return len(self.values)

    def sample(self, split: str, index: int) -> Item:
        if not 0 <= index < self.count(split):
            raise IndexError(index)
        return Item(self.label(split, index), "raw", self.values[index].astype("<f4").tobytes())

    def label(self, split: str, index: int) -> str | None:  # noqa: ARG002 - there is one split
        return self.labels[self.index_of_label[index]] if self.labels else None

    def item_name(self, split: str, index: int) -> str:  # noqa: ARG002 - there is one split
        return _line(int(self.line_of_row[index]))


def open_csv_table(path: Path, *, header: bool | None = None, labels: Sequence[str] = ()) -> CsvTable:
    """Read `path` whole. `header`: whether its first line names the columns; None: what the lines tell.

    `labels`: the stream's, which tell their column, and a label from its name.

    Raises FormatError when it is no such table, or when that cannot be told; StorageError when it cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{path}: more than {_MAX_BYTES} bytes")
        return _Reader(path, csv_text.encoding(path), header, frozenset(labels)).read()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: neither UTF-8, UTF-16 nor Windows-1252 text ({error})") from error


class _NoRow(Exception):  # noqa: N818 - named for what it says
    """A line is no row. `reason`: a word of `ports.datasets.REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


Line = tuple[int, str | None]


class _Reader:
    """Reads one file."""

    def __init__(self, path: Path, encoding: str, header: bool | None, labels: frozenset[str]) -> None:  # noqa: FBT001 - an option
        self._path = path
        self._encoding = encoding
        self._header = header
        self._labels = labels
        self._header_line = 0
        self._omissions = Omissions()
        self._bad_columns = Counter[int]()

    def read(self) -> CsvTable:
        lines = csv_text.lines(self._path, self._encoding)
        first = list(islice(lines, _SAMPLE_LINES))
        if first and (first[0][1] or "").lower().startswith("sep="):
            first.pop(0)  # Excel's own
        self._separator = csv_text.separator([text for _, text in first if text is not None])
        below = self._without_header(first)
        self._read_number = Numbers(csv_text.decimal_mark(self._number_fields(), self._separator.character))
        return self._table(chain(below, lines))

    def _number_fields(self) -> Iterator[str]:
        """The fields of the columns of numbers below the header, read for themselves."""
        for number, text in csv_text.lines(self._path, self._encoding):
            if number <= self._header_line or text is None or not self._separator.may_have_marks(text):
                continue
            fields = self._fields_or_none((number, text))
            if len(fields) == len(self._columns):
                yield from (field for column, field in zip(self._columns, fields, strict=True) if column != LABEL)

    def _without_header(self, first: list[Line]) -> list[Line]:
        """The lines below the header, which becomes `_columns`. Without a header only the label's column has a name."""
        num_fields = self._separator.num_fields
        tabular = [
            (at, fields) for at, line in enumerate(first) if len(fields := self._fields_or_none(line)) == num_fields
        ]
        if not tabular:
            raise FormatError(f"{self._path}: {_NO_TABLE}")
        (at, names), rows = tabular[0], [fields for _, fields in tabular[1:]]
        is_header = csv_header.is_header(names, rows, self._labels) if self._header is None else self._header
        if is_header is None:
            raise FormatError(
                f"{self._path}: it cannot be told whether the first line names the columns "
                f"({shown(', '.join(names)):.60}): say so with --header yes or --header no"
            )
        if not is_header:
            self._columns = csv_header.columns_without_header([names, *rows])
            return first
        for number, _ in first[:at]:
            self._omissions.add("above_header", _line(number))
        self._columns = csv_header.columns(names, rows, self._labels)
        self._header_line = first[at][0]
        return first[at + 1 :]

    def _table(self, lines: Iterable[Line]) -> CsvTable:
        num_values = len(self._columns) - self._columns.count(LABEL)
        if num_values < 1 or len(self._columns) - num_values > 1:
            raise FormatError(f"{self._path}: the columns are numbers, and at most one is called {LABEL!r}")
        values, labels, line_of_row = array("f"), list[str](), array("q")
        for line in lines:
            try:
                numbers, label = self._row(line)
            except _NoRow as no_row:
                self._omissions.add(no_row.reason, _line(line[0]) + no_row.detail)
                continue
            values.extend(numbers)
            labels.extend(label)
            line_of_row.append(line[0])
        self._require_rows(len(line_of_row))
        known = tuple(sorted(set(labels)))
        index = {label: i for i, label in enumerate(known)}
        return CsvTable(
            self._path.stem,
            known,
            np.frombuffer(values, np.float32).reshape(-1, num_values),
            np.array([index[label] for label in labels], np.int32),
            np.frombuffer(line_of_row, np.int64),
            self._omissions.listed(),
        )

    def _row(self, line: Line) -> tuple[list[float], list[str]]:
        """The numbers, and the label if there is a column of them. Raises _NoRow."""
        fields = self._fields(line[1])
        if len(fields) != len(self._columns):
            raise _NoRow("num_fields", f": {len(fields)} instead of {len(self._columns)}")
        numbers, labels = list[float](), list[str]()
        for at, (column, field) in enumerate(zip(self._columns, fields, strict=True)):
            if column == LABEL:
                labels.append(normal_form(field))
            else:
                numbers.append(self._number(at, field, line[0]))
        if labels == [""]:
            raise _NoRow("no_label")
        if not all(abs(number) <= _MAX_FLOAT32 for number in numbers):
            raise _NoRow("not_finite")
        return numbers, labels

    def _number(self, at: int, field: str, number: int) -> float:
        try:
            return self._read_number(field)
        except AmbiguousNumber as error:
            raise FormatError(
                f"{self._path}:{number}: {field} may be {field.replace(',', '.', 1)} or {field.replace(',', '')}: "
                "write numbers with decimal points, and without commas"
            ) from error
        except ThousandsMark as error:
            raise FormatError(
                f'{self._path}:{number}: "{shown(field)}" has a mark between thousands{error.or_else}: '
                f"write numbers without it, such as {error.without}"
            ) from error
        except OtherMark as error:
            raise _NoRow("not_a_number", f"{self._said(at, field)}, with another decimal mark") from error
        except ValueError as error:
            self._bad_columns[at] += any(each.isalpha() for each in field)
            raise _NoRow("not_a_number", self._said(at, field)) from error

    def _said(self, at: int, field: str) -> str:
        return f': {shown(self._columns[at] or f"field {at + 1}")} is "{shown(field):.40}"'

    def _fields(self, text: str | None) -> list[str]:
        if text is None:
            raise _NoRow("too_long")
        if "\0" in text:
            raise _NoRow("nul_bytes")
        try:
            return self._separator.fields(text)
        except csv.Error as error:
            raise _NoRow("bad_quotes") from error

    def _fields_or_none(self, line: Line) -> list[str]:
        try:
            return self._fields(line[1])
        except _NoRow:
            return []

    def _require_rows(self, num_rows: int) -> None:
        """Raise FormatError when more lines were left out than taken: the file is not what it was taken for."""
        if num_rows and len(self._omissions) <= num_rows:
            return
        why = "".join(f"\n  left out: {each}" for each in self._omissions.listed())
        if not num_rows and not why:
            raise FormatError(f"{self._path}: {_NO_TABLE}")
        [(at, count)] = self._bad_columns.most_common(1) or [(0, 0)]
        if count > max(num_rows, 1) and self._columns[at]:
            name = shown(self._columns[at])
            why += f'\n  "{name}" holds no numbers: call the column "{LABEL}" if it holds labels, else take it out'
        raise FormatError(f"{self._path}: {counted(num_rows, 'row')}{why}")


def _line(number: int) -> str:
    return f"line {number}"
