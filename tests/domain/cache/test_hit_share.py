"""How much to draw from the cache."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.cache import hit_share

shares, seconds = st.floats(0, 1), st.floats(1e-6, 10)


@given(shares, seconds, seconds)
def test_the_hit_share_is_between_the_cached_share_and_the_harmless_one(c, compute_s, fetch_s):
    q = hit_share.hit_share(c, compute_s, fetch_s)
    assert c - 1e-9 <= q <= hit_share.max_hit_share(c)
    assert q < 1 or c == 1


@given(shares, seconds, seconds)
def test_more_hits_would_be_no_faster_or_harmful(c, compute_s, fetch_s):
    q = hit_share.hit_share(c, compute_s, fetch_s)
    is_free = (1 - q) * fetch_s <= compute_s * (1 + 1e-6)
    assert is_free or q == pytest.approx(hit_share.max_hit_share(c))


def test_the_harmless_share_is_interpolated_between_measurements():
    assert [hit_share.max_hit_share(c) for c in (0.0, 0.1, 0.35, 0.75, 1.0)] == [0, 0.36, 0.73, 0.85, 1]
    assert hit_share.max_hit_share(0.225) == pytest.approx(0.545)


def test_compute_bound_the_hit_share_is_the_cached_share():
    assert hit_share.hit_share(0.35, compute_s=1e-3, fetch_s=1e-4) == 0.35


def test_link_bound_the_hit_share_is_just_what_the_link_needs():
    assert hit_share.hit_share(0.35, compute_s=1.0, fetch_s=2.0) == pytest.approx(0.5)
    assert hit_share.samples_per_s(0.5, 1.0, 2.0) == pytest.approx(1.0)


def test_the_speed_without_eviction_is_bound_by_link_or_compute():
    assert hit_share.samples_per_s(0.35, compute_s=0.001, fetch_s=0.01) == pytest.approx(1 / 0.0065)
    assert hit_share.samples_per_s(0.95, compute_s=0.001, fetch_s=0.01) == pytest.approx(1000)
