"""The train/test split, and the held-out samples in windows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive import snapshot as dataset
from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.epochs import split
from edged.domain.epochs.split import train_split
from edged.domain.epochs.window import Window

FRACTION = 0.2


def snapshot_of(blocks: list[tuple[str, int, int]]) -> Snapshot:
    """Blocks of (source, rows, bytes), with the offsets 0, 1, … in each source."""
    blocks = sorted(blocks, key=lambda block: block[0])
    sources = tuple(sorted({source for source, _, _ in blocks}))
    ends: dict[str, int] = dict.fromkeys(sources, 0)
    offsets = []
    for source, _, _ in blocks:
        offsets.append(ends[source])
        ends[source] += 1
    return Snapshot(
        sources,
        np.array([sources.index(source) for source, _, _ in blocks], np.int64),
        np.array(offsets, np.int64),
        np.array([rows for _, rows, _ in blocks], np.int64),
        np.array([size for _, _, size in blocks], np.int64),
        ends,
    )


def held_out_windows(snapshot: Snapshot, *, window_bytes: int = 3000, max_samples: int = 10_000) -> tuple[Window, ...]:
    return split.held_out_windows(snapshot, test_fraction=FRACTION, window_bytes=window_bytes, max_samples=max_samples)


snapshots = st.lists(
    st.tuples(st.sampled_from(["pi-a", "pi-b", "_train.x", "_test.x"]), st.integers(0, 30), st.integers(0, 2000)),
    max_size=25,
).map(snapshot_of)


def training_ids(snapshot: Snapshot) -> set[int]:
    ids = set()
    for block in range(snapshot.num_blocks):
        ref, rows = snapshot.ref(block), int(snapshot.rows[block])
        train = np.flatnonzero(~dataset.test_rows(ref.source, ref.offset, rows, FRACTION))
        ids |= set((snapshot.first_id[block] + train).tolist())
    return ids


def window_of(snapshot: Snapshot) -> Window:
    """All training samples at once."""
    ids = np.array(sorted(training_ids(snapshot)), np.int64)
    return train_split(snapshot, FRACTION).window(ids)


def named_by(window: Window) -> list[tuple[BlockRef, int]]:
    return [(ref, int(row)) for ref, rows in zip(window.refs, window.rows, strict=True) for row in rows]


@given(snapshots)
def test_rows_and_ids_of_a_window_are_those_of_the_same_samples(snapshot):
    for window in (window_of(snapshot), *held_out_windows(snapshot)):
        block, row = snapshot.locate(window.ids)
        assert named_by(window) == [(snapshot.ref(int(b)), int(r)) for b, r in zip(block, row, strict=True)]
        assert sorted(window.order.tolist()) == list(range(window.num_samples))
        assert all(len(rows) for rows in window.rows)


@given(snapshots, st.data())
def test_a_part_of_a_window_has_exactly_its_positions(snapshot, data):
    window = window_of(snapshot)
    positions = sorted(data.draw(st.sets(st.sampled_from(range(window.num_samples)))) if window.num_samples else [])
    refs, rows = window.part(np.array(positions, np.int64))
    again = [(ref, int(row)) for ref, wanted in zip(refs, rows, strict=True) for row in wanted]
    assert again == [named_by(window)[position] for position in positions]


@given(snapshots, st.integers(0, 60))
def test_held_out_samples_are_those_never_trained(snapshot, limit):
    windows = held_out_windows(snapshot, max_samples=limit)
    ids = [i for window in windows for i in window.ids.tolist()]
    assert len(ids) == len(set(ids)) <= limit
    held_out = set(range(snapshot.num_samples)) - training_ids(snapshot)
    assert set(ids) <= held_out
    assert len(ids) == min(limit, len(held_out))


def test_a_capped_test_set_is_spread_over_the_sources():
    snapshot = snapshot_of([("_test.large", 50, 1)] * 40 + [("_test.small", 10, 1)] * 200 + [("pi-a", 10, 1)])
    windows = held_out_windows(snapshot, window_bytes=1 << 20, max_samples=600)
    sources = [
        ref.source for window in windows for ref, rows in zip(window.refs, window.rows, strict=True) for _ in rows
    ]
    assert abs(sources.count("_test.large") - sources.count("_test.small")) <= 50


def test_a_test_set_changes_little_as_the_archive_grows():
    def chosen(blocks: int) -> set[int]:
        snapshot = snapshot_of([("_test.x", 10, 1)] * blocks)
        windows = split.held_out_windows(snapshot, test_fraction=0, window_bytes=1 << 20, max_samples=500)
        return {i for window in windows for i in window.ids.tolist()}

    assert len(chosen(1000) & chosen(1100)) > 400


@given(snapshots, st.integers(100, 5000))
def test_held_out_windows_keep_the_budget_and_have_each_block_once(snapshot, window_bytes):
    windows = held_out_windows(snapshot, window_bytes=window_bytes)
    for window in windows:
        assert len(window.refs) <= 1 or window.num_bytes <= window_bytes
    refs = [ref for window in windows for ref in window.refs]
    assert len(refs) == len(set(refs))
