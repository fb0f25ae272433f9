"""How a node starts, reloads and ends: by a service or by a signal."""

import asyncio
import signal
from dataclasses import replace

import pytest

from edged.adapters.memory.host import ScriptedHost
from edged.adapters.memory.log import MemoryLog
from edged.adapters.memory.notifier import RecordingNotifier
from edged.app.supervision import supervise
from edged.domain.topology import Device
from edged.ports import HostSample, Progress, Statistics
from edged.services.node.health import HealthBoard
from edged.settings import Timing, TopologyInUse
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
            TopologyInUse(VALID),
            "pi-a",
            {"infer": Bereft(), **others},
            read=lambda: VALID,
            log=MemoryLog(),
            health=HealthBoard(),
            host=ScriptedHost([HostSample(0.0, 0, 0)]),
            notifier=RecordingNotifier(),
            timing=Timing(),
        )

    [crash] = log_lines("life.crashed")
    assert code == 1
    assert "the service infer" in crash["err"]


class Brief(Working):
    """Fails after two minutes."""

    async def run(self) -> None:
        await asyncio.sleep(120)
        raise RuntimeError


@pytest.mark.looptime
async def test_a_node_without_a_topic_that_it_may_not_make_is_degraded_by_it(log_lines):
    log = MemoryLog()
    log.creates_topics = False
    await supervise(
        TopologyInUse(VALID),
        "pi-a",
        {"brief": Brief()},
        read=lambda: VALID,
        log=log,
        health=HealthBoard(),
        host=ScriptedHost([HostSample(0.0, 0, 0)]),
        notifier=RecordingNotifier(),
        timing=Timing(),
    )
    device = VALID.devices_of("pi-a")[0].name
    assert f"device/{device}" in [line["part"] for line in log_lines("health.degraded")]


class Node:
    """A node under supervision with one service. `file`: what is read again."""

    def __init__(self, service):
        self.file = VALID
        self.in_use = TopologyInUse(VALID)
        self.log = MemoryLog()
        self.notices = RecordingNotifier()
        self._service = service

    async def run(self) -> int:
        async with asyncio.timeout(30):
            return await supervise(
                self.in_use, "pi-a", {"train": self._service}, read=lambda: self.file, log=self.log,
                health=HealthBoard(), host=ScriptedHost([HostSample(0.0, 0, 0)]), notifier=self.notices,
                timing=Timing(),
            )  # fmt: skip

    def told(self, *of_interest):
        return [what for what, _ in self.notices.sent if what in of_interest]


class Stepwise(Working):
    """Does what the test gives it to do, then stops the node; `at_stop` while that goes on."""

    def __init__(self, then, at_stop=lambda: None):
        self._then = then
        self._at_stop = at_stop

    async def run(self) -> None:
        await self._then()
        signal.raise_signal(signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            self._at_stop()


@pytest.fixture(autouse=True)
def held_back():
    """SIGHUP waits, as from the first line of a node's process on, and afterwards as before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    while signal.SIGHUP in signal.sigpending():
        signal.sigwait({signal.SIGHUP})
    signal.signal(signal.SIGHUP, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def test_a_hangup_has_the_topology_read_again_and_the_node_goes_on(log_lines):
    async def hang_up():
        node.file = replace(VALID, jobs=(replace(VALID.jobs[0], checkpoint_s=60.0),))
        signal.raise_signal(signal.SIGHUP)
        assert (await node.in_use.other_than(VALID)) is node.file

    node = Node(Stepwise(hang_up))
    assert await node.run() == 0
    assert node.told("ready", "reloading", "stopping")[:2] == ["ready", "reloading"]
    assert log_lines("config.reloaded")[0]["keys"] == ["training.checkpoint"]


async def test_a_hangup_while_the_node_starts_is_a_reload_once_it_is_ready():
    async def wait():
        await node.in_use.other_than(VALID)

    node = Node(Stepwise(wait))
    node.file = replace(VALID, jobs=(replace(VALID.jobs[0], checkpoint_s=60.0),))
    for _ in range(100):
        signal.raise_signal(signal.SIGHUP)
    assert await node.run() == 0
    assert node.told("ready", "reloading")[:3] == ["ready", "reloading", "ready"]


async def test_hangups_while_the_node_stops_change_nothing(log_lines):
    async def nothing():
        await asyncio.sleep(0)

    node = Node(Stepwise(nothing, at_stop=lambda: signal.raise_signal(signal.SIGHUP)))
    assert await node.run() == 0
    signal.raise_signal(signal.SIGHUP)  # behind the services, on the way to the end of the process
    assert node.told("ready", "reloading", "stopping") == ["ready", "stopping"]
    assert log_lines("life.stopped")[0]["exit_code"] == 0


async def test_the_topics_of_what_a_reload_has_brought_are_made(monkeypatch):
    made = []

    async def ensure(topics):
        made.append([topic.name for topic in topics])
        if len(made) == 2:
            arrived.set()
        return []

    async def hang_up():
        node.in_use.replace(replace(VALID, iot=(*VALID.iot, Device("new", "pi-a", "tiles"))))
        await arrived.wait()

    arrived, node = asyncio.Event(), Node(Stepwise(hang_up))
    monkeypatch.setattr(node.log, "ensure", ensure)
    assert await node.run() == 0
    assert "lab.iot.cam" in made[0]
    assert made[1:] == [["lab.iot.new"]]
