"""Closing what belongs to aiokafka: it may hang, and it may swallow a cancellation."""

import asyncio
import contextlib

import pytest

from edged.adapters.kafka.connection import abandon


async def close_that_swallows_cancellation() -> None:
    """As aiokafka's, which awaits a task of its own that it has cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def test_a_cancellation_that_meets_a_closing_client_is_not_lost():
    task = asyncio.create_task(abandon(close_that_swallows_cancellation))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.looptime
@pytest.mark.parametrize("close", [close_that_swallows_cancellation, asyncio.Event().wait])
async def test_a_client_that_hangs_in_closing_is_left(close):
    """Without raising anything: nobody was cancelled."""
    await asyncio.wait_for(abandon(close), 5)


@pytest.mark.looptime
async def test_a_client_is_closed_within_a_cancellation_too():
    """A reader is closed while its user is being cancelled; that alone is no further cancellation."""

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await abandon(asyncio.Event().wait)
            return "closed"
        return ""

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "closed"
