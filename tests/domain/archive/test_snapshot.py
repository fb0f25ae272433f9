"""Snapshots number the samples densely; the split into training and test never changes sides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive import snapshot as dataset
from edged.domain.archive.snapshot import TEST_SOURCE, TRAIN_SOURCE, BlockRef, Snapshot


def snapshot_of(*blocks):
    """Blocks as (source index, offset, rows)."""
    source, offset, rows = (
        (np.array(column, np.int64) for column in zip(*blocks, strict=True)) if blocks else (np.zeros(0, np.int64),) * 3
    )
    return Snapshot(("pi-a", "pi-b"), source, offset, rows, rows * 10, {"pi-a": 9, "pi-b": 9})


def test_ids_run_through_all_blocks():
    snapshot = snapshot_of((0, 0, 3), (0, 1, 2), (1, 0, 4))

    assert (snapshot.num_blocks, snapshot.num_samples) == (3, 9)
    assert snapshot.first_id.tolist() == [0, 3, 5, 9]
    assert [snapshot.ref(i) for i in range(3)] == [BlockRef("pi-a", 0), BlockRef("pi-a", 1), BlockRef("pi-b", 0)]


@given(st.lists(st.integers(0, 5), max_size=8))
def test_locate_inverts_the_numbering_also_around_empty_blocks(rows):
    snapshot = snapshot_of(*((0, i, n) for i, n in enumerate(rows)))

    block, row = snapshot.locate(np.arange(snapshot.num_samples))

    expected = [(i, r) for i, n in enumerate(rows) for r in range(n)]
    assert list(zip(block.tolist(), row.tolist(), strict=True)) == expected


def test_an_empty_snapshot_has_no_samples():
    snapshot = snapshot_of()

    assert (snapshot.num_blocks, snapshot.num_samples, snapshot.first_id.tolist()) == (0, 0, [0])


@pytest.mark.parametrize(("source", "held_out"), [(f"{TEST_SOURCE}mnist", 256), (f"{TRAIN_SOURCE}mnist", 0)])
def test_imported_sets_keep_their_published_split(source, held_out):
    assert dataset.test_rows(source, 3, 256, 0.5).sum() == held_out


def test_the_held_out_share_of_an_edges_own_samples_is_the_fraction():
    held_out = sum(int(dataset.test_rows("pi-a", offset, 256, 0.1).sum()) for offset in range(200))

    assert held_out / (200 * 256) == pytest.approx(0.1, abs=0.01)


def test_no_fraction_holds_nothing_out():
    assert not dataset.test_rows("pi-a", 0, 256, 0.0).any()


def test_a_sample_never_changes_sides():
    first = dataset.test_rows("pi-a", 5, 256, 0.3)

    np.testing.assert_array_equal(dataset.test_rows("pi-a", 5, 256, 0.3), first)
    assert (dataset.test_rows("pi-a", 6, 256, 0.3) != first).any()
    assert (dataset.test_rows("pi-b", 5, 256, 0.3) != first).any()


def test_a_larger_fraction_holds_out_a_superset():
    small, large = dataset.test_rows("pi-a", 5, 256, 0.1), dataset.test_rows("pi-a", 5, 256, 0.3)

    assert (large | ~small).all()


def test_the_split_is_the_same_in_every_version():
    """Changing it would let samples trained on yesterday be tested on today."""
    assert np.flatnonzero(dataset.test_rows("pi-a", 0, 64, 0.1)).tolist() == PINNED


PINNED = [5, 23, 50]
