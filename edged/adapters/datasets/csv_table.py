"""CSV files of measurements as a data set: one sample per row, float32.

Covers files that fit into memory as float32. The first line names the columns; "label" holds labels, all others hold
numbers.
"""

import csv
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edged.adapters.datasets.image_folder import ALL
from edged.domain.topology import Dtype
from edged.errors import FormatError, StorageError
from edged.ports import Item

LABEL = "label"
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class CsvTable:
    """`values` float32 [n, columns], and each row's index into `labels` (empty: without labels)."""

    name: str
    labels: tuple[str, ...]
    values: npt.NDArray[np.float32]
    index_of_label: npt.NDArray[np.int32]
    splits: tuple[str, ...] = (ALL,)
    dtype: Dtype = "float32"

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
        label = self.labels[self.index_of_label[index]] if self.labels else None
        return Item(label, "raw", self.values[index].astype("<f4").tobytes())


def open_csv_table(path: Path) -> CsvTable:
    """Read `path` whole. Raises FormatError with the number of the faulty line, StorageError when it cannot be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{path}: more than {_MAX_BYTES} bytes")
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(path, csv.reader(file, strict=True))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path}: {error}") from error


def _read(path: Path, rows: Iterator[list[str]]) -> CsvTable:
    columns = next(rows, [])
    num_values = len(columns) - (LABEL in columns)
    if num_values < 1 or columns.count(LABEL) > 1:
        raise FormatError(f"{path}: the first line names the columns: numbers, and at most one called {LABEL!r}")
    label_column = columns.index(LABEL) if LABEL in columns else None
    values, texts = array("f"), list[str]()
    for line, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise FormatError(f"{path}:{line}: {len(row)} fields, not {len(columns)}")
        if label_column is not None:
            texts.append(row.pop(label_column))
        values.extend(_numbers(path, line, row))
    labels = tuple(sorted(set(texts)))
    index = {label: i for i, label in enumerate(labels)}
    table = np.frombuffer(values, np.float32).reshape(-1, num_values)
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        raise FormatError(f"{path}:{int(finite.argmin()) + 2}: a number that is not finite in float32")
    return CsvTable(path.stem, labels, table, np.array([index[text] for text in texts], np.int32))


def _numbers(path: Path, line: int, fields: list[str]) -> list[float]:
    try:
        return [float(field) for field in fields]
    except ValueError as error:
        raise FormatError(f"{path}:{line}: {error}") from error
