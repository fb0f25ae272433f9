"""An integer for each of very many samples, kept by block: 4 bytes per sample where a dict of keys would take 200.

The numbers mean nothing here. See also: `services.cache.cache` for two uses.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import BlockRef
from edged.domain.cache.entry import SampleKey

_SOME_ROWS = 16
_NO_ROWS = np.zeros(0, np.int32)


class BlockTable:
    """Sample key → int32; a key that was never set, or set to 0, is absent. Rows below 65,536."""

    def __init__(self) -> None:
        self._rows: dict[BlockRef, npt.NDArray[np.int32]] = {}
        self._num_keys = 0

    def __len__(self) -> int:
        return self._num_keys

    @property
    def num_bytes(self) -> int:
        """Memory of the table, about: the numbers, and 250 bytes of objects per block."""
        return sum(rows.nbytes + 250 for rows in self._rows.values())

    def __getitem__(self, key: SampleKey) -> int:
        """The key's number; 0 when it is absent."""
        rows = self._rows.get(BlockRef(key.source, key.offset))
        return 0 if rows is None or key.row >= len(rows) else int(rows[key.row])

    def __setitem__(self, key: SampleKey, value: int) -> None:
        before = self[key]
        if before == value:
            return
        ref = BlockRef(key.source, key.offset)
        rows = self._rows.get(ref)
        if rows is None or key.row >= len(rows):
            rows = self._rows[ref] = _grown(rows, key.row + 1)
        rows[key.row] = value
        self._num_keys += (value != 0) - (before != 0)
        if value == 0 and not rows.any():
            del self._rows[ref]

    def rows(self, source: str, offset: int, num_rows: int) -> npt.NDArray[np.int32]:
        """The numbers of a block's first `num_rows` rows: int32 [num_rows], a copy."""
        result = np.zeros(num_rows, np.int32)
        if (rows := self._rows.get(BlockRef(source, offset))) is not None:
            count = min(num_rows, len(rows))
            result[:count] = rows[:count]
        return result

    def set_rows(self, ref: BlockRef, rows: npt.NDArray[np.int64], values: npt.NDArray[np.int32]) -> None:
        """Set a block's distinct `rows`, int64 [n], to `values`, int32 [n]."""
        if not len(rows):
            return
        held = self._rows.get(ref)
        if held is None or int(rows.max()) >= len(held):
            held = self._rows[ref] = _grown(held, int(rows.max()) + 1)
        self._num_keys += int(np.count_nonzero(values)) - int(np.count_nonzero(held[rows]))
        held[rows] = values
        if not held.any():
            del self._rows[ref]

    def add(self, ref: BlockRef, rows: npt.NDArray[np.int64], number: int) -> None:
        """Add `number` to that of each of a block's distinct `rows`, int64 [n]."""
        before = self.rows(*ref, int(rows.max()) + 1)[rows] if len(rows) else _NO_ROWS
        self.set_rows(ref, rows, before + np.int32(number))

    def items(self) -> Iterator[tuple[SampleKey, int]]:
        """All present keys with their numbers, block by block; the table may be changed meanwhile."""
        for ref in list(self._rows):
            rows = self._rows.get(ref, _NO_ROWS)
            for row in np.flatnonzero(rows).tolist():
                yield SampleKey(ref.source, ref.offset, row), int(rows[row])


def _grown(rows: npt.NDArray[np.int32] | None, min_rows: int) -> npt.NDArray[np.int32]:
    """The rows with zeros appended: at least `min_rows`, growing by doubling."""
    held = 0 if rows is None else len(rows)
    grown = np.zeros(max(min_rows, min(_SOME_ROWS, 2 * min_rows), 2 * held), np.int32)
    if rows is not None:
        grown[:held] = rows
    return grown
