"""How hard each sample is: a smoothed score and a count of visits for each id, whether or not it is cached.

Covers one table for a snapshot's samples: updating, reading, encoding. Where a table by sample would exceed its budget,
scores are kept by block. See also: `importance` and `domain.cache.policy` for what scores are used for.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from edged.domain import tensors
from edged.domain.archive.snapshot import Ids, Snapshot
from edged.errors import FormatError

_BYTES_PER_CELL = 3
_OLD_SHARE = 0.7
"""What remains of a sample's score at its next visit."""
_OLD_SHARE_OF_BLOCK = 0.98
"""The same for a block's score, which moves slowly: each sample is only one of its many."""
_LARGEST = float(np.finfo(np.float16).max)
_NUM_QUANTILES = 1025

Scores = npt.NDArray[np.float32]


class ScoreTable:
    """Scores of `snapshot`'s samples, none at first; by sample if that takes at most `budget_bytes`, else by block.

    A score is the exponential average of what was measured at the visits, finite and not negative. Update by the ids
    that come with the data, never by their positions in a batch. Not to be changed while it is read.
    """

    def __init__(self, snapshot: Snapshot, budget_bytes: int) -> None:
        self._snapshot = snapshot
        self.is_by_block = snapshot.num_samples * _BYTES_PER_CELL > budget_bytes
        num_cells = snapshot.num_blocks if self.is_by_block else snapshot.num_samples
        self._scores = np.zeros(num_cells, np.float16)
        self._visits = np.zeros(num_cells, np.uint8)
        self._mean: float | None = None

    @property
    def num_bytes(self) -> int:
        return self._scores.nbytes + self._visits.nbytes

    @property
    def is_empty(self) -> bool:
        return not self._visits.any()

    def update(self, ids: Ids, measured: Scores) -> None:
        """Average in what was measured for samples `ids`: int64 [n], float32 [n]. An id may occur several times.

        Values that are not finite are left out.
        """
        good = np.isfinite(measured)
        cells, inverse, counts = np.unique(self._cells(ids[good]), return_inverse=True, return_counts=True)
        means = np.bincount(inverse, np.clip(measured[good], 0, _LARGEST), len(cells)) / np.maximum(counts, 1)
        old_share = (_OLD_SHARE_OF_BLOCK if self.is_by_block else _OLD_SHARE) ** counts
        old_share = np.where(self._visits[cells] > 0, old_share, 0.0)
        self._mean = None
        self._scores[cells] = old_share * self._scores[cells] + (1 - old_share) * means
        self._visits[cells] = np.minimum(self._visits[cells] + counts, 255)

    def of(self, ids: Ids, unseen: float | None = None) -> Scores:
        """The scores of `ids`: float32 [n]. Those never seen get `unseen`, or the mean of the others."""
        if unseen is None:
            unseen = self._mean = self.mean() if self._mean is None else self._mean
        cells = self._cells(ids)
        scores: Scores = np.where(self._visits[cells] > 0, self._scores[cells], unseen).astype(np.float32)
        return scores

    def visits(self, ids: Ids) -> npt.NDArray[np.uint8]:
        """How often each was seen, at most 255: uint8 [n]; how often its block was, when scores are kept by block."""
        return self._visits[self._cells(ids)]

    def mean(self, limit: float = np.inf) -> float:
        """The mean score of the samples seen, each clipped at `limit`; 1 when there are none."""
        total, count = 0.0, 0
        for start in range(0, len(self._scores), 1 << 20):  # avoids a large temporary array
            part = slice(start, start + (1 << 20))
            seen = self._visits[part] > 0
            rows = self._snapshot.rows[part][seen] if self.is_by_block else np.ones(int(seen.sum()))
            total += float(np.minimum(self._scores[part][seen], limit).astype(np.float64) @ rows)
            count += int(rows.sum())
        return total / count if count and total > 0 else 1.0

    def quantiles(self) -> Scores:
        """Evenly spaced quantiles of the scores seen, of at most a million of them: float32 [1025], or [0] without."""
        seen = np.flatnonzero(self._visits)
        values: Scores = self._scores[seen[:: -(-len(seen) // (1 << 20)) or 1]].astype(np.float32)
        if len(values):
            values = np.quantile(values, np.linspace(0, 1, _NUM_QUANTILES)).astype(np.float32)
        return values

    def snapshot(self) -> "ScoreTable":
        """A copy, for a plan to be drawn by."""
        copy = ScoreTable.__new__(ScoreTable)
        copy._snapshot, copy.is_by_block = self._snapshot, self.is_by_block  # noqa: SLF001 - of the same class
        copy._scores, copy._visits, copy._mean = self._scores.copy(), self._visits.copy(), self._mean  # noqa: SLF001
        return copy

    def columns(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The arrays that a plan's digest covers."""
        return self._scores, self._visits

    def encode(self) -> bytes:
        """The table as a safetensors blob, for the same snapshot."""
        return tensors.encode({"scores": self._scores, "visits": self._visits}, {"by": _kind(self.is_by_block)})

    def load(self, blob: bytes) -> None:
        """Replace the content by a table encoded for this snapshot. Raises FormatError, the table unchanged."""
        arrays, metadata = tensors.decode(blob)
        scores, visits = tensors.require(arrays, "scores", "float16"), tensors.require(arrays, "visits", "uint8")
        if metadata.get("by") != _kind(self.is_by_block) or len(scores) != len(self._scores):
            raise FormatError("the scores are those of another snapshot")
        if len(visits) != len(scores) or not (np.isfinite(scores) & (scores >= 0)).all():
            raise FormatError("scores are finite and not negative, and each has its visits")
        self._scores, self._visits, self._mean = scores.astype(np.float16), visits.copy(), None

    def grown(self, snapshot: Snapshot, budget_bytes: int) -> "ScoreTable":
        """The table for a later snapshot of the same archive, with the scores of its known samples."""
        table = ScoreTable(snapshot, budget_bytes)
        for block, at in enumerate(_blocks_in(self._snapshot, snapshot).tolist()):
            if at >= 0 and not self.is_by_block:
                old = slice(self._snapshot.first_id[block], self._snapshot.first_id[block + 1])
                seen = self._visits[old] > 0
                if table.is_by_block and seen.any():
                    table._scores[at] = self._scores[old][seen].astype(np.float32).mean()
                    table._visits[at] = self._visits[old].max()
                elif not table.is_by_block:
                    new = slice(snapshot.first_id[at], snapshot.first_id[at + 1])
                    table._scores[new], table._visits[new] = self._scores[old], self._visits[old]
            elif at >= 0 and table.is_by_block:
                table._scores[at], table._visits[at] = self._scores[block], self._visits[block]
        return table

    def _cells(self, ids: Ids) -> Ids:
        return self._snapshot.locate(ids)[0] if self.is_by_block else ids


def _kind(is_by_block: bool) -> str:  # noqa: FBT001 - a name for a flag
    return "block" if is_by_block else "sample"


def _blocks_in(old: Snapshot, new: Snapshot) -> Ids:
    """Where each block of `old` is in `new`, -1 if it is absent or has other rows: int64 [blocks]."""
    index = {(*new.ref(block), int(new.rows[block])): block for block in range(new.num_blocks)}
    names = ((*old.ref(block), int(old.rows[block])) for block in range(old.num_blocks))
    return np.array([index.get(name, -1) for name in names], np.int64)
