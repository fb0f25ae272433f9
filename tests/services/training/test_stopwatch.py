"""The times of an epoch."""

import asyncio

import pytest

from edged.adapters.memory.lane_clock import ScriptedLaneClock
from edged.domain.nn.model import Division
from edged.domain.training.state import TrainState
from edged.services.training.stopwatch import Stopwatch

pytestmark = pytest.mark.looptime


async def test_times_since_the_start_are_added_to_the_tally_and_counted_once():
    total = {"wait": 3.0, "decode": 1.0}
    stopwatch = Stopwatch(lambda: total["wait"], lambda: total["decode"], ScriptedLaneClock())
    state = TrainState({}, {}, "job", Division(1, 8))
    stopwatch.start()
    await asyncio.sleep(10)
    total |= {"wait": 7.0, "decode": 1.5}
    stopwatch.measure(state)
    assert (state.tally.seconds, state.tally.wait_s, state.tally.decode_s) == (10.0, 4.0, 0.5)
    await asyncio.sleep(2)
    stopwatch.measure(state)
    assert (state.tally.seconds, state.tally.wait_s, state.tally.decode_s) == (12.0, 4.0, 0.5)


async def test_the_share_of_the_time_in_which_the_lanes_were_blocked_counts_whatever_they_waited_for():
    lanes = ScriptedLaneClock(0.5, asyncio.get_running_loop().time)
    stopwatch = Stopwatch(lambda: 0.0, lambda: 0.0, lanes)
    state = TrainState({}, {}, "job", Division(1, 8))
    await asyncio.sleep(100)  # before the epoch
    stopwatch.start()
    await asyncio.sleep(6)
    stopwatch.measure(state)
    await asyncio.sleep(4)
    stopwatch.measure(state)
    assert (state.lane_time.seconds, state.lane_time.blocked_fraction) == (10.0, 0.5)


@pytest.mark.parametrize("becomes_unreadable", [False, True])
async def test_a_share_that_cannot_be_read_is_none_and_no_zero(becomes_unreadable):
    lanes = ScriptedLaneClock(0.5 if becomes_unreadable else None, asyncio.get_running_loop().time)
    stopwatch = Stopwatch(lambda: 0.0, lambda: 0.0, lanes)
    state = TrainState({}, {}, "job", Division(1, 8))
    stopwatch.start()
    lanes.share = None
    await asyncio.sleep(6)
    stopwatch.measure(state)
    assert state.lane_time.blocked_fraction is None
