"""Live samples as mini-batches."""

from dataclasses import replace

import pytest

from edged.domain.archive import snapshot
from edged.domain.archive.source_log import address_in_log
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import Pack
from edged.domain.topology import Training
from edged.ports import Message
from edged.services.batches import live as live_module
from edged.services.batches.live import Cursor, LiveBatches
from edged.services.ingest.live_window import LiveWindow
from tests.support.training_world import LIVE, TRAINING, World, make_pack

pytestmark = pytest.mark.looptime


@pytest.fixture
def world(log_lines) -> World:  # which puts logging back in the end
    return World()


async def put(world: World, live: LiveWindow, count: int) -> None:
    for _ in range(count):
        pack = make_pack(len(world.log.records(LIVE)), 20)
        (offset,) = await world.log.append([Message(LIVE, packs.encode(pack))])
        live.put(offset, pack)


async def held_out(batches: LiveBatches) -> int:
    return sum([len(batch) async for batch in batches.held_out()])


def training_rows(offset: int) -> int:
    return int((~snapshot.test_rows("pi-a", offset, 20, TRAINING.test_fraction)).sum())


async def test_a_partial_batch_is_not_returned(world):
    world.training = Training("toy", TRAINING.model, global_batch=training_rows(0) + 1, test_fraction=0.2)
    live = world.live_window()
    batches = world.live_batches(live)
    batches.start(Cursor(0, 0))
    await put(world, live, 1)
    assert await batches.next_nowait() is None
    await put(world, live, 1)
    found = await batches.next_nowait()
    assert found is not None
    batch, cursor = found
    assert len(batch) == training_rows(0) + 1
    assert cursor.offset == 1


async def test_the_first_start_begins_at_the_logs_end(world):
    live = world.live_window()
    await put(world, live, 3)
    assert world.live_batches(live).start(Cursor(-1, 0)) == Cursor(3, 0)
    assert world.live_batches(live).start(Cursor(1, 4)) == Cursor(1, 4)


async def test_a_first_start_before_the_logs_end_is_known_waits_for_it(world):
    """Otherwise a trainer that starts before the uplink would train on all that the log still keeps."""
    live = LiveWindow(world.log, LIVE)
    batches = world.live_batches(live)
    assert batches.start(Cursor(-1, 0)).offset < 0
    assert await batches.next_nowait() is None
    await world.log.append([Message(LIVE, b"older")])
    live.start(1)
    assert await batches.next_nowait() is None
    await put(world, live, 2)
    found = await batches.next_nowait()
    assert found is not None
    assert found[1].offset >= 1


async def test_held_out_samples_are_those_of_the_archives_split(world):
    live = world.live_window()
    batches = world.live_batches(live)
    batches.start(Cursor(0, 0))
    await put(world, live, 5)
    num_trained = 0
    while (found := await batches.next_nowait()) is not None:
        num_trained += len(found[0])
    assert num_trained == sum(map(training_rows, range(5))) // 8 * 8
    assert await held_out(batches) == sum(20 - training_rows(offset) for offset in range(5))


@pytest.mark.parametrize(("max_held_out", "max_bytes", "expected"), [(6, 1 << 20, 6), (1000, 4 * 5, 5)])
async def test_held_out_samples_are_bounded_in_number_and_bytes(world, monkeypatch, max_held_out, max_bytes, expected):
    monkeypatch.setattr(live_module, "MAX_HELD_OUT", max_held_out)
    live = world.live_window()
    batches = LiveBatches(
        live,
        world.batcher(),
        world.batcher(),
        stream="toy",
        edge="pi-a",
        test_fraction=0.5,
        held_out_bytes=max_bytes,
        poll_s=1,
    )
    batches.start(Cursor(0, 0))
    await put(world, live, 5)
    while await batches.next_nowait() is not None:
        assert batches.num_bytes <= max_bytes
    assert await held_out(batches) == expected


async def test_packs_no_longer_in_memory_are_read_back(world):
    live = LiveWindow(world.log, LIVE, max_bytes=100)
    live.start(0)
    await put(world, live, 6)
    batches = world.live_batches(live)
    batches.start(Cursor(0, 0))
    num_trained = 0
    while (found := await batches.next_nowait()) is not None:
        num_trained += len(found[0])
    assert num_trained == sum(map(training_rows, range(6))) // 8 * 8


async def test_a_live_sample_that_cannot_be_used_is_named_by_what_its_device_published(world):
    live = world.live_window()
    batches = world.live_batches(live)
    batches.start(Cursor(0, 0))
    samples = list(make_pack(3, 20).samples)
    samples[7] = bad = replace(samples[7], payload=b"short")
    (offset,) = await world.log.append([Message(LIVE, packs.encode(pack := Pack("toy", tuple(samples))))])
    live.put(offset, pack)
    await put(world, live, 2)
    while await batches.next_nowait() is not None:
        pass
    assert await held_out(batches)

    (line,) = world.events("train.left_out")
    assert (line["address"], line["reason"]) == (f"toy/@cam/0/{bad.offset}", "wrong_length")
    assert batches.num_left_out == 1


async def test_a_cursor_of_another_log_becomes_the_beginning_of_the_one_that_there_is(world):
    live = world.live_window()
    live.start(0, "first")
    await put(world, live, 3)
    batches = world.live_batches(live)
    assert batches.start(Cursor(-1, 0)) == Cursor(3, 0, "first")
    world.log.delete(LIVE)
    live.start(0, "second")
    assert live.num_bytes == 0
    await put(world, live, 5)
    batch, cursor = await batches.next()

    assert cursor.log == "second"
    assert cursor.offset < 5
    assert world.live_batches(live).start(Cursor(2, 5, "first")) == Cursor(0, 0, "second")
    assert world.live_batches(live).start(Cursor(2, 5, "second")) == Cursor(2, 5, "second")
    assert len(batch) > 0


async def test_what_is_held_out_live_is_held_out_of_the_archives_epochs(world):
    live = world.live_window()
    live.start(0, "its-log")
    await put(world, live, 4)
    batches = world.live_batches(live)
    batches.start(Cursor(0, 0, "its-log"))
    while await batches.next_nowait():
        pass

    addresses = [address_in_log("pi-a", "its-log", offset) for offset in range(4)]
    expected = sum(snapshot.test_rows(*each, 20, TRAINING.test_fraction).sum() for each in addresses)
    assert await held_out(batches) == expected
