"""A snapshot's columns, from what counts of each source."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edged.adapters.parquet.chain import Chain, Source
from edged.domain.archive.segment_index import IndexedFile, SegmentIndex
from edged.domain.archive.snapshot import Snapshot
from edged.domain.archive.source_log import Origin, named
from edged.errors import StorageError

Ints = npt.NDArray[np.int64]


class OfSource(NamedTuple):
    """Blocks of a source, and which logs they are from."""

    offset: Ints
    rows: Ints
    num_bytes: Ints
    origins: tuple[Origin, ...]


class Columns:
    """A snapshot in the making: sources are added in the order of their names."""

    def __init__(self) -> None:
        self._sources: dict[str, OfSource] = {}

    def add(self, name: str, blocks: OfSource) -> None:
        """Add a source."""
        self._sources[name] = blocks

    def snapshot(self, ends: Mapping[str, int]) -> Snapshot:
        """The snapshot of these sources."""
        parts = list(self._sources.values())
        lengths = [len(part.offset) for part in parts]
        return Snapshot(
            tuple(self._sources),
            np.repeat(np.arange(len(parts), dtype=np.int64), lengths),
            _joined([part.offset for part in parts]),
            _joined([part.rows for part in parts]),
            _joined([part.num_bytes for part in parts]),
            ends,
            origins={name: part.origins for name, part in self._sources.items() if part.origins},
        )


def of_chain(
    source: Source,
    chain: Chain,
    end: int,
    unreadable: Callable[[Source, StorageError], None],
    first: int | None = None,
) -> OfSource:
    """The blocks that count below `end`; also forgotten ones that are kept, from `first` on, if that is given.

    `unreadable`: told of files of which no block is known.
    """
    first = chain.floor.first if first is None else first
    parts: list[tuple[Ints, npt.NDArray[np.integer[Any]], Ints]] = []
    origins: list[Origin] = []
    for index in reversed(list(source.indexes_back(chain, first))):
        if index.first[0] < end:
            parts += _of_index(source, index, first, unreadable)
            origins += _origins(index, first, end)
    for file in chain.tail:
        known = _known(source, file, unreadable)
        if known is not None and file.first < end:
            parts.append((known.offset, known.rows, known.num_bytes))
            origins.append(Origin(known.first, known.log, known.base))
    offset, rows, num_bytes = (_joined([part[column] for part in parts]) for column in range(3))
    counted = slice(*np.searchsorted(offset, [first, end]).tolist())
    return OfSource(offset[counted], rows[counted], num_bytes[counted], named(origins))


def _of_index(
    source: Source, index: SegmentIndex, first: int, unreadable: Callable[[Source, StorageError], None]
) -> Iterator[tuple[Ints, npt.NDArray[np.integer[Any]], Ints]]:
    """The index's blocks, in order, and from `first` on those of damaged files that can be read again."""
    begin = 0
    for number in np.flatnonzero(index.is_damaged & (index.next > first)).tolist():
        blocks = slice(begin, begin := int(index.first_block[number]))
        yield index.offset[blocks], index.rows[blocks], index.num_bytes[blocks]
        if (known := _known(source, index.file(number), unreadable)) is not None:
            yield known.offset, known.rows, known.num_bytes
    yield index.offset[begin:], index.rows[begin:], index.num_bytes[begin:]


def _known(source: Source, file: IndexedFile, unreadable: Callable[[Source, StorageError], None]) -> IndexedFile | None:
    if not file.is_damaged:
        return file
    try:
        return source.looked_at(file)
    except StorageError as error:
        unreadable(source, error)
        return None


def _origins(index: SegmentIndex, first: int, end: int) -> list[Origin]:
    """Where the log changes, of files from `first` to `end`."""
    counted = np.flatnonzero(~index.is_damaged & (index.next > first) & (index.first < end))
    log = index.log[counted]
    changes = counted[np.flatnonzero(np.concatenate([[True], log[1:] != log[:-1]]))] if len(counted) else counted
    return [Origin(int(index.first[number]), *index.logs[int(index.log[number])]) for number in changes.tolist()]


def _joined(parts: "list[npt.NDArray[np.integer[Any]]]") -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts], dtype=np.int64)
