"""What an epoch starts from, as it is stored with the sampler's state."""

import json
from dataclasses import dataclass

import numpy as np

from edged.domain import tensors
from edged.domain.archive.snapshot import Ids, Snapshot
from edged.errors import FormatError

_DECIDED = ("cursor", "hit_share", "is_gate_open", "capacity_bytes")


@dataclass(frozen=True, eq=False)
class EpochStart:
    """What an epoch finds in the cache, and what was decided for it: with the scores, enough to plan it again.

    `cached`: the ids in the cache, int64, in any order (for `lru` the least recently used first), numbered by the
    epoch's snapshot; `snapshot.renumbered` maps them to another's. `cursor`: where the cyclic scan resumes.
    `hit_share`: the share q of draws that a stratified plan takes from the cache, c <= q < 1; see `cache.hit_share`.
    `is_gate_open`: whether importance sampling uses its scores. `capacity_bytes`: what the cache is assumed to hold,
    all tiers together, as plans count; what it really holds changes a little with every entry on the disk.
    """

    cached: Ids
    cursor: int = 0
    hit_share: float = 0.0
    is_gate_open: bool = False
    capacity_bytes: int = 0

    def encode(self) -> bytes:
        """As a safetensors blob."""
        values = (self.cursor, self.hit_share, self.is_gate_open, self.capacity_bytes)
        decided = dict(zip(_DECIDED, values, strict=True))
        return tensors.encode({"cached": self.cached}, {"boundary": json.dumps(decided)})


def decode_epoch_start(blob: bytes, snapshot: Snapshot) -> EpochStart:
    """The start that was encoded for an epoch over `snapshot`. Raises FormatError."""
    found, metadata = tensors.decode(blob)
    cached = tensors.require(found, "cached", "int64")
    try:
        decided = json.loads(metadata["boundary"])
        cursor, hit_share, is_open, capacity_bytes = (decided[name] for name in _DECIDED)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError("the epoch start's decisions are malformed") from error
    if type(cursor) is not int or not 0 <= cursor < 1 << 64 or type(is_open) is not bool:
        raise FormatError("the cursor has 64 bits, and the gate is open or shut")
    if type(capacity_bytes) is not int or not 0 <= capacity_bytes < 1 << 62:
        raise FormatError("a cache's capacity is a number of bytes")
    if type(hit_share) is not float or not 0 <= hit_share < 1:
        raise FormatError("the share of hits is from 0 to less than 1")
    if len(np.unique(cached)) != len(cached) or ((cached < 0) | (cached >= snapshot.num_samples)).any():
        raise FormatError("cached ids are not those of different samples of the snapshot")
    return EpochStart(cached.astype(np.int64), cursor, hit_share, is_open, capacity_bytes)
