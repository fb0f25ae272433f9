"""Properties of every plan over a cache, in each mode."""

import tracemalloc
from dataclasses import replace
from itertools import count
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive.protocol import SamplesRequest, encode_request
from edged.domain.archive.snapshot import Ids, Snapshot
from edged.domain.epochs import modes
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.plan import CachedWindow, CachePlan, PlanSettings
from edged.domain.epochs.scores import ScoreTable
from edged.domain.epochs.split import train_split
from edged.domain.epochs.window import MAX_WINDOW_BLOCKS, MAX_WINDOW_SAMPLES, SAMPLE_OVERHEAD
from edged.domain.topology import SamplingMode
from tests.domain.epochs.test_split import snapshot_of, training_ids
from tests.support.properties import examples

MODES: tuple[SamplingMode, ...] = get_args(SamplingMode)
FRACTION = 0.2  # as training_ids has it
SAMPLE_BYTES = 100
COST = SAMPLE_BYTES + SAMPLE_OVERHEAD

snapshots = st.lists(
    st.tuples(st.sampled_from(["pi-a", "pi-b", "_train.x", "_test.x"]), st.integers(0, 30)), max_size=25
).map(lambda blocks: snapshot_of([(source, rows, rows * SAMPLE_BYTES) for source, rows in blocks]))


def even(num_blocks: int, rows: int = 20, source: str = "_train.x") -> Snapshot:
    return snapshot_of([(source, rows, rows * SAMPLE_BYTES)] * num_blocks)


def settings_of(*, cached_samples: int, window_samples: int = 60, seed: int = 1) -> PlanSettings:
    return PlanSettings(seed, FRACTION, window_samples * COST, cached_samples * COST)


def empty(q: float = 0.7) -> EpochStart:
    """Nothing is cached yet."""
    return EpochStart(np.zeros(0, np.int64), hit_share=q, is_gate_open=True)


def scores_of(snapshot: Snapshot, seed: int = 0) -> ScoreTable:
    """Scores for nine of ten samples."""
    table = ScoreTable(snapshot, 1 << 30)
    rng = np.random.default_rng(seed)
    ids = np.flatnonzero(rng.random(snapshot.num_samples) < 0.9)
    table.update(ids, rng.gamma(1.0, size=len(ids)).astype(np.float32))
    return table


def draw(
    mode: SamplingMode, snapshot: Snapshot, limits: PlanSettings, epoch: int = 7, start: EpochStart | None = None
) -> CachePlan:
    start = start or empty()
    return modes.plan(mode, limits, snapshot, epoch, start, scores_of(snapshot))


def windows_of(plan: CachePlan) -> list[CachedWindow]:
    windows: list[CachedWindow] = []
    for index in count():
        if (window := plan.window(index)) is None:
            return windows
        windows.append(window)
    raise AssertionError


def ids_of(windows: list[CachedWindow]) -> Ids:
    return np.concatenate([np.zeros(0, np.int64), *(window.ids for window in windows)])


def hit_ratio(windows: list[CachedWindow]) -> float:
    return float(np.concatenate([window.is_cached for window in windows]).mean())


def some_cached(snapshot: Snapshot, max_cached: int, seed: int, q: float = 0.7) -> EpochStart:
    ids = np.array(sorted(training_ids(snapshot)), np.int64)
    chosen = np.random.default_rng(seed).permutation(ids)[:max_cached]
    return EpochStart(np.sort(chosen), seed * 0x1234567890ABCDE % (1 << 64), q, True)


