"""Keys of blocks: hashes of their names, by which they are ordered and dealt out the same everywhere, for ever."""

import hashlib

import numpy as np
import numpy.typing as npt

from edged.domain.dataset import Snapshot

Keys = npt.NDArray[np.uint64]


def block_keys(snapshot: Snapshot, salt: str) -> Keys:
    """uint64 [blocks]: a hash of salt, source name and offset."""
    salts = [
        int.from_bytes(hashlib.blake2b(f"{salt}/{name}".encode(), digest_size=8).digest(), "little")
        for name in snapshot.sources
    ]
    return mixed(np.array([*salts, 0], np.uint64)[snapshot.source] + snapshot.offset.astype(np.uint64))


def mixed(key: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele et al. 2014)."""
    key = key + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = key ^ (key >> np.uint64(31))
    return mixed
