"""Which samples a cache keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.cache import policy

sizes = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), max_size=20)


@given(sizes, sizes, st.integers(0, 400))
def test_what_is_kept_fits_and_is_the_most_valuable(old, new, room):
    values, costs = np.array([*old, (0, 0)], np.float64)[:-1].T
    new_values, new_costs = np.array([*new, (0, 0)], np.float64)[:-1].T
    kept, admit = policy.most_valuable(values, costs, new_values, new_costs, room)
    assert costs[kept].sum() + new_costs[admit].sum() <= room
    inside, outside = [*values[kept], *new_values[admit]], [*values[~kept], *new_values[~admit]]
    assert not inside or not outside or min(inside) >= max(outside)


def test_a_new_sample_of_equal_value_does_not_replace_a_cached_one():
    one = np.ones(1)
    kept, admit = policy.most_valuable(one, one.astype(int), one, one.astype(int), 1)
    assert kept.all()
    assert not admit.any()


def test_without_eviction_the_first_ones_that_fit_are_cached():
    assert policy.no_evict(np.array([3, 3, 3]), 7).tolist() == [True, True, False]


def test_the_lru_hit_ratio_agrees_with_a_simulation():
    assert policy.lru_hit_ratio(0.0) == 0
    assert policy.lru_hit_ratio(0.35) == pytest.approx(0.070, abs=5e-4)
    assert policy.lru_hit_ratio(1.0) == 1


def test_parts_of_a_cache_are_by_benefit_with_a_floor_and_equal_while_nothing_is_measured():
    assert policy.parts([None, None]) == [0.5, 0.5]
    assert policy.parts([0.0, None, 0.0]) == pytest.approx([1 / 3] * 3)
    assert policy.parts([3.0, 1.0]) == pytest.approx([0.125 + 0.75 * 0.75, 0.125 + 0.75 * 0.25])
    assert policy.parts([4.0, None]) == [0.5, 0.5]
    assert min(policy.parts([1e9, 0.0])) == pytest.approx(policy.MIN_PART / 2)
    assert sum(policy.parts([5.0, 0.1, None, 2.0])) == pytest.approx(1)