@pytest.mark.parametrize("mode", MODES)
@examples(25)
@given(snapshot=snapshots, max_cached=st.integers(0, 200), seed=st.integers(0, 9), q=st.sampled_from([0.3, 0.7, 0.9]))
def test_hits_are_cached_misses_are_fetched_and_the_cache_keeps_its_budget(mode, snapshot, max_cached, seed, q):
    start = some_cached(snapshot, max_cached, seed, q)
    limits = settings_of(cached_samples=max_cached)
    plan = draw(mode, snapshot, limits, start=start)
    cached, fetched = set(start.cached.tolist()), []
    known = training_ids(snapshot)
    for window in windows_of(plan):
        evict, fetch = set(window.evict.tolist()), window.fetch
        assert evict <= cached
        cached -= evict
        assert set(window.ids[window.is_cached].tolist()) <= cached
        assert np.array_equal(fetch.ids[window.position[~window.is_cached]], window.ids[~window.is_cached])
        assert set(fetch.ids.tolist()) == set(window.ids[~window.is_cached].tolist())
        assert not set(fetch.ids.tolist()) & cached
        block, row = snapshot.locate(fetch.ids)
        named = [(ref, r) for ref, rows in zip(fetch.refs, fetch.rows, strict=True) for r in rows.tolist()]
        assert named == [(snapshot.ref(b), r) for b, r in zip(block.tolist(), row.tolist(), strict=True)]
        assert set(window.ids.tolist()) <= known
        fetched += fetch.ids.tolist()
        cached |= set(fetch.ids[window.admit].tolist())
        assert len(cached) * COST <= limits.capacity_bytes
    assert len(fetched) == len(set(fetched))
    assert set(plan.after.cached.tolist()) == cached


@pytest.mark.parametrize("mode", MODES)
@examples(15)
@given(snapshot=snapshots, data=st.data())
def test_a_plan_resumes_at_any_draw_with_the_same_windows(mode, snapshot, data):
    start = some_cached(snapshot, 40, 3)
    first, again = (draw(mode, snapshot, settings_of(cached_samples=80), start=start) for _ in range(2))
    whole = ids_of(windows_of(first))
    at = data.draw(st.integers(0, len(whole)))
    index, offset_in_window = again.locate(at)
    rest = []
    while (window := again.window(index)) is not None:
        rest.append(window)
        index += 1
    assert ids_of(rest)[offset_in_window:].tolist() == whole[at:].tolist()
    assert again.digest == first.digest
    back = first.window(0)
    assert back is None or np.array_equal(back.ids, whole[: len(back.ids)])


@pytest.mark.parametrize("mode", MODES)
def test_another_seed_epoch_or_cache_has_another_order_and_digest(mode):
    snapshot = even(30)
    one = draw(mode, snapshot, settings_of(cached_samples=200), epoch=7)
    others = [
        draw(mode, snapshot, settings_of(cached_samples=200, seed=2), epoch=7),
        draw(mode, snapshot, settings_of(cached_samples=200), epoch=8),
        draw(mode, snapshot, settings_of(cached_samples=200), epoch=7, start=some_cached(snapshot, 90, 1)),
    ]
    for other in others:
        assert other.digest != one.digest
        assert ids_of(windows_of(other)).tolist() != ids_of(windows_of(one)).tolist()


@pytest.mark.parametrize("mode", ["uniform", "no_evict", "lru"])
@examples(25)
@given(snapshot=snapshots, max_cached=st.integers(0, 200))
def test_uniform_modes_draw_every_sample_exactly_once_an_epoch(mode, snapshot, max_cached):
    plan = draw(mode, snapshot, settings_of(cached_samples=max_cached), start=some_cached(snapshot, max_cached, 1))
    ids = ids_of(windows_of(plan)).tolist()
    assert sorted(ids) == sorted(training_ids(snapshot))


