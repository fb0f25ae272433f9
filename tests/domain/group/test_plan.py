"""A group's epoch: one order whatever the members, each sample with one of them, and caches of what is owned."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.archive.snapshot import Ids, Snapshot
from edged.domain.epochs.plan import PlanSettings
from edged.domain.group import plan as group_plan
from edged.domain.group.plan import Group, GroupPlan, global_order, num_steps
from edged.domain.group.sharding import TURNS, Turns, next_shares, owners
from tests.domain.epochs.test_plan import COST, FRACTION, empty, even, ids_of, settings_of, some_cached, windows_of
from tests.domain.epochs.test_plan import snapshots as snapshots_of_any
from tests.domain.epochs.test_split import training_ids
from tests.support.properties import examples

NAMES = [f"pi-{i}" for i in range(7)]
SIZES = (1, 2, 4, 7)

shares_of = (
    st.sampled_from(SIZES)
    .flatmap(lambda size: st.lists(st.integers(1, 20), min_size=size, max_size=size))
    .map(lambda parts: {name: part / sum(parts) for name, part in zip(NAMES, parts, strict=False)})
)


def equal(count: int) -> dict[str, float]:
    return next_shares(dict.fromkeys(NAMES[:count], 0.0), {})


def draw(
    snapshot: Snapshot,
    shares: Mapping[str, float],
    member: str = NAMES[0],
    *,
    batch: int = 128,
    limits: PlanSettings | None = None,
    epoch: int = 7,
    boundary=None,
) -> GroupPlan:
    group = Group(member, shares, dict.fromkeys(shares, 1.0), batch)
    return group_plan.plan(limits or settings_of(cached_samples=0), snapshot, epoch, boundary or empty(), group)


def order_of(snapshot: Snapshot, epoch: int = 7) -> Ids:
    return ids_of(windows_of(global_order(snapshot, 1, FRACTION, epoch)))


def parts_of(plan: GroupPlan) -> list[Ids]:
    """The member's part of each global batch."""
    ids = ids_of(windows_of(plan))
    return [ids[a:b] for a, b in pairwise(plan.first_sample(step) for step in range(plan.num_steps + 1))]


