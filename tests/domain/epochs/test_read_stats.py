"""Statistics of an epoch's reads."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.epochs import importance
from edged.domain.epochs.read_stats import ReadStats

reads = st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.sampled_from([0.5, 1.0, 3.0])), max_size=40)


@given(reads, st.integers(1, 7))
def test_counts_do_not_depend_on_how_reads_are_batched(drawn, size):
    counted = ReadStats(21)
    for start in range(0, len(drawn), size):
        ids, is_hit, weights = zip(*drawn[start : start + size], strict=True)
        counted.add(np.array(ids), np.array(is_hit), np.array(weights, np.float32))
    seen: set[int] = set()
    fresh = 0
    for at, is_hit, _ in drawn:
        fresh += is_hit and at not in seen
        seen.add(at)
    assert counted.num_reads == len(drawn)
    assert counted.num_distinct == len(seen)
    assert counted.num_fresh_hits == fresh
    assert counted.num_hits == sum(is_hit for _, is_hit, _ in drawn)
    every = np.array([weight for _, _, weight in drawn], np.float32)
    assert abs(counted.effective_sample_size - importance.effective_sample_size(every)) < 1e-6


def test_before_the_first_read_all_ratios_are_zero():
    counted = ReadStats(0)
    assert counted.hit_ratio == counted.fresh_hit_ratio == counted.effective_sample_size == 0


def test_replays_are_hits_but_not_fresh_ones():
    counted = ReadStats(10)
    counted.add(np.array([3, 3, 3, 4]), np.array([False, True, True, True]), np.ones(4, np.float32))
    assert counted.hit_ratio == 0.75
    assert counted.fresh_hit_ratio == 0.25
