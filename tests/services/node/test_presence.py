"""Runs of one node on one log: which goes on, and what a run does without."""

import asyncio
import contextlib

import pytest

from edged.adapters.memory.log import MemoryLog
from edged.domain.presence import Process, Run
from edged.errors import AlreadyRunning, LogForbidden
from edged.ports import Message, TopicSpec
from edged.services.node.presence import Presence

pytestmark = pytest.mark.looptime

TOPIC = "lab.presence.pi-a"


class Gone:
    """A `ports.Processes`: these pids have ended."""

    def __init__(self, *pids: int) -> None:
        self.pids = set(pids)

    def is_gone(self, process: Process) -> bool:
        return process.pid in self.pids


class Refusing(MemoryLog):
    async def partitions(self, topics):
        raise LogForbidden("User:pi-a may not Read or Write topic lab.presence.pi-a")


async def made(now_ms=None) -> MemoryLog:
    log = MemoryLog(now_ms=lambda: int(1000 * asyncio.get_running_loop().time()))
    await log.ensure([TopicSpec(TOPIC)])
    return log


def presence(log, name, pid=1, gone=(), role="run"):
    run = Run(name, "pi", "/state", Process("boot", "pid:[1]", pid, 7, ""), 5.0)
    return Presence(log, TOPIC, role, run, Gone(*gone))


@contextlib.asynccontextmanager
async def running(own):
    task = asyncio.create_task(own.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_second_run_ends_within_a_beat_and_says_which_other_goes_on(log_lines):
    log = await made()
    async with running(presence(log, "a")) as older:
        await asyncio.sleep(7)
        with pytest.raises(
            AlreadyRunning, match="on pi, since 1970-01-01 00:00:00 UTC, process 1, state folder /state"
        ):
            async with asyncio.timeout(5.1):
                await presence(log, "b", pid=2).run()
        await asyncio.sleep(5)
        assert not older.done()
    told = [(line["other_run"], line["goes_on"]) for line in log_lines("presence.another_run")]
    assert sorted(told) == [("a", True), ("b", False)]


async def test_a_dead_run_is_followed_at_once_and_a_silent_one_after_its_beats(log_lines):
    log = await made()
    async with running(presence(log, "a")):
        await asyncio.sleep(1)
    async with running(again := presence(log, "b", pid=2, gone=[1])):
        async with asyncio.timeout(0.1):
            await again.admitted.wait()
    async with running(elsewhere := presence(log, "c", pid=3)):
        async with asyncio.timeout(20.1):
            await elsewhere.admitted.wait()
    begun = [(line["former"], line["former_is"], round(line["waited_s"])) for line in log_lines("presence.begun")]
    assert begun == [("", "", 0), ("a", "dead", 0), ("b", "silent", 20)]


async def test_who_leaves_is_waited_for_by_nobody():
    log = await made()
    former = presence(log, "a")
    async with running(former):
        await former.admitted.wait()
    await former.leave()
    async with running(next_one := presence(log, "b", pid=2)), asyncio.timeout(0.1):
        await next_one.admitted.wait()


async def test_roles_of_one_node_do_not_know_each_other():
    log = await made()
    async with running(presence(log, "a")), running(other := presence(log, "b", pid=2, role="infer")):
        await asyncio.sleep(30)
        assert other.admitted.is_set()


async def test_kafkas_absence_ends_no_run_and_the_older_goes_on_when_it_is_back():
    log = await made()
    async with running(presence(log, "a")) as older:
        await asyncio.sleep(1)
        log.unavailable = True
        async with running(presence(log, "b", pid=2)) as younger:
            await asyncio.sleep(3600)
            assert not older.done()
            assert not younger.done()
            log.unavailable = False
            await asyncio.sleep(10)
            assert not older.done()
            assert isinstance(younger.exception(), AlreadyRunning)


@pytest.mark.parametrize("kind", [Refusing, MemoryLog])
async def test_without_a_right_or_a_topic_it_warns_once_and_lets_the_node_work(kind, log_lines):
    async with running(own := presence(kind(), "a")):
        async with asyncio.timeout(1):
            await own.admitted.wait()
        await asyncio.sleep(600)
    [line] = log_lines("presence.unknown")
    assert TOPIC in line["reason"]


async def test_a_right_that_comes_later_is_used():
    log = MemoryLog(now_ms=lambda: int(1000 * asyncio.get_running_loop().time()))
    async with running(presence(log, "a")) as older, running(presence(log, "b", pid=2)) as younger:
        await asyncio.sleep(1)
        await log.ensure([TopicSpec(TOPIC)])
        await asyncio.sleep(60)
        assert [older.done(), younger.done()].count(True) == 1


async def test_a_recreated_topic_is_claimed_again():
    log = await made()
    async with running(presence(log, "a")) as older:
        await asyncio.sleep(60)
        log.delete(TOPIC)
        await log.ensure([TopicSpec(TOPIC)])
        await asyncio.sleep(10)
        with pytest.raises(AlreadyRunning):
            await presence(log, "b", pid=2).run()
        assert not older.done()


async def test_a_run_alone_reads_nothing_and_writes_once_a_beat():
    log = await made()
    async with running(presence(log, "a")):
        await asyncio.sleep(100.5)
    records = log.records(TOPIC)
    assert len(records) == 21
    assert sum(len(record.value) for record in records) / len(records) < 400


async def test_a_run_of_another_version_is_told_and_holds_up_nobody(log_lines):
    log = await made()
    await log.append([Message(TOPIC, b'{"edged":"presence/2"}', key=b"run")])
    async with running(presence(log, "a")):
        await asyncio.sleep(60)
    [line] = log_lines("presence.unknown")
    assert "presence/2" in line["reason"]
    assert log_lines("presence.begun")
