"""The window in use and those on their way."""

import pytest

from edged.domain.archive.protocol import SamplesRequest
from edged.services.epochs.loader import EpochLoader
from edged.services.epochs.plans import WindowPosition
from edged.services.epochs.prefetch import Prefetcher
from tests.support.training_world import World

pytestmark = pytest.mark.looptime


async def drawn(epochs: EpochLoader) -> Prefetcher:
    await epochs.draw(0)
    return epochs._windows


def num_requests(world: World) -> int:
    return sum(isinstance(request, SamplesRequest) for request in world.log.requests)


async def test_an_opened_window_is_complete_and_the_next_one_on_its_way(world):
    epochs = world.epochs()
    async with epochs.open():
        windows = await drawn(epochs)
        reader = await windows.open(WindowPosition(0, False, 0))
        assert reader is not None
        assert reader.is_complete
        assert num_requests(world) > 1
        assert await windows.open(WindowPosition(0, False, 0)) is reader
        assert reader.num_bytes <= windows.num_bytes <= world.prefetch_bytes


async def test_without_waiting_a_window_is_opened_once_it_has_arrived(world):
    epochs = world.epochs()
    async with epochs.open():
        windows = await drawn(epochs)
        world.log.is_silent = True
        for _ in range(3):
            assert await windows.open(WindowPosition(0, False, 0), wait=False) is None
        assert num_requests(world) == 1
        world.log.is_silent = False
        await world.log.answer(world.log.requests[-1])
        while (reader := await windows.open(WindowPosition(0, False, 0), wait=False)) is None:
            pass  # the reply comes in several records
        assert reader.is_complete


async def test_windows_before_the_opened_one_are_skipped(world):
    world.prefetch_bytes = 4096
    epochs = world.epochs()
    async with epochs.open():
        windows = await drawn(epochs)
        await windows.open(WindowPosition(0, False, 0))
        before = num_requests(world)
        assert await windows.open(WindowPosition(0, False, 1)) is not None
        assert await windows.open(WindowPosition(0, False, 3)) is not None
        assert windows.num_bytes <= world.prefetch_bytes
        assert num_requests(world) > before


async def test_after_the_last_window_there_is_none_and_the_held_out_ones_stay_on_their_way(world):
    epochs = world.epochs()
    async with epochs.open():
        windows = await drawn(epochs)
        position = WindowPosition(0, False, 0)
        while await windows.open(position) is not None:
            position = position._replace(window=position.window + 1)
        before = num_requests(world)
        assert await windows.open(position) is None
        assert await windows.open(WindowPosition(0, True, 0)) is not None
        assert num_requests(world) <= before + 1  # looking ahead; the window itself was requested before


async def test_a_window_that_is_not_of_the_plan_cannot_be_polled(world):
    epochs = world.epochs()
    async with epochs.open():
        windows = await drawn(epochs)
        with pytest.raises(AssertionError, match="fewer samples"):
            await windows.open(WindowPosition(0, False, 1000), wait=False)


async def test_closing_drops_all_windows(world):
    epochs = world.epochs()
    async with epochs.open():
        windows = await drawn(epochs)
        await windows.open(WindowPosition(0, False, 0))
        assert windows.num_bytes > 0
        windows.close()
        assert windows.num_bytes == 0
