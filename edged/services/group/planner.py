"""Which samples of an epoch a member of a training group trains and tests on.

Unlike `LocalPlanner` this keeps nothing for a restart: the group's order does not depend on any cache, so a member
plans by what its own holds now. See also: `domain.group.plan` for the plan itself.
"""

from collections.abc import Mapping
from itertools import accumulate, pairwise

import numpy as np

from edged.aio import run_in_worker
from edged.domain.archive.snapshot import Ids, Snapshot, renumbered
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.plan import CachePlan, PlanSettings
from edged.domain.epochs.split import TrainSplit, train_split
from edged.domain.epochs.window import SAMPLE_OVERHEAD, Window
from edged.domain.group import plan as group_plan
from edged.domain.group.plan import Group, GroupPlan
from edged.services.cache.shared import CacheShare, held_ids
from edged.services.epochs.planner import PlannerSettings

_TEST_WINDOW_BYTES = 4 << 20
"""The same on all members: each tests on its part of the same windows."""


class GroupPlanner:
    """A member's `EpochPlanner`. Call `begin` before each plan is drawn. Used by one task."""

    test_window_bytes = _TEST_WINDOW_BYTES

    def __init__(
        self, share: CacheShare, settings: PlannerSettings, member: str, budgets: Mapping[str, int], batch_size: int
    ) -> None:
        """`budgets`: bytes of cache of each edge that may be a member."""
        self._share = share
        self._settings = settings
        self._member = member
        self._budgets = budgets
        self._batch_size = batch_size
        self._shares: Mapping[str, float] = {}
        self._is_expected = False
        self._before: tuple[Snapshot, Ids] | None = None

    def begin(self, shares: Mapping[str, float]) -> None:
        """The next plan is for members with these shares of each global batch."""
        self._shares, self._is_expected = shares, False

    def expect(self, shares: Mapping[str, float]) -> None:
        """As `begin`, but not yet decided: the plan is drawn ahead, and discarded if another Begin is recorded."""
        self._shares, self._is_expected = shares, True

    def can_draw_ahead(self, present: Snapshot, following: Snapshot | None = None) -> bool:
        """While a Begin is expected, and the archive has not grown: else that will hardly be over the same snapshot."""
        return self._is_expected and (following is None or following.ends == present.ends)

    def is_valid(self, plan: CachePlan) -> bool:
        """If it is for the members and shares that the epoch began with."""
        return isinstance(plan, GroupPlan) and plan.shares == self._shares

    def test_windows(self, split: TrainSplit, held_out: tuple[Window, ...]) -> tuple[Window, ...]:
        """The member's share of each window."""
        names = sorted(self._shares)
        ends = list(accumulate((self._shares[name] for name in names), initial=0.0))
        begin, end = dict(zip(names, pairwise(ends), strict=True)).get(self._member, (0.0, 0.0))
        if names and self._member == names[-1]:
            end = 1.0  # whatever the shares sum to in floating point
        parts = (window.ids[round(begin * len(window.ids)) : round(end * len(window.ids))] for window in held_out)
        return tuple(split.window(np.sort(ids)) for ids in parts if len(ids))

    async def plan(self, epoch: int, snapshot: Snapshot) -> GroupPlan:
        """The member's plan of `epoch` over `snapshot`."""
        payload_bytes = int(snapshot.num_bytes.sum()) // max(snapshot.num_samples, 1)
        capacity = self._share.allot(self._share.cache.num_entries(payload_bytes) * (payload_bytes + SAMPLE_OVERHEAD))
        cached = await run_in_worker(self._cached, snapshot)
        self._share.keep(snapshot, cached, capacity)
        settings = self._settings
        group = Group(
            self._member, self._shares, {name: float(self._budgets[name]) for name in self._shares}, self._batch_size
        )
        return await run_in_worker(
            group_plan.plan,
            PlanSettings(settings.seed, settings.test_fraction, settings.window_bytes, capacity),
            snapshot,
            epoch,
            EpochStart(cached, capacity_bytes=capacity),
            group,
        )

    async def close(self, plan: CachePlan, compute_s: float, fetch_s: float) -> None:  # noqa: ARG002 - nothing depends
        """Record what the cache is to hold now, where jobs share it; otherwise the cache itself is asked."""
        if self._share.is_shared:
            self._before = plan.snapshot, (await run_in_worker(lambda: plan.after)).cached

    def _cached(self, snapshot: Snapshot) -> Ids:
        """The training samples that the cache holds; of a shared one, those that this job keeps there."""
        if self._share.is_shared:
            if self._before is None:
                return np.zeros(0, np.int64)
            before, cached = self._before
            return renumbered(cached, before, snapshot)
        return held_ids(self._share.cache, train_split(snapshot, self._settings.test_fraction))
