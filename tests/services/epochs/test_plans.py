"""When the present and the next epoch are drawn, by a planner that records what it is asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from edged.domain.archive.protocol import SnapshotRequest
from edged.domain.archive.snapshot import Snapshot
from edged.domain.epochs import modes
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.plan import CachePlan, PlanSettings
from edged.domain.epochs.scores import ScoreTable
from edged.domain.epochs.split import TrainSplit
from edged.domain.epochs.window import Window
from edged.services.cache.shared import SharedCache
from edged.services.epochs.plans import EMPTY_RETRY_S, EpochPlans
from edged.services.epochs.stats import EpochStats
from tests.support.training_world import STREAM, World

pytestmark = pytest.mark.looptime


class RecordingPlanner:
    """Uniform plans without a cache. `closed`: the epochs whose costs it was given."""

    test_window_bytes = 1024

    def __init__(self) -> None:
        self.is_ahead = self.is_plan_valid = True
        self.closed: list[int] = []

    def can_draw_ahead(self, present: Snapshot, following: Snapshot | None = None) -> bool:
        return self.is_ahead

    def is_valid(self, plan: CachePlan) -> bool:
        return self.is_plan_valid

    def test_windows(self, split: TrainSplit, held_out: tuple[Window, ...]) -> tuple[Window, ...]:
        return held_out

    async def plan(self, epoch: int, snapshot: Snapshot) -> CachePlan:
        start = EpochStart(np.zeros(0, np.int64))
        return modes.plan(
            "uniform", PlanSettings(0, 0.2, 2048, 0), snapshot, epoch, start, ScoreTable(snapshot, 1 << 20)
        )

    async def close(self, plan: CachePlan, compute_s: float, fetch_s: float) -> None:
        self.closed.append(plan.epoch)


@asynccontextmanager
async def plans_of(world: World, planner: RecordingPlanner, epochs: int = 2) -> AsyncIterator[EpochPlans]:
    client = world.client()
    stats = EpochStats(client, SharedCache(world.cache, STREAM).share())
    async with client.open():
        yield EpochPlans(client, planner, stats, epochs=epochs, test_fraction=0.2, test_samples=1000)


async def look_ahead(plans: EpochPlans, world: World, epoch: int) -> bool:
    """Until the next epoch is drawn or it is known that it will not be."""
    for _ in range(3):
        if await plans.look_ahead(epoch):
            return True
        await world.made_client.drain()
    return False


def snapshot_requests(world: World) -> int:
    return sum(isinstance(request, SnapshotRequest) for request in world.log.requests)


@pytest.mark.parametrize("held_out", [False, True])
async def test_each_sample_is_located_in_its_window(world, held_out):
    async with plans_of(world, RecordingPlanner()) as plans:
        await plans.draw(0, None)
        epoch = plans.move_on()
    sample = index = 0
    position, _ = epoch.locate(0, held_out)
    while (window := epoch.window(position)) is not None:
        for at in range(window.num_samples):
            assert epoch.locate(sample + at, held_out) == (position, at)
        sample, index = sample + window.num_samples, index + 1
        position = position._replace(window=index)
    assert index > 1
    assert epoch.window(epoch.locate(sample, held_out)[0]) is None


async def test_the_next_epoch_is_drawn_ahead_once_and_becomes_the_present_one(world):
    async with plans_of(world, RecordingPlanner()) as plans:
        await plans.draw(0, None)
        plans.move_on()
        assert await look_ahead(plans, world, 1)
        assert await plans.look_ahead(1)
        assert plans.is_next(1, None)
        assert plans.of(1).plan.epoch == 1
        assert plans.of(0).plan.epoch == 0
        plans.move_on()
        assert plans.is_present(1)
    assert snapshot_requests(world) == 2


@pytest.mark.parametrize("epoch", [0, 1, 2])
async def test_only_the_following_epoch_is_drawn_ahead_and_none_after_the_last(world, epoch):
    async with plans_of(world, RecordingPlanner(), epochs=1) as plans:
        await plans.draw(0, None)
        plans.move_on()
        assert not await look_ahead(plans, world, epoch)
    assert snapshot_requests(world) == 1


async def test_nothing_is_drawn_ahead_when_the_planner_cannot(world):
    planner = RecordingPlanner()
    planner.is_ahead = False
    async with plans_of(world, planner) as plans:
        await plans.draw(0, None)
        plans.move_on()
        assert not await look_ahead(plans, world, 1)
    assert planner.closed == []


async def test_a_plan_drawn_ahead_is_next_only_while_it_is_valid_and_over_the_wanted_snapshot(world):
    planner = RecordingPlanner()
    async with plans_of(world, planner) as plans:
        await plans.draw(0, None)
        ends = plans.move_on().plan.snapshot.ends
        await look_ahead(plans, world, 1)
        assert plans.is_next(1, ends)
        assert not plans.is_next(1, {"pi-a": 1})
        assert not plans.is_next(2, None)
        planner.is_plan_valid = False
        assert not plans.is_next(1, None)


async def test_the_planner_is_given_an_epochs_costs_once_before_the_next_is_drawn_or_at_its_end(world):
    planner = RecordingPlanner()
    async with plans_of(world, planner, epochs=3) as plans:
        await plans.draw(0, None)
        plans.move_on()
        await look_ahead(plans, world, 1)
        assert planner.closed == [0]
        await plans.close()
        assert planner.closed == [0]
        plans.move_on()
        await plans.close()
        assert planner.closed == [0, 1]


async def test_a_survey_finds_what_the_archive_has_and_retries_an_empty_one_after_a_while(world):
    blocks, world.log.blocks = world.log.blocks, {}
    async with plans_of(world, RecordingPlanner()) as plans:
        for _ in range(3):
            assert await plans.survey() is None
        assert snapshot_requests(world) == 1
        world.log.blocks = blocks
        await asyncio.sleep(EMPTY_RETRY_S)
        surveyed = [await plans.survey() for _ in range(3)]
    assert snapshot_requests(world) == 2
    assert surveyed[-1] is not None
    assert surveyed[-1].ends == world.log.snapshot().ends
