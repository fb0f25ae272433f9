"""What an epoch over a cache begins with, as it is stored beside a checkpoint, and ids across snapshots."""

import json
from dataclasses import dataclass

import numpy as np

from edged.domain import tensors
from edged.domain.archive.snapshot import Ids, Snapshot
from edged.errors import FormatError

_DECIDED = ("cursor", "hit_share", "is_gate_open", "capacity_bytes")


@dataclass(frozen=True, eq=False)
class EpochStart:
    """What an epoch finds, and what was decided for it: enough, with scores, to plan it again after a restart.

    `cached`: the ids in the cache, int64, in any order (for `lru` the least recently used first), numbered by the
    epoch's snapshot; `renumbered` turns them into another's. `cursor`: where the cyclic walk goes on. `hit_share`: the
    share q of draws that a stratified plan takes from the cache, c <= q < 1; see `cost_model`. `is_gate_open`: whether
    scores decide, where the mode is importance. `capacity_bytes`: what the cache is reckoned to hold, all tiers
    together, as plans count: what it really holds changes a little with every entry on the disk.
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
    """The boundary that was encoded for an epoch over `snapshot`. Raises FormatError."""
    found, metadata = tensors.decode(blob)
    cached = tensors.require(found, "cached", "int64")
    try:
        decided = json.loads(metadata["boundary"])
        cursor, hit_share, is_open, capacity_bytes = (decided[name] for name in _DECIDED)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError("the boundary's decisions are malformed") from error
    if type(cursor) is not int or not 0 <= cursor < 1 << 64 or type(is_open) is not bool:
        raise FormatError("the walk's cursor has 64 bits, and a gate is open or shut")
    if type(capacity_bytes) is not int or not 0 <= capacity_bytes < 1 << 62:
        raise FormatError("a cache's capacity is a number of bytes")
    if type(hit_share) is not float or not 0 <= hit_share < 1:
        raise FormatError("the share of hits is from 0 to less than 1")
    if len(np.unique(cached)) != len(cached) or ((cached < 0) | (cached >= snapshot.num_samples)).any():
        raise FormatError("cached ids are not those of different samples of the snapshot")
    return EpochStart(cached.astype(np.int64), cursor, hit_share, is_open, capacity_bytes)
