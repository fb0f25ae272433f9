"""No 24 hours exceed the day's budget, and a restart does not refill it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.cache.write_budget import DAY_S, WriteBudget


@given(st.lists(st.tuples(st.floats(0, 20_000), st.integers(1, 60)), max_size=200))
def test_no_24_hours_exceed_the_budget(steps):
    budget, now_s, spent = WriteBudget(1000), 1e9, list[tuple[float, int]]()
    for wait_s, num_bytes in steps:
        now_s += wait_s
        if budget.allows(num_bytes, now_s):
            budget.spend(num_bytes, now_s)
            spent.append((now_s, num_bytes))
    for begin_s, _ in spent:
        assert sum(num for at_s, num in spent if begin_s <= at_s < begin_s + DAY_S) <= 1000 + 1e-3


def test_a_days_bytes_take_a_day_to_write():
    budget, written = WriteBudget(86_400), 0
    for second in range(0, int(DAY_S), 10):
        while budget.allows(100, second):
            budget.spend(100, second)
            written += 100
    assert written == pytest.approx(86_400, abs=300)


def test_a_batch_that_wrote_more_than_estimated_is_a_debt():
    budget = WriteBudget(8000)
    budget.spend(2000, 0.0)
    assert not budget.allows(1, 0.0)
    assert not budget.allows(1, 12_000.0)
    assert budget.allows(1, 13_000.0)


def test_a_batch_larger_than_the_bucket_needs_it_full():
    budget = WriteBudget(800)
    assert budget.allows(5000, 0.0)
    budget.spend(10, 0.0)
    assert not budget.allows(5000, 0.0)


def test_a_restart_does_not_refill_the_bucket():
    budget = WriteBudget(8000)
    budget.spend(1000, 100.0)
    again = WriteBudget.restored(8000, budget.state(1e9), 7.0, 1e9)
    assert not again.allows(500, 7.0)
    assert again.allows(500, 7.0 + DAY_S)


def test_a_day_in_which_nothing_ran_refills_it():
    budget = WriteBudget(8000)
    budget.spend(1000, 100.0)
    assert WriteBudget.restored(8000, budget.state(1e9), 7.0, 1e9 + DAY_S).allows(500, 7.0)


def test_a_start_under_a_clock_that_is_set_back_refills_nothing_then_or_when_it_is_right_again():
    budget = WriteBudget(8000)
    budget.spend(1000, 100.0)
    in_1970 = WriteBudget.restored(8000, budget.state(1e9), 7.0, 60.0)
    assert not in_1970.allows(100, 8.0)
    again = WriteBudget.restored(8000, in_1970.state(1e9 + 1), 3.0, 1e9 + 2)
    assert not again.allows(100, 3.0)


@pytest.mark.parametrize("state", ["", "{}", "[]", '{"tokens": NaN, "at_s": 0}', '{"tokens": "x", "at_s": 0}', "null"])
def test_a_malformed_state_gives_a_full_budget(state):
    assert WriteBudget.restored(8000, state, 0.0, 1e9).allows(1000, 0.0)