@pytest.mark.parametrize("mode", ["uniform", "stratified", "importance"])
def test_hits_and_misses_alternate_evenly_through_the_epoch(mode):
    snapshot = even(200)
    limits = settings_of(cached_samples=1400, window_samples=300)
    start = draw(mode, snapshot, limits, epoch=6).after
    is_cached = np.concatenate([window.is_cached for window in windows_of(draw(mode, snapshot, limits, 7, start))])
    by_batch = is_cached[: len(is_cached) // 100 * 100].reshape(-1, 100).mean(axis=1)
    assert abs(by_batch - is_cached.mean()).max() < 0.15


def test_a_window_requests_each_block_once_and_its_request_fits_a_message():
    snapshot = even(3000, rows=200)
    limits = PlanSettings(1, 0.0, 1 << 40, 1 << 24)
    for mode in MODES:
        window = draw(mode, snapshot, limits).window(0)
        assert window is not None
        assert len(set(window.fetch.refs)) == len(window.fetch.refs)
        assert request_bytes(window) < 1 << 20


def request_bytes(window: CachedWindow) -> int:
    return len(encode_request(SamplesRequest("a" * 30, "pi-a", "toy", window.fetch.refs, window.fetch.rows)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("num_blocks", "rows", "size"), [(20_000, 1, 2), (1_000, 256, 256)])
def test_even_the_smallest_samples_windows_fit_one_request(mode, num_blocks, rows, size):
    """More blocks in the one case, and more samples in the other, than a window may have."""
    snapshot = snapshot_of([("_train.x", rows, size)] * num_blocks)
    assert num_blocks > MAX_WINDOW_BLOCKS or snapshot.num_samples > MAX_WINDOW_SAMPLES
    window = draw(mode, snapshot, PlanSettings(1, FRACTION, 1 << 30, 1 << 32)).window(0)
    assert window is not None
    assert request_bytes(window) < 700_000


@given(snapshot=snapshots, max_cached=st.integers(0, 200), window_samples=st.integers(1, 60))
def test_uniform_fetches_each_block_once_in_windows_within_the_budget(snapshot, max_cached, window_samples):
    limits = settings_of(cached_samples=max_cached, window_samples=window_samples)
    windows = windows_of(draw("uniform", snapshot, limits, start=some_cached(snapshot, max_cached, 2)))
    for window in windows:
        assert len(window.fetch.refs) <= 1 or window.fetch.num_bytes <= limits.window_bytes
    refs = [ref for window in windows for ref in window.fetch.refs]
    assert len(refs) == len(set(refs))


def test_without_a_cache_a_window_is_shuffled_whole():
    snapshot = even(20, rows=256)
    windows = windows_of(draw("uniform", snapshot, settings_of(cached_samples=0, window_samples=1 << 20)))
    order = ids_of(windows)
    assert len(windows) == 1
    # Of a uniform permutation's neighbours one in 20 lies in the same block; of a block-wise order nearly all do.
    assert np.mean(order[1:] // 256 == order[:-1] // 256) < 0.1


@pytest.mark.parametrize("mode", MODES)
def test_a_grown_archive_and_other_limits_change_the_digest(mode):
    plans = [
        draw(mode, even(20), settings_of(cached_samples=100)),
        draw(mode, even(21), settings_of(cached_samples=100)),
        draw(mode, even(20), settings_of(cached_samples=101)),
        draw(mode, even(20), settings_of(cached_samples=100, window_samples=61)),
    ]
    assert len({plan.digest for plan in plans}) == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_source_without_blocks_changes_nothing(mode):
    """An archive that knows of a new source may list it in an old snapshot."""
    snapshot = even(20, source="pi-b")
    more = replace(snapshot, sources=("pi-a", "pi-b", "pi-c"), source=snapshot.source + 1)
    plans = [draw(mode, each, settings_of(cached_samples=100)) for each in (snapshot, more)]
    assert plans[0].digest == plans[1].digest
    assert ids_of(windows_of(plans[0])).tolist() == ids_of(windows_of(plans[1])).tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("blocks", [[], [("_test.x", 5, 5)], [("pi-a", 0, 0)]])
def test_an_empty_snapshot_gives_a_plan_without_samples(mode, blocks):
    snapshot = snapshot_of(blocks)
    plan = draw(mode, snapshot, settings_of(cached_samples=100))
    windows = windows_of(plan)
    assert ids_of(windows).tolist() == []
    assert plan.locate(0) == (len(windows), 0)
    assert train_split(snapshot, FRACTION).is_empty
    assert plan.after.cached.tolist() == []


@pytest.mark.parametrize("mode", ["stratified", "importance", "uniform", "lru"])
def test_fifty_million_samples_plan_their_first_windows_in_little_memory(mode):
    num_blocks, rows = 200_000, 250
    snapshot = Snapshot(
        ("_train.x",),
        np.zeros(num_blocks, np.int64),
        np.arange(num_blocks),
        np.full(num_blocks, rows),
        np.full(num_blocks, rows * 784),
        {"_train.x": num_blocks},
    )
    scores = ScoreTable(snapshot, 8 << 20)
    limits = PlanSettings(1, FRACTION, 8 << 20, 256 << 20)
    tracemalloc.start()
    try:
        plan = modes.plan(mode, limits, snapshot, 1, empty(0.3), scores)
        for index in range(4):
            window = plan.window(index)
            assert window is not None
            scores.update(window.ids, np.ones(window.num_samples, np.float32))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert scores.is_by_block
    assert peak < 64 << 20
