"""Keys of blocks assign blocks to edges on every node, and must never change."""

import numpy as np

from edged.domain.archive.block_hash import block_keys
from tests.domain.epochs.test_split import snapshot_of


def test_a_key_depends_on_salt_source_and_offset_alone():
    small = snapshot_of([("pi-a", 3, 30), ("pi-b", 1, 10), ("pi-b", 2, 20)])
    large = snapshot_of([("_train.x", 9, 9), ("pi-a", 7, 70), ("pi-b", 4, 40), ("pi-b", 2, 20), ("pi-b", 5, 50)])
    assert block_keys(small, "s").tolist() == block_keys(large, "s")[1:4].tolist()
    assert len({*block_keys(large, "s").tolist(), *block_keys(large, "t").tolist()}) == 10


def test_keys_are_pinned():
    assert block_keys(snapshot_of([("pi-a", 1, 1)] * 2), "1").tolist() == [964791101320355572, 17542840223345977210]


def test_an_empty_snapshot_has_no_keys():
    assert block_keys(snapshot_of([]), "1").dtype == np.uint64
