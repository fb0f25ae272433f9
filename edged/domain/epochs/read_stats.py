"""What an epoch's reads amounted to: hits, fresh hits, distinct samples, and what its weights left of it.

Covers counting, from what really came, not from what was planned. Bytes and seconds are whoever's who fetches.
"""

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import Ids
from edged.domain.epochs.importance import Weights


class ReadStats:
    """Counts the reads of one epoch over `num_samples` ids; keeps a bit for each."""

    def __init__(self, num_samples: int) -> None:
        self._seen = np.zeros(-(-num_samples // 8), np.uint8)
        self.num_reads = 0
        self.num_hits = 0
        self.num_fresh_hits = 0
        self.num_distinct = 0
        self._weight = 0.0
        self._squared_weight = 0.0

    def add(self, ids: Ids, is_hit: npt.NDArray[np.bool_], weights: Weights) -> None:
        """Count samples in the order in which they were read: int64, bool and float32 [n].

        A *fresh* hit is the epoch's first read of its sample: neither a replay nor a miss.
        """
        byte, bit = ids >> 3, np.uint8(1) << (ids & 7).astype(np.uint8)
        first = np.zeros(len(ids), np.bool_)
        first[np.unique(ids, return_index=True)[1]] = True
        first &= (self._seen[byte] & bit) == 0
        np.bitwise_or.at(self._seen, byte, bit)
        self.num_reads += len(ids)
        self.num_hits += int(is_hit.sum())
        self.num_fresh_hits += int((is_hit & first).sum())
        self.num_distinct += int(first.sum())
        self._weight += float(weights.sum(dtype=np.float64))
        self._squared_weight += float(np.square(weights, dtype=np.float64).sum())

    @property
    def hit_ratio(self) -> float:
        """Hits among all reads, compulsory misses included."""
        return self.num_hits / max(self.num_reads, 1)

    @property
    def fresh_hit_ratio(self) -> float:
        """Fresh hits among all reads: what a cache saves without showing less."""
        return self.num_fresh_hits / max(self.num_reads, 1)

    @property
    def effective_sample_size(self) -> float:
        """See `importance.effective_sample_size`."""
        return self._weight**2 / self._squared_weight if self._squared_weight else 0.0
