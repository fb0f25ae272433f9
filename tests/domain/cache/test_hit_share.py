"""How much to draw from the cache."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.cache import hit_share

shares, seconds = st.floats(0, 1), st.floats(1e-6, 10)


@given(shares, seconds, seconds)
def test_the_share_of_hits_is_never_below_what_is_cached_nor_above_what_is_harmless(c, compute_s, fetch_s):
    q = hit_share.hit_share(c, compute_s, fetch_s)
    assert c - 1e-9 <= q <= hit_share.max_hit_share(c)
    assert q < 1 or c == 1


@given(shares, seconds, seconds)
def test_more_hits_would_be_no_faster_unless_they_were_harmful(c, compute_s, fetch_s):
    q = hit_share.hit_share(c, compute_s, fetch_s)
    is_free = (1 - q) * fetch_s <= compute_s * (1 + 1e-6)
    assert is_free or q == pytest.approx(hit_share.max_hit_share(c))


def test_what_is_harmless_is_what_was_measured_and_a_line_between():
    assert [hit_share.max_hit_share(c) for c in (0.0, 0.1, 0.35, 0.75, 1.0)] == [0, 0.36, 0.73, 0.85, 1]
    assert hit_share.max_hit_share(0.225) == pytest.approx(0.545)


def test_a_compute_bound_trainer_takes_no_more_than_its_cache_has():
    assert hit_share.hit_share(0.35, compute_s=1e-3, fetch_s=1e-4) == 0.35


def test_a_slow_link_is_relieved_just_as_far_as_needed():
    assert hit_share.hit_share(0.35, compute_s=1.0, fetch_s=2.0) == pytest.approx(0.5)
    assert hit_share.samples_per_s(0.5, 1.0, 2.0) == pytest.approx(1.0)


def test_speed_with_a_cache_that_nothing_leaves_is_bound_by_link_or_compute():
    assert hit_share.samples_per_s(0.35, compute_s=0.001, fetch_s=0.01) == pytest.approx(1 / 0.0065)
    assert hit_share.samples_per_s(0.95, compute_s=0.001, fetch_s=0.01) == pytest.approx(1000)
