"""What an epoch over a cache starts from."""

from dataclasses import replace

import numpy as np
import pytest

from edged.domain import tensors
from edged.domain.archive.snapshot import Ids, Snapshot, renumbered
from edged.domain.epochs.epoch_start import EpochStart, decode_epoch_start
from edged.errors import FormatError
from tests.domain.epochs.test_plan import even, some_cached
from tests.domain.epochs.test_split import snapshot_of


def test_renumbered_ids_are_those_of_the_same_samples_after_the_archive_grew():
    old = snapshot_of([("pi-a", 3, 300), ("pi-a", 2, 200), ("pi-c", 4, 400)])
    new = snapshot_of([("pi-a", 3, 300), ("pi-a", 2, 200), ("pi-a", 5, 500), ("pi-b", 7, 700), ("pi-c", 4, 400)])
    ids = np.array([8, 0, 4, 5])
    again = renumbered(ids, old, new)

    def names(snapshot: Snapshot, ids: Ids) -> list[tuple[object, int]]:
        block, row = snapshot.locate(ids)
        return [(snapshot.ref(b), r) for b, r in zip(block.tolist(), row.tolist(), strict=True)]

    assert names(new, again) == names(old, ids)
    assert renumbered(np.arange(new.num_samples), new, old).tolist() == list(range(old.num_samples))


def test_an_epoch_start_is_encoded_and_decoded():
    snapshot = even(30)
    start = replace(some_cached(snapshot, 90, 5), capacity_bytes=12345)
    again = decode_epoch_start(start.encode(), snapshot)
    assert again.cached.tolist() == start.cached.tolist()
    for name in ("cursor", "hit_share", "is_gate_open", "capacity_bytes"):
        assert getattr(again, name) == getattr(start, name)


@pytest.mark.parametrize(
    "broken",
    [
        EpochStart(np.array([600])),
        EpochStart(np.array([-1])),
        EpochStart(np.array([3, 3])),
        EpochStart(np.array([3]), cursor=1 << 64),
        EpochStart(np.array([3]), capacity_bytes=-1),
        EpochStart(np.array([3]), capacity_bytes=1 << 62),
        EpochStart(np.array([3]), hit_share=1.0),
        EpochStart(np.array([3]), hit_share=float("nan")),
    ],
)
def test_an_impossible_epoch_start_is_refused(broken):
    with pytest.raises(FormatError):
        decode_epoch_start(broken.encode(), even(30))


def test_a_blob_that_is_not_an_epoch_start_is_refused():
    for blob in (b"", tensors.encode({"cached": np.zeros(0, np.int64)}, {"boundary": "[]"})):
        with pytest.raises(FormatError):
            decode_epoch_start(blob, even(30))
