"""Statistics of an epoch's reads: hits, fresh hits, distinct samples, the effective sample size, what was fetched.

Covers counting what really arrived, not what was planned. See also: `services.epochs.stats` for seconds.
"""

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import Ids
from edged.domain.epochs.importance import Weights


class ReadStats:
    """Counts the reads of one epoch over `num_samples` ids; keeps a bit for each.

    `num_fetched`, `fetched_bytes`: samples from the archive, and the bytes of their payloads.
    """

    def __init__(self, num_samples: int) -> None:
        self._seen = np.zeros(-(-num_samples // 8), np.uint8)
        self.num_reads = 0
        self.num_hits = 0
        self.num_fresh_hits = 0
        self.num_distinct = 0
        self.num_fetched = 0
        self.fetched_bytes = 0
        self._weight = 0.0
        self._squared_weight = 0.0

    def add(self, ids: Ids, is_hit: npt.NDArray[np.bool_], weights: Weights) -> None:
        """Count samples in the order in which they were read: int64, bool and float32 [n].

        A *fresh* hit is a hit that is also the epoch's first read of its sample: not a replay.
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

    def add_fetched(self, num_samples: int, num_bytes: int) -> None:
        """Count samples that came from the archive, and the bytes of their payloads."""
        self.num_fetched += num_samples
        self.fetched_bytes += num_bytes

    @property
    def hit_ratio(self) -> float:
        """Hits among all reads, compulsory misses included."""
        return self.num_hits / max(self.num_reads, 1)

    @property
    def fresh_hit_ratio(self) -> float:
        """Fresh hits among all reads: what the cache saves without showing fewer samples."""
        return self.num_fresh_hits / max(self.num_reads, 1)

    @property
    def effective_sample_size(self) -> float:
        """See `importance.effective_sample_size`."""
        return self._weight**2 / self._squared_weight if self._squared_weight else 0.0
