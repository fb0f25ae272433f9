"""The trainer gets every pack, from memory or from the topic."""

import asyncio
import tracemalloc

import pytest
import structlog

from edged.adapters.memory.log import MemoryLog
from edged.domain.place import Place
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import MAX_BYTES, Sample
from edged.ports import Message, TopicPartition
from edged.services.ingest.live_window import LiveWindow
from tests.support.intake import GREY


def a_pack(number, num_bytes=8):
    return Pack("grey", (Sample("cam", 0, number, 0, None, "raw", bytes(num_bytes)),), {"cam/0": Place(number + 1)})


async def uplink_puts(log, live, *numbers, num_bytes=8):
    """What the uplink does: acknowledged first, then put."""
    for number in numbers:
        pack = a_pack(number, num_bytes)
        (offset,) = await log.append([Message(GREY, packs.encode(pack))])
        live.put(offset, pack)


async def take_all(live, offset=0):
    """All packs from `offset` to the end, as a trainer takes them."""
    taken = []
    while offset < (live.end() or 0):
        found = await live.take(offset, timeout_s=1)
        assert found is not None
        taken.append(found)
        offset = found[0] + 1
    return taken


@pytest.fixture
def log():
    return MemoryLog()


@pytest.fixture
def live(log):
    window = LiveWindow(log, GREY, max_bytes=10 * a_pack(0).memory_bytes)
    window.start(0)
    return window


def without_the_topic(log, monkeypatch):
    monkeypatch.setattr(log, "reader", lambda *_, **__: pytest.fail("read from the topic"))


async def test_new_packs_come_from_memory(log, live, monkeypatch):
    without_the_topic(log, monkeypatch)
    await uplink_puts(log, live, *range(10))
    assert await take_all(live) == [(n, a_pack(n)) for n in range(10)]


async def test_evicted_packs_come_from_the_topic(log, live):
    await uplink_puts(log, live, *range(50))
    assert live.num_bytes == 10 * a_pack(0).memory_bytes
    assert live.take_nowait(3) is None
    assert await take_all(live) == [(n, a_pack(n)) for n in range(50)]


async def test_the_memory_of_small_readings_is_bounded_too(log):
    """Their objects, and the cursors of many devices, take more than their payloads."""
    live = LiveWindow(log, GREY)
    live.start(0)
    cursors = {f"cam-{device}/0": Place(device) for device in range(300)}
    tracemalloc.start()
    for number in range(2000):
        sample = Sample("cam", 0, number, 1_700_000_000_000 + number, "dark", "raw", b"%08d" % number)
        live.put(number, Pack("grey", (sample,), dict(cursors)))
    held, _most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < (4 << 20) * 1.2


async def test_memory_is_bounded_while_the_trainer_lags(log):
    live = LiveWindow(log, GREY)
    live.start(0)
    await uplink_puts(log, live, *range(30), num_bytes=MAX_BYTES)
    offset, peak = 0, 0
    while offset < (live.end() or 0):
        found = await live.take(offset, timeout_s=1)
        assert found is not None
        offset = found[0] + 1
        peak = max(peak, live.num_bytes)
    assert peak <= (4 << 20) + (2 << 20) + 4 * a_pack(0, MAX_BYTES).memory_bytes


async def test_a_restarted_trainer_resumes_at_its_offset(log, live):
    await uplink_puts(log, live, *range(20))
    restarted = LiveWindow(log, GREY)
    restarted.start(20)
    assert await take_all(restarted, 7) == [(n, a_pack(n)) for n in range(7, 20)]


@pytest.mark.looptime
async def test_take_waits_for_the_next_pack(log, live):
    waiting = asyncio.create_task(live.take(0, timeout_s=5))
    await asyncio.sleep(1)
    assert not waiting.done()
    await uplink_puts(log, live, 0)
    assert await waiting == (0, a_pack(0))


@pytest.mark.looptime
async def test_take_times_out(log, live):
    assert await live.take(0, timeout_s=5) is None
    assert asyncio.get_running_loop().time() == pytest.approx(5)


