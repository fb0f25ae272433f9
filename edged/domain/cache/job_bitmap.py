"""Which of a few jobs keep which samples: a bit for each job, by block.

One byte per sample where sets of keys would take 200 per job. See also: `services.cache.shared` for what follows from
it.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import BlockRef, Ids
from edged.domain.cache.entry import SampleKey
from edged.domain.topology import MAX_JOBS

assert MAX_JOBS <= 8, "one byte has a bit for each"


class JobBitmap:
    """Jobs are numbered from 0 to MAX_JOBS - 1."""

    def __init__(self) -> None:
        self._rows: dict[BlockRef, npt.NDArray[np.uint8]] = {}

    def is_kept(self, key: SampleKey) -> bool:
        """Whether any job keeps the sample."""
        rows = self._rows.get(BlockRef(key.source, key.offset))
        return rows is not None and key.row < len(rows) and bool(rows[key.row])

    def are_kept(self, ref: BlockRef, rows: Ids) -> npt.NDArray[np.bool_]:
        """The same of a block's `rows`, int64 [n]: bool [n]."""
        kept = self._rows.get(ref, np.zeros(0, np.uint8))
        result = np.zeros(len(rows), np.bool_)
        known = rows < len(kept)
        result[known] = kept[rows[known]] != 0
        return result

    def add(self, job: int, ref: BlockRef, rows: Ids) -> None:
        """The job keeps these rows of the block."""
        if not len(rows):
            return
        kept = self._rows.get(ref, np.zeros(0, np.uint8))
        if (min_rows := int(rows.max()) + 1) > len(kept):
            kept = np.concatenate([kept, np.zeros(max(min_rows, 2 * len(kept)) - len(kept), np.uint8)])
        kept[rows] |= np.uint8(1 << job)
        self._rows[ref] = kept

    def remove(self, job: int, ref: BlockRef, rows: Ids) -> None:
        """The job no longer keeps them."""
        kept = self._rows.get(ref)
        if kept is None:
            return
        kept[rows[rows < len(kept)]] &= np.uint8(0xFF ^ (1 << job))
        if not kept.any():
            del self._rows[ref]

    def of_job(self, job: int) -> Iterator[tuple[BlockRef, Ids]]:
        """What the job keeps, block by block; the bitmap may be changed meanwhile."""
        for ref in list(self._rows):
            rows = np.flatnonzero(self._rows[ref] & np.uint8(1 << job))
            if len(rows):
                yield ref, rows
