"""The times of an epoch."""

import asyncio

import pytest

from edged.domain.nn.model import Division
from edged.domain.training.state import TrainState
from edged.services.training.stopwatch import Stopwatch

pytestmark = pytest.mark.looptime


async def test_times_since_the_start_are_added_to_the_tally_and_counted_once():
    total = {"wait": 3.0, "decode": 1.0}
    stopwatch = Stopwatch(lambda: total["wait"], lambda: total["decode"])
    state = TrainState({}, {}, "job", Division(1, 8))
    stopwatch.start()
    await asyncio.sleep(10)
    total |= {"wait": 7.0, "decode": 1.5}
    stopwatch.measure(state)
    assert (state.tally.seconds, state.tally.wait_s, state.tally.decode_s) == (10.0, 4.0, 0.5)
    await asyncio.sleep(2)
    stopwatch.measure(state)
    assert (state.tally.seconds, state.tally.wait_s, state.tally.decode_s) == (12.0, 4.0, 0.5)