@pytest.mark.looptime
async def test_nothing_is_taken_before_the_end_is_known(log):
    await log.append([Message(GREY, packs.encode(a_pack(0)))])
    live = LiveWindow(log, GREY)
    assert await live.take(0, timeout_s=1) is None
    live.start(1)
    assert await live.take(0, timeout_s=1) == (0, a_pack(0))


@pytest.mark.looptime
async def test_while_the_broker_is_away_memory_still_serves(log, live):
    await uplink_puts(log, live, *range(20))
    log.unavailable = True
    assert await live.take(19, timeout_s=1) == (19, a_pack(19))
    assert await live.take(0, timeout_s=1) is None
    log.unavailable = False
    assert await live.take(0, timeout_s=1) == (0, a_pack(0))


async def test_expired_packs_are_skipped(log, live):
    await uplink_puts(log, live, *range(30))
    log.truncate(TopicPartition(GREY), 12)
    with structlog.testing.capture_logs():
        assert await live.take(3, timeout_s=1) == (12, a_pack(12))
        assert live.take_nowait(3) == (12, a_pack(12))


@pytest.mark.looptime
async def test_when_all_packs_have_expired_the_next_pack_is_the_first(log, live):
    restarted = LiveWindow(log, GREY)
    await uplink_puts(log, live, *range(5))
    log.truncate(TopicPartition(GREY), 5)
    restarted.start(5)
    with structlog.testing.capture_logs():
        assert await restarted.take(2, timeout_s=1) is None
        await uplink_puts(log, restarted, 5)
        assert await restarted.take(2, timeout_s=1) == (5, a_pack(5))


@pytest.mark.parametrize("foreign", [3, 19])
async def test_a_record_that_is_no_pack_is_skipped(log, live, foreign):
    await uplink_puts(log, live, *range(foreign))
    await log.append([Message(GREY, b"not a pack")])
    await uplink_puts(log, live, *range(foreign + 1, 20))
    restarted = LiveWindow(log, GREY)
    restarted.start(20)
    with structlog.testing.capture_logs() as lines:
        found = await restarted.take(foreign, timeout_s=0.1)
    assert found == ((4, a_pack(4)) if foreign == 3 else None)
    assert lines[0]["event"] == "uplink.malformed"
    assert await live.take(foreign - 1, timeout_s=1) == (foreign - 1, a_pack(foreign - 1))


async def test_a_record_of_another_writer_between_two_packs_shifts_no_offset(log, live):
    await uplink_puts(log, live, 0, 1)
    await log.append([Message(GREY, b"not a pack")])
    await uplink_puts(log, live, 3, 4)
    with structlog.testing.capture_logs():
        assert [offset for offset, _ in await take_all(live)] == [0, 1, 3, 4]


@pytest.mark.looptime
async def test_a_recreated_topic_is_read_from_its_end(log, live):
    with structlog.testing.capture_logs() as lines:
        waiting = asyncio.create_task(live.take(500, timeout_s=5))
        await asyncio.sleep(0.1)
        await uplink_puts(log, live, 0)
        assert await waiting == (0, a_pack(0))
    assert [line["event"] for line in lines] == ["uplink.rewound"]


async def test_packs_acknowledged_but_not_put_yet_are_not_taken_early(log, live):
    await uplink_puts(log, live, *range(20))
    await log.append([Message(GREY, packs.encode(a_pack(20)))])
    assert [offset for offset, _ in await take_all(live)] == list(range(20))
    live.put(20, a_pack(20))
    assert await live.take(20, timeout_s=1) == (20, a_pack(20))


async def test_a_cancelled_take_loses_nothing(log, live):
    await uplink_puts(log, live, *range(20))
    for turns in range(12):
        taking = asyncio.create_task(live.take(0, timeout_s=1))
        for _ in range(turns):
            await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait([taking])
    assert await take_all(live) == [(n, a_pack(n)) for n in range(20)]
