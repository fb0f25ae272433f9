"""Keys of blocks: hashes of their names that order and distribute them identically on all nodes and versions."""

import hashlib

import numpy as np

from edged.domain.archive.snapshot import Snapshot
from edged.domain.splitmix64 import Keys, mixed


def block_keys(snapshot: Snapshot, salt: str) -> Keys:
    """uint64 [blocks]: a hash of salt, source name and offset."""
    salts = [
        int.from_bytes(hashlib.blake2b(f"{salt}/{name}".encode(), digest_size=8).digest(), "little")
        for name in snapshot.sources
    ]
    return mixed(np.array([*salts, 0], np.uint64)[snapshot.source] + snapshot.offset.astype(np.uint64))
