"""Whoever reads a log to its end, over logs that end in what is no record, or in what counts for nobody.

Most endings hold a record that would do harm if it were believed: each service comes to the end without it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
import structlog

from edged.adapters.memory.log import MemoryLog
from edged.domain.group import records as group_records
from edged.domain.group import state_json
from edged.domain.group.records import Join, Leave, Update
from edged.domain.group.state import State
from edged.domain.place import Place
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import Pack
from edged.ports import Message, TopicPartition
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.ingest.live_window import LiveWindow
from tests.services.archive import test_archiver as archiving
from tests.services.group.test_follower import follower, join, write
from tests.services.group.test_parameter_server import log as append
from tests.services.group.test_parameter_server import serving, update
from tests.services.inference import test_companion as inference
from tests.support.archive_samples import pack
from tests.support.group_checkpoints import CHECKPOINTS, best, publisher, state
from tests.support.group_world import TRAIN, GroupWorld
from tests.support.intake import GREY, archived, from_device, grey, identities, intake, run_until

pytestmark = pytest.mark.looptime

End = Callable[[MemoryLog, Message], None]


def in_nothing(log: MemoryLog, harmful: Message) -> None:
    """A marker, or a batch that nobody can read."""
    log.skip(TopicPartition(harmful.topic), 2)


def compacted(log: MemoryLog, harmful: Message) -> None:
    """A hole, and the marker of the transaction whose record was there."""
    transaction = log.transaction()
    [offset] = transaction.append([harmful])
    transaction.commit()
    log.compact(TopicPartition(harmful.topic), offset, offset + 1)


def aborted(log: MemoryLog, harmful: Message) -> None:
    transaction = log.transaction()
    transaction.append([harmful])
    transaction.abort()


def held_open(log: MemoryLog, harmful: Message) -> None:
    log.transaction().append([harmful])


@pytest.fixture(params=[in_nothing, compacted, aborted, held_open])
def ends(request: pytest.FixtureRequest) -> End:
    end: End = request.param
    return end


@pytest.fixture(params=[in_nothing, compacted, aborted])
def ends_for_good(request: pytest.FixtureRequest) -> End:
    """What follows an open transaction has to wait."""
    end: End = request.param
    return end


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest):
    if "log_lines" in request.fixturenames:
        yield
        return
    with structlog.testing.capture_logs():
        yield


async def test_an_edges_intake_resumes_after_its_last_pack(ends: End):
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(3)])
    await run_until(intake(log).uplink, lambda: len(identities(archived(log))) == 3)
    ends(log, Message(GREY, packs.encode(Pack("grey", (), {"cam/0": Place(5)}))))
    await log.append([from_device("cam", grey(n)) for n in range(3, 6)])

    again = intake(log)
    await run_until(again.uplink, lambda: len(identities(archived(log))) == 6)

    assert len(set(identities(archived(log)))) == 6


async def test_an_edges_intake_reads_its_devices_to_the_end(ends: End):
    log = MemoryLog()
    await log.append([from_device("cam", grey(n)) for n in range(3)])
    ends(log, from_device("cam", grey(99)))

    started = intake(log)
    await run_until(started.uplink, lambda: len(identities(archived(log))) == 3 and not started.ingest.lag_by_topic())

    assert {offset for *_, offset in identities(archived(log))} == {0, 1, 2}


async def test_a_live_window_passes_them(ends: End):
    log = MemoryLog()
    [offset] = await log.append([Message(GREY, packs.encode(Pack("grey", ())))])
    ends(log, Message(GREY, packs.encode(Pack("grey", ()))))
    live = LiveWindow(log, GREY)
    live.start((await log.watermarks([TopicPartition(GREY)]))[TopicPartition(GREY)].high)

    assert (await live.take(0, timeout_s=1) or (None,))[0] == offset
    waiting = asyncio.create_task(live.take(1, timeout_s=60))
    await asyncio.sleep(1)
    [following] = await log.append([Message(GREY, packs.encode(Pack("grey", ())))])
    live.put(following, Pack("grey", ()))
    assert (await waiting or (None,))[0] == following


async def test_an_archiver_stores_what_counts_and_takes_nothing_for_lost(ends_for_good: End, log_lines):
    bench = archiving.Bench()
    await bench.send(pack(0))
    ends_for_good(bench.log, Message(archiving.TOPIC_A.topic, packs.encode(pack(4))))
    await bench.send(pack(8))
    ends_for_good(bench.log, Message(archiving.TOPIC_A.topic, packs.encode(pack(12))))

    archiver = bench.archiver(flush_s=1)
    task = asyncio.create_task(archiver.run())
    await asyncio.sleep(30)
    assert archiver.statistics().lag_records == 0
    task.cancel()
    await asyncio.wait([task])

    assert bench.archived() == [*range(4), *range(8, 12)]
    assert not log_lines("archive.gap")
    assert bench.store.empty("fashion", "pi-a") == bench.store.gaps("fashion", "pi-a")


async def test_a_companion_predicts_what_counts_once_and_commits_what_it_has_passed(ends: End):
    log = await inference.log_with(4)
    ends(log, Message(inference.CAM.topic, inference.HIGH))
    async with inference.running(inference.companion(log)):
        await asyncio.sleep(30)
    assert len(inference.published(log)) == 4
    ends(log, Message(inference.PREDICTIONS, b"{}"))
    num_records = len(log.records(inference.PREDICTIONS))
    async with inference.running(inference.companion(log)):
        await asyncio.sleep(30)

    assert len(log.records(inference.PREDICTIONS)) == num_records
    end = (await log.watermarks([inference.CAM]))[inference.CAM].stable
    assert log.committed_offsets[inference.GROUP, inference.CAM] == end


async def test_a_groups_member_catches_up(ends: End, log_lines):
    world = GroupWorld()
    following = follower(world)
    await write(world, join(world, "pi-a", following.state), join(world, "pi-b", following.state))
    ends(world.log, Message(TRAIN, group_records.encode(Leave("pi-b"))))

    async with following.open(), asyncio.timeout(60):
        await following.catch_up()
        assert following.group.members["pi-b"].joined


async def test_a_group_goes_on_after_them(ends_for_good: End, log_lines):
    world = GroupWorld()
    following = follower(world)
    await write(world, join(world, "pi-a", following.state))
    ends_for_good(world.log, Message(TRAIN, group_records.encode(Leave("pi-a"))))
    await write(world, join(world, "pi-b", following.state))

    async with following.open(), asyncio.timeout(600):
        await following.catch_up()
        assert all(following.group.members[edge].joined for edge in ("pi-a", "pi-b"))


async def test_a_parameter_server_finds_its_last_update(ends: End, log_lines):
    world = GroupWorld(("pi-a",))
    await append(world, TRAIN, update(3))
    forged = replace(update(9), state=state_json.to_json(State(step=9)))
    assert isinstance(forged, Update)
    ends(world.log, Message(TRAIN, group_records.encode(forged)))

    assert await serving(world) == 3


async def test_the_newest_checkpoint_is_found(ends: End):
    log = MemoryLog()
    await publisher(log).announce(state(1))
    later = MemoryLog()
    await CheckpointPublisher(later, CHECKPOINTS).announce(state(3))
    head = later.records(CHECKPOINTS)[-1]
    ends(log, Message(CHECKPOINTS, head.value, head.key))
    await log.append([Message("site.train.toy", group_records.encode(Join("pi-a", "ab" * 32, 0, "0" * 64)))] * 4)
    ends(log, Message("site.train.toy", b""))

    async with asyncio.timeout(60):
        newest = await best(log)
    assert newest is not None
    assert newest.position.epoch == 1
