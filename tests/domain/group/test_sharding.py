"""Ownership of blocks, turns by share, and the assignment of samples."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.group.sharding import MIN_SHARE, TURNS, Turns, assigned, next_shares, owners
from tests.domain.epochs.test_plan import even
from tests.support.properties import examples

GIB = 1 << 30
NAMES = [f"pi-{i}" for i in range(64)]

shares_of = st.lists(st.integers(1, 1000), min_size=1, max_size=64).map(
    lambda parts: {name: part / sum(parts) for name, part in zip(NAMES, parts, strict=False)}
)


def named(snapshot, budgets):
    names = np.array(sorted(budgets))
    return names[owners(snapshot, budgets)]


def test_blocks_are_owned_in_proportion_to_the_budgets():
    owned = np.bincount(owners(even(20_000), {"pi-0": 1.0 * GIB, "pi-1": 2.0 * GIB, "pi-2": 0, "pi-3": GIB / 2}))
    assert np.allclose(owned / 20_000, [1 / 3.5, 2 / 3.5, 0, 0.5 / 3.5], atol=0.015)


@pytest.mark.parametrize("budget", [0, 1, GIB])
def test_equal_budgets_own_equally_many_blocks_even_without_caches(budget):
    owned = np.bincount(owners(even(20_000), dict.fromkeys(NAMES[:8], budget)))
    assert np.allclose(owned / 20_000, 1 / 8, atol=0.01)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_joining_or_leaving_member_moves_only_its_own_fair_part(count):
    snapshot = even(10_000)
    fewer = named(snapshot, dict.fromkeys(NAMES[:count], GIB))
    more = named(snapshot, dict.fromkeys(NAMES[: count + 1], GIB))
    moved = fewer != more
    assert (more[moved] == NAMES[count]).all()
    assert moved.mean() == pytest.approx(1 / (count + 1), abs=0.015)


def test_a_larger_budget_takes_from_others_only_what_it_then_owns():
    snapshot = even(10_000)
    before, after = named(snapshot, {"a": 1, "b": 1, "c": 1}), named(snapshot, {"a": 1, "b": 2, "c": 1})
    moved = before != after
    assert (after[moved] == "b").all()
    assert moved.mean() == pytest.approx(1 / 2 - 1 / 3, abs=0.015)


def test_new_blocks_do_not_change_the_owners_of_others():
    budgets = dict.fromkeys(NAMES[:4], GIB)
    assert np.array_equal(owners(even(500), budgets), owners(even(800), budgets)[:500])


@given(shares_of, st.integers(1, 300), st.data())
def test_after_any_number_of_draws_each_member_has_had_its_share_rounded_up_or_down(shares, batch, data):
    turns = Turns(shares)
    assert sum(turns.parts) == TURNS
    assert all(
        part == 1 or abs(part - shares[name] * TURNS) < 1 + len(shares) / 2
        for name, part in zip(turns.names, turns.parts, strict=True)
    )
    draws = [*range(0, 20 * batch, batch), data.draw(st.integers(0, 10 * TURNS))]
    for draw in draws:
        had = [turns.num_before(draw, member) for member in range(len(shares))]
        assert sum(had) == draw
        for part, count in zip(turns.parts, had, strict=True):
            assert abs(count - draw * part / TURNS) < 1


@examples(30)
@given(shares_of)
def test_between_any_two_draws_shares_are_kept_and_turns_counted(shares):
    turns = Turns(shares)
    whose = turns.of(0, 2 * TURNS)
    counts = np.cumsum(whose[:, None] == np.arange(len(shares)), axis=0)
    ideal = np.arange(1, 2 * TURNS + 1)[:, None] * np.array(turns.parts) / TURNS
    assert (np.abs(counts - ideal) < 1).all()
    for draw in (1, 17, TURNS - 1, TURNS, TURNS + 5):
        assert [turns.num_before(draw, each) for each in range(len(shares))] == counts[draw - 1].tolist()
    assert np.array_equal(turns.of(100, TURNS + 50), whose[100 : TURNS + 50])


def test_shares_that_are_multiples_of_a_4096th_are_kept_exactly():
    turns = Turns({"a": 1000 / TURNS, "b": 3000 / TURNS, "c": 96 / TURNS})
    assert turns.parts == (1000, 3000, 96)
    assert (turns.index("b"), turns.index("d")) == (1, None)


def test_a_tiny_share_is_never_rounded_to_nothing():
    assert min(Turns({"a": 1 - 3e-7, "b": 1e-7, "c": 1e-7, "d": 1e-7}).parts) == 1


@given(st.data(), st.integers(1, 7), st.integers(0, 200))
def test_in_each_batch_members_get_their_turns_and_their_own_first(data, members, n):
    some = st.lists(st.integers(0, members - 1), min_size=n, max_size=n)
    owner, turn = np.array(data.draw(some), np.int64), np.array(data.draw(some), np.int64)
    batch = np.sort(np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), np.int64))
    trained_by = assigned(owner, turn, batch)
    for each in range(5):
        here = batch == each
        for member in range(members):
            quota = int((turn[here] == member).sum())
            assert int((trained_by[here] == member).sum()) == quota
            owned = np.flatnonzero(here & (owner == member))
            assert (trained_by[owned[:quota]] == member).all()
            assert (trained_by[owned[quota:]] != member).all()


def test_shares_are_equal_at_first():
    assert next_shares(dict.fromkeys("abcd", 0.0), {}) == dict.fromkeys("abcd", 0.25)
    assert sorted(next_shares(dict.fromkeys("abc", 0.0), {}).values()) == [1365 / TURNS, 1365 / TURNS, 1366 / TURNS]


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e6)), min_size=1, max_size=64),
    st.lists(st.one_of(st.just(0.0), st.floats(0.01, 1)), max_size=64),
)
def test_shares_sum_to_exactly_one_and_none_is_below_the_minimum(speeds, before):
    shares = next_shares(dict(zip(NAMES, speeds, strict=False)), dict(zip(NAMES[1:], before, strict=False)))
    assert sum(shares.values()) == 1
    assert min(shares.values()) >= min(MIN_SHARE, 0.5 / len(speeds)) - 1 / TURNS
    assert all((share * TURNS).is_integer() for share in shares.values())


def test_shares_approach_the_speeds_within_a_few_epochs_and_no_faster():
    speeds, shares = {"a": 100.0, "b": 100.0, "c": 10.0}, {}
    shares = next_shares(dict.fromkeys(speeds, 0.0), {})
    gaps = []
    for _ in range(8):
        gaps.append(shares["c"] - 10 / 210)
        shares = next_shares(speeds, shares)
    assert all(0.4 * gap < after < 0.6 * gap for gap, after in pairwise(gaps[:5]))
    assert gaps[-1] < 0.005


def test_shares_stay_while_speeds_vary_within_the_dead_band():
    before = {"a": 0.5, "b": 0.25, "c": 0.25}
    assert next_shares({"a": 206.0, "b": 98.0, "c": 102.0}, before) == before
    assert next_shares({"a": 300.0, "b": 98.0, "c": 102.0}, before)["a"] > 0.54


def test_a_new_member_without_a_speed_counts_as_the_average():
    shares = next_shares({"a": 300.0, "b": 100.0, "new": 0.0}, {"a": 0.75, "b": 0.25})
    assert shares == pytest.approx({"a": 0.5, "b": 1 / 6, "new": 1 / 3}, abs=1e-3)


def test_the_share_of_a_member_that_left_goes_to_the_others_in_proportion():
    shares = next_shares({"a": 300.0, "b": 100.0}, {"a": 0.375, "b": 0.125, "gone": 0.5})
    assert shares == {"a": 0.75, "b": 0.25}


def test_a_very_slow_member_keeps_the_minimum_share_and_the_others_their_proportion():
    shares = {"a": 0.4, "b": 0.2, "slow": 0.4}
    for _ in range(10):
        shares = next_shares({"a": 200.0, "b": 100.0, "slow": 0.01}, shares)
    assert shares["slow"] == pytest.approx(MIN_SHARE, abs=1 / TURNS)
    assert shares["a"] / shares["b"] == pytest.approx(2, abs=0.01)
