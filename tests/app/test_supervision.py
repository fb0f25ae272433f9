"""How a node ends when one of its services does."""

import asyncio

import pytest

from edged.adapters.memory.host import ScriptedHost
from edged.adapters.memory.log import MemoryLog
from edged.adapters.memory.notifier import RecordingNotifier
from edged.app.supervision import supervise
from edged.ports import HostSample, Progress, Statistics
from edged.services.node.health import HealthBoard
from edged.settings import Timing
from tests.support.valid_topology import VALID


class Working:
    """A service with nothing to do."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    def progress(self) -> Progress:
        return Progress(0, idle=True)

    def statistics(self) -> Statistics:
        return Statistics()


class Bereft(Working):
    """Waits for a library's task, which the library cancels."""

    async def run(self) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        task.cancel()
        await task


@pytest.mark.parametrize("others", [{}, {"other": Working()}])
async def test_a_service_that_a_librarys_cancellation_ends_ends_the_node_with_a_failure(others, log_lines):
    """systemd starts it again, which it would not after an end without one."""
    async with asyncio.timeout(10):
        code = await supervise(
            VALID,
            "pi-a",
            {"infer": Bereft(), **others},
            log=MemoryLog(),
            health=HealthBoard(),
            host=ScriptedHost([HostSample(0.0, 0, 0)]),
            notifier=RecordingNotifier(),
            timing=Timing(),
        )

    [crash] = log_lines("life.crashed")
    assert code == 1
    assert "the service infer" in crash["err"]
