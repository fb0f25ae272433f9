"""What is in quarantine is neither trained nor tested on, in any mode, whatever the cache holds; the rest stays."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive.quarantine import Mask, laid_over
from edged.domain.archive.snapshot import BlockRef, Snapshot, renumbered
from edged.domain.epochs import modes, split
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.plan import PlanSettings
from edged.domain.epochs.scores import ScoreTable
from edged.domain.group import plan as group_plan
from edged.domain.group.plan import Group
from edged.domain.topology import SamplingMode
from tests.support.properties import examples

MODES: tuple[SamplingMode, ...] = ("uniform", "stratified", "lru", "importance", "shade", "icache")
SETTINGS = PlanSettings(seed=7, test_fraction=0.2, window_bytes=20_000, capacity_bytes=9_000)
NUM_BLOCKS, ROWS = 12, 20


def snapshot() -> Snapshot:
    each, offsets = np.ones(NUM_BLOCKS, np.int64), np.arange(NUM_BLOCKS, dtype=np.int64)
    return Snapshot(("pi-a",), 0 * each, offsets, ROWS * each, 1000 * each, {"pi-a": NUM_BLOCKS})


def masks(rows: Mapping[int, list[int]]) -> dict[BlockRef, Mask]:
    return {BlockRef("pi-a", block): np.isin(np.arange(256), of_block) for block, of_block in rows.items()}


some_rows = st.dictionaries(
    st.integers(0, NUM_BLOCKS - 1), st.just(list(range(ROWS))) | st.lists(st.integers(0, ROWS - 1)), max_size=8
)


def drawn(plan) -> list[int]:
    ids, index = [], 0
    while (window := plan.window(index)) is not None:
        ids += window.ids.tolist()
        assert set(window.fetch.ids.tolist()) <= set(window.ids.tolist())
        index += 1
    return ids


@pytest.mark.parametrize("mode", MODES)
@examples(25)
@given(rows=some_rows)
def test_no_plan_draws_or_keeps_what_is_in_quarantine(mode, rows):
    before, after = snapshot(), laid_over(snapshot(), masks(rows))
    out = set(range(before.num_samples)) - set(after.without_quarantined(np.arange(before.num_samples)).tolist())
    scores = ScoreTable(after, 1 << 16)
    scores.update(np.arange(after.num_samples), np.linspace(0.1, 1, after.num_samples, dtype=np.float32))
    cached = np.array([i for i in split.train_split(before, 0.2).ids(np.arange(NUM_BLOCKS)).tolist() if i % 3 == 0])
    start = EpochStart(renumbered(cached, before, after), hit_share=0.5, is_gate_open=True, capacity_bytes=9_000)
    if split.train_split(after, 0.2).is_empty:
        return

    plan = modes.plan(mode, SETTINGS, after, 6, start, scores)

    assert out.isdisjoint(drawn(plan))
    assert out.isdisjoint(plan.after.cached.tolist())


@examples(25)
@given(rows=some_rows)
def test_the_others_stay_on_their_side_of_the_split_with_their_ids(rows):
    before, after = snapshot(), laid_over(snapshot(), masks(rows))
    out = set(range(before.num_samples)) - set(after.without_quarantined(np.arange(before.num_samples)).tolist())
    every = np.arange(NUM_BLOCKS)

    def held_out(of: Snapshot) -> set[int]:
        windows = split.held_out_windows(of, test_fraction=0.2, window_bytes=5_000, max_samples=10_000)
        return {int(each) for window in windows for each in window.ids}

    trained = split.train_split(before, 0.2).ids(every).tolist()
    assert split.train_split(after, 0.2).ids(every).tolist() == [each for each in trained if each not in out]
    assert held_out(after) == held_out(before) - out


def test_a_plan_over_another_quarantine_has_another_digest():
    scores = ScoreTable(snapshot(), 1 << 16)

    def digest(rows: Mapping[int, list[int]]) -> str:
        of = laid_over(snapshot(), masks(rows))
        return modes.plan("uniform", SETTINGS, of, 0, EpochStart(np.zeros(0, np.int64)), scores).digest

    assert len({digest({}), digest({0: [1]}), digest({0: [2]}), digest({0: [1], 1: [1]})}) == 4
    assert digest({0: [1]}) == digest({0: [1]})


def test_all_members_of_a_group_leave_out_the_same():
    after = laid_over(snapshot(), masks({2: list(range(ROWS)), 5: [0, 1, 19]}))
    out = set(range(after.num_samples)) - set(after.without_quarantined(np.arange(after.num_samples)).tolist())
    shares = {"pi-a": 0.5, "pi-b": 0.5}
    plans = [
        group_plan.plan(SETTINGS, after, 0, EpochStart(np.zeros(0, np.int64)), Group(name, shares, shares, 8))
        for name in shares
    ]

    ids = [each for plan in plans for each in drawn(plan)]
    assert sorted(ids) == split.train_split(after, 0.2).ids(np.arange(NUM_BLOCKS)).tolist()
    assert out.isdisjoint(ids)
    assert plans[0].num_steps == plans[1].num_steps == -(-len(ids) // 8)