@examples(60)
@given(snapshots_of_any, shares_of, st.integers(1, 50), st.integers(1, 200), st.integers(100, 8000))
def test_the_members_parts_of_a_batch_add_up_to_the_global_batch(snapshot, shares, batch, window, window_bytes):
    limits = settings_of(cached_samples=0, window_samples=window)
    with patch.object(group_plan, "WINDOW_BYTES", window_bytes):  # so that batches cross windows
        order = order_of(snapshot)
        plans = [draw(snapshot, shares, member, batch=batch, limits=limits) for member in shares]
        parts = [parts_of(plan) for plan in plans]
        turns = Turns(shares)
        assert {plan.num_steps for plan in plans} == {num_steps(snapshot, FRACTION, batch)} == {-(-len(order) // batch)}
        for step in range(plans[0].num_steps):
            together = np.concatenate([part[step] for part in parts])
            assert sorted(together.tolist()) == sorted(order[step * batch : (step + 1) * batch].tolist())
            for member, part in zip(shares, parts, strict=True):
                of_a_round = turns.parts[turns.names.index(member)]
                assert len(part[step]) <= -(-of_a_round * batch // TURNS) + 1
                inside = order[np.isin(order, part[step])]
                assert np.array_equal(part[step], inside)  # in the order of use
        for plan, part in zip(plans, parts, strict=True):
            assert sum(map(len, part)) == len(ids_of(windows_of(plan))) == plan.first_sample(plan.num_steps)


@examples(30)
@given(snapshots_of_any, st.integers(1, 50), st.integers(1, 200))
def test_a_single_member_has_exactly_the_global_order(snapshot, batch, window):
    limits = settings_of(cached_samples=0, window_samples=window)
    plan = draw(snapshot, {NAMES[3]: 1.0}, NAMES[3], batch=batch, limits=limits)
    order = order_of(snapshot)
    assert ids_of(windows_of(plan)).tolist() == order.tolist()
    assert sorted(order.tolist()) == sorted(training_ids(snapshot))
    assert [plan.first_sample(step) for step in range(plan.num_steps + 1)] == [
        *range(0, len(order), batch),
        len(order),
    ]


def test_the_global_order_does_not_depend_on_a_members_settings():
    snapshot = even(50)
    whole = ids_of(windows_of(draw(snapshot, equal(1))))
    for limits in (settings_of(cached_samples=300), settings_of(cached_samples=0, window_samples=7)):
        boundary = some_cached(snapshot, 200, 1)
        assert ids_of(windows_of(draw(snapshot, equal(1), limits=limits, boundary=boundary))).tolist() == whole.tolist()
    assert ids_of(windows_of(draw(snapshot, equal(1), epoch=8))).tolist() != whole.tolist()


@examples(40)
@given(shares_of, st.integers(1, 300))
def test_after_each_batch_a_member_has_had_its_share_of_all_samples_within_one(shares, batch):
    snapshot, parts = even(40), Turns(shares).parts
    for member, part in zip(shares, parts, strict=True):
        plan = draw(snapshot, shares, member, batch=batch)
        for step in range(plan.num_steps):
            assert abs(plan.first_sample(step) - step * batch * part / 4096) < 1


def test_most_samples_go_to_their_owners():
    snapshot, shares = even(235, rows=256), equal(4)
    owner = owners(snapshot, dict.fromkeys(shares, 1.0))
    own = 0
    with patch.object(group_plan, "WINDOW_BYTES", group_plan.WINDOW_BYTES * COST // 848):  # as if of 28x28 bytes
        for place, member in enumerate(shares):
            ids = ids_of(
                windows_of(draw(snapshot, shares, member, limits=settings_of(cached_samples=0, window_samples=9000)))
            )
            own += int((owner[snapshot.locate(ids)[0]] == place).sum())
    assert own / snapshot.num_samples > 0.85


@examples(40)
@given(snapshots_of_any, shares_of, st.integers(0, 200), st.integers(0, 200), st.integers(1, 60))
def test_hits_are_cached_and_the_cache_keeps_within_its_budget_what_it_owns(snapshot, shares, held, capacity, window):
    limits = settings_of(cached_samples=capacity, window_samples=window)
    boundary = some_cached(snapshot, min(held, capacity), 1)
    own = owners(snapshot, dict.fromkeys(shares, 1.0)) == 0
    plan = draw(snapshot, shares, boundary=boundary, limits=limits)
    cached, fetched = set(boundary.cached.tolist()), []
    for each in windows_of(plan):
        fetch, evict = each.fetch, set(each.evict.tolist())
        assert each.num_samples
        assert evict <= cached
        assert not own[snapshot.locate(each.evict)[0]].any()
        cached -= evict
        assert np.array_equal(each.is_cached, np.isin(each.ids, sorted(cached & set(boundary.cached.tolist()))))
        assert np.array_equal(fetch.ids[each.position[~each.is_cached]], each.ids[~each.is_cached])
        assert (each.position[each.is_cached] == -1).all()
        assert (np.diff(fetch.ids) > 0).all()
        assert sorted(fetch.ids.tolist()) == sorted(each.ids[~each.is_cached].tolist())
        assert np.array_equal(fetch.order, each.position[~each.is_cached])
        assert fetch.num_bytes <= limits.window_bytes or fetch.num_samples == 1
        admitted = fetch.ids[each.admit]
        assert own[snapshot.locate(admitted)[0]].all()
        cached |= set(admitted.tolist())
        assert len(cached) * COST <= limits.capacity_bytes
        fetched += fetch.ids.tolist()
    assert len(fetched) == len(set(fetched))
    assert plan.after.cached.tolist() == sorted(cached)


def test_a_cache_with_room_for_all_owned_samples_soon_hits_on_most_draws():
    snapshot, shares, boundary = even(200), equal(4), empty()
    for epoch in range(6):
        plan = draw(snapshot, shares, limits=settings_of(cached_samples=2000), boundary=boundary, epoch=epoch)
        is_cached = np.concatenate([window.is_cached for window in windows_of(plan)])
        boundary = plan.after
    own = owners(snapshot, dict.fromkeys(shares, 1.0)) == 0
    assert is_cached.mean() > 0.85
    assert own[snapshot.locate(boundary.cached)[0]].all()
    assert len(boundary.cached) == pytest.approx(own.sum() * 20, rel=0.02)


def test_the_size_of_a_window_counts_only_what_it_fetches():
    snapshot = even(100)
    limits = settings_of(cached_samples=2000, window_samples=100)
    cold = draw(snapshot, equal(1), limits=limits)
    assert {window.num_samples for window in windows_of(cold)} == {100}
    assert [
        window.num_samples for window in windows_of(draw(snapshot, equal(1), limits=limits, boundary=cold.after))
    ] == [2000]


def test_samples_no_longer_owned_are_evicted_only_to_make_room():
    snapshot, alone, both = even(100), equal(1), equal(2)
    held = draw(snapshot, alone, limits=settings_of(cached_samples=800)).after
    roomy = draw(snapshot, both, limits=settings_of(cached_samples=2000), boundary=held)
    assert not any(len(window.evict) for window in windows_of(roomy))
    tight = draw(snapshot, both, limits=settings_of(cached_samples=800), boundary=held)
    own = owners(snapshot, dict.fromkeys(both, 1.0)) == 0
    after = own[snapshot.locate(tight.after.cached)[0]].mean()
    assert after > own[snapshot.locate(held.cached)[0]].mean() + 0.3
    assert len(tight.after.cached) == 800


def test_a_member_without_a_share_has_no_samples_but_all_steps():
    snapshot = even(30)
    plan = draw(snapshot, equal(2), "pi-new", boundary=some_cached(snapshot, 20, 1))
    assert windows_of(plan) == []
    assert plan.num_steps == draw(snapshot, equal(2)).num_steps
    assert {plan.first_sample(step) for step in range(plan.num_steps + 1)} == {0}
    assert plan.locate(0) == (0, 0)
    assert len(plan.after.cached) == 20


def test_with_more_members_than_samples_in_a_batch_some_parts_are_empty():
    snapshot, shares = even(10), equal(7)
    parts = [parts_of(draw(snapshot, shares, member, batch=3)) for member in shares]
    assert any(len(part) == 0 for each in parts for part in each)
    assert {sum(len(each[step]) for each in parts) for step in range(len(parts[0]) - 1)} == {3}


@examples(30)
@given(snapshots_of_any, shares_of, st.integers(1, 40), st.data())
def test_a_resume_at_any_step_continues_with_the_same_samples_even_with_another_cache(snapshot, shares, batch, data):
    whole = parts_of(draw(snapshot, shares, batch=batch))
    again = draw(snapshot, shares, batch=batch, boundary=some_cached(snapshot, 50, 2))
    step = data.draw(st.integers(0, again.num_steps))
    index, place = again.locate(again.first_sample(step))
    rest = []
    while (window := again.window(index)) is not None:
        rest.append(window)
        index += 1
    expected = np.concatenate([np.zeros(0, np.int64), *whole[step:]])
    assert ids_of(rest)[place:].tolist() == expected.tolist()
    if expected.size:
        back = again.window(0)
        assert back is not None
        assert np.array_equal(back.ids, np.concatenate(whole)[: len(back.ids)])


def test_the_digest_covers_everything_that_the_plan_depends_on():
    snapshot, shares = even(30), equal(2)
    one = draw(snapshot, shares)
    group = Group(NAMES[0], shares, {NAMES[0]: 1.0, NAMES[1]: 2.0}, 128)
    others = [
        draw(snapshot, shares, NAMES[1]),
        draw(snapshot, equal(3)),
        draw(snapshot, shares, batch=64),
        draw(snapshot, shares, epoch=8),
        draw(snapshot, shares, limits=settings_of(cached_samples=9)),
        draw(snapshot, shares, boundary=replace(empty(), cached=np.array([3]))),
        draw(even(31), shares),
        group_plan.plan(settings_of(cached_samples=0), snapshot, 7, empty(), group),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == len(others) + 1
    assert draw(snapshot, shares).digest == one.digest


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_the_steps_of_an_epoch_are_counted_by_its_training_samples(fraction):
    snapshot = even(37, source="pi-a")
    plan = draw(snapshot, equal(2), batch=10, limits=replace(settings_of(cached_samples=0), test_fraction=fraction))
    drawn = len(ids_of(windows_of(global_order(snapshot, 1, fraction, 7))))
    assert plan.num_steps == num_steps(snapshot, fraction, 10) == -(-drawn // 10)
    assert fraction or drawn == 740
