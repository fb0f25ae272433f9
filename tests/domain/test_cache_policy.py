"""Which samples a cache keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain import cache_policy

sizes = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), max_size=20)


@given(sizes, sizes, st.integers(0, 400))
def test_what_is_kept_fits_and_is_worth_no_less_than_what_is_not(old, new, room):
    values, costs = np.array([*old, (0, 0)], np.float64)[:-1].T
    new_values, new_costs = np.array([*new, (0, 0)], np.float64)[:-1].T
    kept, admit = cache_policy.most_valuable(values, costs, new_values, new_costs, room)
    assert costs[kept].sum() + new_costs[admit].sum() <= room
    inside, outside = [*values[kept], *new_values[admit]], [*values[~kept], *new_values[~admit]]
    assert not inside or not outside or min(inside) >= max(outside)


def test_a_new_sample_that_is_worth_the_same_does_not_replace_one_that_is_there():
    one = np.ones(1)
    kept, admit = cache_policy.most_valuable(one, one.astype(int), one, one.astype(int), 1)
    assert kept.all()
    assert not admit.any()


def test_without_eviction_the_first_ones_that_fit_are_cached():
    assert cache_policy.no_evict(np.array([3, 3, 3]), 7).tolist() == [True, True, False]


def test_a_job_that_gains_more_from_the_cache_has_more_to_say():
    values = np.array([[1.0, 3.0], [30.0, 10.0]])
    assert cache_policy.summed_value(values, np.array([1.0, 0.0])).tolist() == [0.5, 1.5]
    assert cache_policy.summed_value(values, np.array([1.0, 1.0])).tolist() == [1.0, 1.0]
    assert cache_policy.summed_value(values, np.array([0.0, 0.0])).tolist() == [0.0, 0.0]


def test_least_recently_used_hits_as_the_formula_says():
    assert cache_policy.lru_hit_ratio(0.0) == 0
    assert cache_policy.lru_hit_ratio(0.35) == pytest.approx(0.070, abs=5e-4)
    assert cache_policy.lru_hit_ratio(1.0) == 1
