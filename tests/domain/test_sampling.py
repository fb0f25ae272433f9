"""The plan of an epoch."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain import dataset, sampling
from edged.domain.dataset import BlockRef, Snapshot
from edged.domain.epoch_protocol import SamplesRequest, encode_request
from edged.domain.sampling import SAMPLE_OVERHEAD, EpochPlan

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


snapshots = st.lists(
    st.tuples(st.sampled_from(["pi-a", "pi-b", "_train.x", "_test.x"]), st.integers(0, 30), st.integers(0, 2000)),
    max_size=25,
).map(snapshot_of)


def draw(snapshot: Snapshot, *, seed: int = 1, epoch: int = 0, window_bytes: int = 3000) -> EpochPlan:
    return sampling.plan(snapshot, seed=seed, epoch=epoch, test_fraction=FRACTION, window_bytes=window_bytes)


def ids_in_order(plan: EpochPlan, first: int = 0) -> list[int]:
    window, at = plan.locate(first)
    ids: list[int] = []
    for index in range(window, plan.num_windows):
        made = plan.window(index)
        ids += made.ids[made.order][at if index == window else 0 :].tolist()
    return ids


def training_ids(snapshot: Snapshot) -> set[int]:
    ids = set()
    for block in range(snapshot.num_blocks):
        ref, rows = snapshot.ref(block), int(snapshot.rows[block])
        train = np.flatnonzero(~dataset.test_rows(ref.source, ref.offset, rows, FRACTION))
        ids |= set((snapshot.first_id[block] + train).tolist())
    return ids


@given(snapshots, st.integers(0, 3))
def test_every_training_sample_comes_exactly_once_an_epoch(snapshot, epoch):
    ids = ids_in_order(draw(snapshot, epoch=epoch))
    assert len(ids) == len(set(ids))
    assert set(ids) == training_ids(snapshot)


@given(snapshots, st.integers(100, 5000))
def test_each_block_is_fetched_once_and_windows_keep_the_budget(snapshot, window_bytes):
    plan = draw(snapshot, window_bytes=window_bytes)
    seen: list[BlockRef] = []
    size_of = {snapshot.ref(b): (int(snapshot.num_bytes[b]), int(snapshot.rows[b])) for b in range(snapshot.num_blocks)}
    for index in range(plan.num_windows):
        refs = plan.window(index).refs
        seen += refs
        held = sum(size_of[ref][0] + SAMPLE_OVERHEAD * size_of[ref][1] for ref in refs)
        assert len(refs) <= 1 or held <= window_bytes
    assert len(seen) == len(set(seen))


@given(snapshots, st.data())
def test_a_resume_at_any_sample_gives_the_same_remaining_order(snapshot, data):
    whole = ids_in_order(draw(snapshot))
    first = data.draw(st.integers(0, len(whole)))
    assert ids_in_order(draw(snapshot), first) == whole[first:]
    assert draw(snapshot).num_samples == len(whole)


@given(snapshots)
def test_rows_and_ids_name_the_same_samples(snapshot):
    plan = draw(snapshot)
    for index in range(plan.num_windows):
        window = plan.window(index)
        named = [(ref, int(row)) for ref, rows in zip(window.refs, window.rows, strict=True) for row in rows]
        block, row = snapshot.locate(window.ids)
        assert named == [(snapshot.ref(int(b)), int(r)) for b, r in zip(block, row, strict=True)]
        assert sorted(window.order.tolist()) == list(range(window.num_samples))
        assert all(len(rows) for rows in window.rows)


@given(snapshots, st.data())
def test_a_part_of_a_window_names_just_its_positions(snapshot, data):
    plan = draw(snapshot, window_bytes=1 << 20)
    if plan.num_windows == 0:
        return
    window = plan.window(0)
    positions = sorted(data.draw(st.sets(st.sampled_from(range(window.num_samples)))) if window.num_samples else [])
    named = [(ref, int(row)) for ref, rows in zip(window.refs, window.rows, strict=True) for row in rows]
    refs, rows = window.part(np.array(positions, np.int64))
    again = [(ref, int(row)) for ref, wanted in zip(refs, rows, strict=True) for row in wanted]
    assert again == [named[position] for position in positions]


def test_epochs_and_seeds_differ_in_order():
    snapshot = snapshot_of([("pi-a", 20, 100)] * 20)
    orders = {tuple(ids_in_order(draw(snapshot, seed=s, epoch=e))) for s in (0, 1) for e in (0, 1, 2)}
    assert len(orders) == 6


def test_a_small_data_set_is_shuffled_whole():
    snapshot = snapshot_of([("_train.x", 256, 1000)] * 20)
    plan = draw(snapshot, window_bytes=1 << 20)
    order = np.array(ids_in_order(plan))
    assert plan.num_windows == 1
    # Of a uniform permutation's neighbours one in 20 lies in the same block; of a block-wise order nearly all do.
    same_block = np.mean(order[1:] // 256 == order[:-1] // 256)
    assert same_block < 0.1


def test_the_digest_tells_orders_apart():
    blocks = [("pi-a", 20, 100)] * 20
    digests = {
        draw(snapshot_of(blocks)).digest,
        draw(snapshot_of(blocks), epoch=1).digest,
        draw(snapshot_of(blocks), window_bytes=2999 * 2).digest,
        draw(snapshot_of([*blocks, ("pi-a", 1, 1)])).digest,
    }
    assert len(digests) == 4
    assert draw(snapshot_of(blocks)).digest == draw(snapshot_of(blocks)).digest


def test_a_source_without_blocks_does_not_change_the_digest():
    """An archive that has heard of a new source may name it in an old snapshot."""
    snapshot = snapshot_of([("pi-b", 20, 100)] * 20)
    more = replace(snapshot, sources=("pi-a", "pi-b", "pi-c"), source=snapshot.source + 1)
    assert draw(more).digest == draw(snapshot).digest
    assert ids_in_order(draw(more)) == ids_in_order(draw(snapshot))


@pytest.mark.parametrize(("rows", "size"), [(1, 2), (256, 256)])
def test_even_the_smallest_samples_windows_fit_one_request(rows, size):
    plan = draw(snapshot_of([("_train.x", rows, size)] * 20_000), window_bytes=1 << 30)
    window = plan.window(0)
    request = SamplesRequest("a" * 30, "pi-a", "toy", window.refs, window.rows)
    assert len(encode_request(request)) < 700_000


@given(snapshots, st.integers(0, 60))
def test_held_out_samples_are_those_never_trained(snapshot, most):
    windows = sampling.held_out_windows(snapshot, test_fraction=FRACTION, window_bytes=3000, most_samples=most)
    ids = [i for window in windows for i in window.ids.tolist()]
    assert len(ids) == len(set(ids)) <= most
    held_out = set(range(snapshot.num_samples)) - training_ids(snapshot)
    assert set(ids) <= held_out
    assert len(ids) == min(most, len(held_out))


def test_a_capped_test_set_is_spread_over_the_sources():
    snapshot = snapshot_of([("_test.large", 50, 1)] * 40 + [("_test.small", 10, 1)] * 200 + [("pi-a", 10, 1)])
    windows = sampling.held_out_windows(snapshot, test_fraction=FRACTION, window_bytes=1 << 20, most_samples=600)
    sources = [
        ref.source for window in windows for ref, rows in zip(window.refs, window.rows, strict=True) for _ in rows
    ]
    assert abs(sources.count("_test.large") - sources.count("_test.small")) <= 50


def test_a_test_set_changes_little_as_the_archive_grows():
    def chosen(blocks: int) -> set[int]:
        snapshot = snapshot_of([("_test.x", 10, 1)] * blocks)
        windows = sampling.held_out_windows(snapshot, test_fraction=0, window_bytes=1 << 20, most_samples=500)
        return {i for window in windows for i in window.ids.tolist()}

    assert len(chosen(1000) & chosen(1100)) > 400


@pytest.mark.parametrize("source", ["_train.x", "pi-a"])
def test_fifty_million_samples_are_planned_in_little_memory(source):
    num_blocks = 50_000_000 // 256
    snapshot = Snapshot(
        (source,),
        np.zeros(num_blocks, np.int64),
        np.arange(num_blocks),
        np.full(num_blocks, 256),
        np.full(num_blocks, 256 * 784),
        {source: num_blocks},
    )
    tracemalloc.start()
    try:
        window = draw(snapshot, window_bytes=8 << 20).window(0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 7000 < window.num_samples < 10_500
    assert peak < 16 << 20  # a sample id each would be 400 MB


@pytest.mark.parametrize("blocks", [[], [("_test.x", 5, 5)], [("pi-a", 0, 0)]])
def test_nothing_to_train_on_is_an_empty_plan(blocks):
    plan = draw(snapshot_of(blocks))
    assert plan.is_empty
    assert plan.num_samples == 0
    assert plan.locate(0) == (plan.num_windows, 0)
