"""An epoch's mini-batches: their order, prefetching, lost replies, a silent archive."""

import asyncio
from contextlib import aclosing

import numpy as np
import pytest

from edged.adapters.memory.archive import MemoryArchive
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesRequest, SnapshotPart, SnapshotRequest
from edged.domain.archive.quarantine import Action
from edged.domain.archive.snapshot import BlockRef
from edged.domain.epochs import split
from edged.domain.epochs.plan import CachedWindow, CachePlan
from edged.domain.samples.address import parse
from edged.domain.samples.border import Border
from edged.ports import Message
from edged.services.archive import quarantine
from edged.services.archive.epoch_server import EpochServer
from edged.services.epochs.loader import EpochLoader
from tests.support.training_world import EPOCHS, REQUESTS, STREAM, AnsweringLog, World, make_pack, mini_batches

pytestmark = pytest.mark.looptime


def windows(plan: CachePlan) -> list[CachedWindow]:
    made: list[CachedWindow] = []
    while (window := plan.window(len(made))) is not None:
        made.append(window)
    return made


def planned_ids(plan: CachePlan) -> list[int]:
    return [sample_id for window in windows(plan) for sample_id in window.ids.tolist()]


async def read(epochs: EpochLoader, plan: CachePlan, first: int = 0) -> tuple[list[int], list[int], list[int]]:
    """(ids, sizes of batches, indices after them) of the rest of the epoch."""
    ids: list[int] = []
    sizes, ends = [], []
    async with aclosing(mini_batches(epochs, plan, first)) as batches:
        async for batch, index in batches:
            ids += batch.ids.tolist()
            sizes.append(len(batch))
            ends.append(index)
    return ids, sizes, ends


async def test_batches_follow_the_plan_and_all_but_the_last_are_full(world):
    epochs = world.epochs()
    async with epochs.open():
        plan = await epochs.draw(0)
        ids, sizes, _ = await read(epochs, plan)
    assert len(windows(plan)) > 2
    assert ids == planned_ids(plan)
    assert set(sizes[:-1]) == {8}


async def test_pixels_and_classes_are_those_of_the_id(world):
    epochs = world.epochs()
    async with epochs.open():
        plan = await epochs.draw(0)
        async for batch, _ in mini_batches(epochs, plan):
            for x, y, sample_id in zip(batch.x, batch.y, batch.ids, strict=True):
                sample = world.log.sample(int(sample_id))
                assert STREAM.labels[y] == sample.label
                expected = np.frombuffer(sample.payload, np.uint8).astype(np.float32) / np.float32(255)
                assert x.tobytes() == expected.tobytes()
                assert x.shape == STREAM.shape


async def test_another_process_resumes_exactly_at_the_index_of_any_batch(world):
    epochs = world.epochs()
    async with epochs.open():
        plan = await epochs.draw(0)
        ids, sizes, ends = await read(epochs, plan)
    for count, index in enumerate(ends, start=1):
        again = world.epochs()
        async with again.open():
            rest, _, _ = await read(again, await again.draw(0, plan.snapshot.ends), index)
        assert rest == ids[sum(sizes[:count]) :]


async def test_held_out_samples_are_never_trained_and_always_the_same(world):
    epochs = world.epochs()
    held_out = []
    async with epochs.open():
        for epoch in (0, 1):
            plan = await epochs.draw(epoch)
            trained, _, _ = await read(epochs, plan)
            held_out.append([i async for batch in epochs.held_out() for i in batch.ids.tolist()])
            assert set(held_out[-1]) | set(trained) == set(range(plan.snapshot.num_samples))
            assert not set(held_out[-1]) & set(trained)
    assert held_out[0] == held_out[1]


async def test_the_next_window_is_requested_while_this_one_is_in_use(world):
    """Also across the epoch's end: one ahead, more while they fit the budget, and none twice."""
    epochs = world.epochs()
    num_windows = 0
    async with epochs.open():
        for epoch in (0, 1):
            plan = await epochs.draw(epoch)
            num_windows += len(windows(plan)) + num_held_out_windows(world)
            index_of = {window.fetch.refs: index for index, window in enumerate(windows(plan))}
            async for _, index in mini_batches(epochs, plan):
                requested = [r.refs for r in world.log.requests if isinstance(r, SamplesRequest)]
                in_use, _ = plan.locate(index - 1)
                ahead = {index_of[refs] for refs in requested if index_of.get(refs, -1) > in_use}
                if in_use + 1 < len(windows(plan)):
                    assert in_use + 1 in ahead
                held = sum(windows(plan)[index].fetch.num_bytes for index in {in_use, *ahead})
                assert len(ahead) <= 1 or held <= world.prefetch_bytes
            async for _ in epochs.held_out():
                pass
            first = len(world.log.requests)
        assert len(world.log.requests) == first  # nothing ends the last epoch
    refs = [request.refs for request in world.log.requests if isinstance(request, SamplesRequest)]
    assert sum(isinstance(request, SnapshotRequest) for request in world.log.requests) == 2
    assert len(refs) == num_windows


def num_held_out_windows(world: World) -> int:
    snapshot, window_bytes = world.log.snapshot(), world.prefetch_bytes // 2
    return len(split.held_out_windows(snapshot, test_fraction=0.2, window_bytes=window_bytes, max_samples=10_000))


async def test_with_a_fast_archive_the_second_epoch_never_waits(world):
    epochs = world.epochs()
    async with epochs.open():
        plan = await epochs.draw(0)
        await read(epochs, plan)
        async for _ in epochs.held_out():
            pass
        world.log.is_silent = True
        plan = await asyncio.wait_for(epochs.draw(1), 1)
        async for _ in mini_batches(epochs, plan):
            break
    assert plan.epoch == 1


async def test_windows_in_memory_stay_within_the_prefetch_budget(world):
    world.prefetch_bytes = 4096
    epochs = world.epochs()
    peak_bytes = 0
    async with epochs.open():
        plan = await epochs.draw(0)
        async for _ in mini_batches(epochs, plan):
            peak_bytes = max(peak_bytes, epochs.num_bytes)
    assert len(windows(plan)) > 4
    assert 0 < peak_bytes <= 4096


async def prepare(epochs: EpochLoader, first: int, stop: int) -> None:
    while not await epochs.prepare(first, stop):  # noqa: ASYNC110 - what is on its way has arrived at some call
        await asyncio.sleep(0.1)


async def test_a_range_stays_valid_while_the_next_one_is_prepared(world):
    epochs = world.epochs()
    async with epochs.open():
        plan = await epochs.draw(0)
        await epochs.begin(plan)
        await prepare(epochs, 0, 8)
        batch = await epochs.take()
        ids, x = batch.ids.tolist(), batch.x.copy()
        await prepare(epochs, 8, 16)
        following = await epochs.take()
        assert batch.ids.tolist() == ids == planned_ids(plan)[:8]
        assert (batch.x == x).all()
        assert following.ids.tolist() == planned_ids(plan)[8:16]


async def test_missing_samples_are_left_out_and_logged(world):
    missing = {(BlockRef("_train.toy", 0), row) for row in range(5)}
    world.log.missing = missing
    epochs = world.epochs()
    async with epochs.open():
        plan = await epochs.draw(0)
        ids, sizes, _ = await read(epochs, plan)
    first = int(plan.snapshot.first_id[plan.snapshot.sources.index("_train.toy")])  # a source of one block before it
    assert sorted(set(planned_ids(plan)) - set(ids)) == [first + row for row in range(5)]
    assert set(sizes[:-1]) == {8}
    assert sum(line["samples"] for line in world.events("epoch.missing")) == 5


async def test_unlabelled_and_undecodable_samples_are_left_out_and_logged(world):
    world.log.blocks[BlockRef("_train.toy", 1)] = make_pack(7, 12, unlabelled=[0, 3])
    world.log.blocks[BlockRef("_train.toy", 2)] = make_pack(8, 12, codec="jpeg")
    epochs = world.epochs()
    async with epochs.open():
        plan = await epochs.draw(0)
        ids, sizes, _ = await read(epochs, plan)
        await epochs.end()
    assert len(ids) == len(planned_ids(plan)) - 14
    assert set(sizes[:-1]) == {8}
    (line,) = world.events("epoch.skipped")
    assert (line["level"], line["unlabelled"], line["undecodable"]) == ("warning", 2, 12)
    named = world.events("train.left_out")
    assert len(named) == 10, "of each reason, in 10 s"
    assert {line["address"].rpartition("/")[0] for line in named} == {"toy/_train.toy/2"}
    assert {line["reason"] for line in named} == {"not_an_image"}
    assert epochs.num_left_out == 12


async def test_unlabelled_samples_alone_are_no_warning(world):
    world.log.blocks[BlockRef("_train.toy", 1)] = make_pack(7, 12, unlabelled=[0, 3])
    epochs = world.epochs()
    async with epochs.open():
        await read(epochs, await epochs.draw(0))
        await epochs.end()
    (line,) = world.events("epoch.skipped")
    assert (line["level"], line["unlabelled"], line["undecodable"]) == ("info", 2, 0)


async def test_a_silent_archive_is_reported_within_ten_seconds_and_the_request_repeated(world):
    epochs = world.epochs()
    async with epochs.open():
        world.log.is_silent = True
        task = asyncio.create_task(epochs.draw(0))
        await asyncio.sleep(7)
        assert "archive" not in world.health.reasons
        await asyncio.sleep(3)
        assert "archive" in world.health.reasons
        assert len(world.log.requests) == 1
        world.log.is_silent = False
        await asyncio.sleep(7)
        assert len(world.log.requests) == 2
        assert "archive" not in world.health.reasons
        assert (await task).window(0) is not None
    assert len(world.events("epoch.asked_again")) == 1


async def test_only_the_lost_samples_are_requested_again(world):
    epochs = world.epochs()
    async with epochs.open():
        plan = await epochs.draw(0)
        world.log.loses = lambda part: part.part == 1
        world.log.requests.clear()
        task = asyncio.create_task(read(epochs, plan))
        await asyncio.sleep(14)
        assert not world.events("epoch.asked_again")
        await asyncio.sleep(6)
        world.log.loses = lambda _: False
        ids, _, _ = await task
    assert ids == planned_ids(plan)
    assert world.events("epoch.asked_again")[0]["samples"] == world.log.samples_a_part


async def test_late_duplicate_and_foreign_replies_are_harmless(world):
    epochs = world.epochs()
    async with epochs.open():
        world.log.is_silent = True
        task = asyncio.create_task(epochs.draw(0))
        await asyncio.sleep(20)  # requested twice by now
        world.log.is_silent = False
        for request in list(world.log.requests):
            await world.log.answer(request)
            await world.log.answer(request)
        foreign = SamplesRequest(
            "ffff-1", "pi-a", "toy", (BlockRef("_train.toy", 0),), (np.arange(3, dtype=np.uint16),)
        )
        await world.log.answer(foreign)
        await world.log.append([Message(EPOCHS, b"not a reply at all")])
        plan = await task
        ids, _, _ = await read(epochs, plan)
    assert ids == planned_ids(plan)
    assert world.events("epoch.malformed")


async def test_inconsistent_parts_of_a_snapshot_are_harmless(world):
    """A part too many, then the last of fewer: a snapshot is incomplete until all its parts are there."""
    epochs = world.epochs()
    async with epochs.open():
        world.log.is_silent = True
        task = asyncio.create_task(epochs.draw(0))
        await asyncio.sleep(1)
        [request] = world.log.requests
        for number, last in ((5, False), (1, True)):
            part = SnapshotPart(request.request, number, last, world.log.snapshot())
            await world.log.append([Message(EPOCHS, protocol.encode_part(part))])
        world.log.is_silent = False
        await asyncio.sleep(30)
        await task


async def test_drawing_waits_while_the_archive_is_empty(world):
    blocks, world.log.blocks = world.log.blocks, {}
    epochs = world.epochs()
    async with epochs.open():
        task = asyncio.create_task(epochs.draw(0))
        await asyncio.sleep(60)
        assert len(world.events("epoch.empty")) == 1
        assert 5 < len(world.log.requests) < 20
        world.log.blocks = blocks
        plan = await asyncio.wait_for(task, 10)
    assert plan.window(0) is not None


async def test_training_continues_with_the_windows_in_memory_while_kafka_is_unavailable(world):
    world.prefetch_bytes = 1 << 20
    epochs = world.epochs()
    async with epochs.open():
        plan = await epochs.draw(0)
        assert len(windows(plan)) == 1
        ids: list[int] = []
        async for batch, _ in mini_batches(epochs, plan):
            ids += batch.ids.tolist()
            world.log.unavailable = True
    assert ids == planned_ids(plan)


async def test_a_window_that_is_needed_while_kafka_is_unavailable_is_waited_for(world):
    epochs = world.epochs()
    async with epochs.open():
        plan = await epochs.draw(0)
        world.log.unavailable = True
        task = asyncio.create_task(read(epochs, plan))
        await asyncio.sleep(100)
        assert epochs.wait_s > 90, "the wait counts while it lasts"
        world.log.unavailable = False
        ids, _, _ = await asyncio.wait_for(task, 30)
    assert ids == planned_ids(plan)


async def test_the_fetch_time_is_right_though_most_samples_came_before_the_epoch(world, monkeypatch):
    world.prefetch_bytes = 1 << 20
    requests: asyncio.Queue[protocol.Request] = asyncio.Queue()
    answer = world.log.answer
    monkeypatch.setattr(world.log, "answer", requests.put)
    epochs = world.epochs()
    reported: dict[int, float] = {}
    monkeypatch.setattr(epochs._plans._planner, "close", lambda plan, **times: note(plan.epoch, times["fetch_s"]))

    async def note(epoch: int, fetch_s: float) -> None:
        reported.setdefault(epoch, fetch_s)

    async def slow_archive() -> None:
        while True:
            request = await requests.get()
            await asyncio.sleep(0.1 * sum(map(len, getattr(request, "rows", ()))))
            await answer(request)

    archive = asyncio.create_task(slow_archive())
    async with epochs.open():
        for epoch in range(3):
            async with aclosing(mini_batches(epochs, await epochs.draw(epoch))) as batches:
                async for _ in batches:
                    await asyncio.sleep(1)
            await epochs.end()
            async with aclosing(epochs.held_out()) as batches:
                assert [batch async for batch in batches]
    archive.cancel()
    assert list(reported.values()) == pytest.approx([0.1, 0.1, 0.1], rel=0.2)


async def test_with_a_real_server_a_quarantine_counts_from_the_next_plan_on_and_a_begun_epoch_keeps_its_own(log_lines):
    world, archive = World(AnsweringLog({})), MemoryArchive()
    world.log.is_silent = True  # the real server answers
    archive.append("toy", "pi-a", [(offset, make_pack(offset, 20)) for offset in range(4)])
    server = EpochServer(
        world.log,
        archive,
        world.health,
        border=Border({"toy": STREAM}, {}),
        edges=["pi-a"],
        requests_topic=REQUESTS,
        epochs_topic=lambda _: EPOCHS,
        group="site.epoch_server.vault",
    )
    serving = asyncio.create_task(server.run())

    async def read(ends: dict[str, int] | None = None) -> tuple[str, dict[str, int], list[int]]:
        epochs = world.epochs()
        async with epochs.open():
            plan = await epochs.draw(0, ends)
            async with aclosing(mini_batches(epochs, plan, 0)) as batches:
                ids = [i async for batch, _ in batches for i in batch.ids.tolist()]
            held_out = [i async for batch in epochs.held_out() for i in batch.ids.tolist()]
        return plan.digest, dict(plan.snapshot.ends), ids + held_out

    def change(action: Action, *texts: str) -> None:
        assert list(quarantine.apply(archive, action, [parse(text) for text in texts], by="me", when_ms=0))

    digest, ends, before = await read()
    change("quarantine", "toy/pi-a/1", "toy/pi-a/2/5")
    again = await read(ends)
    _, later, without = await read()
    change("release", "toy/pi-a/1", "toy/pi-a/2/5")
    _, _, released = await read()

    out = {*range(20, 40), 45}
    assert again == (digest, ends, before)
    assert sorted(before) == sorted(released) == list(range(80))
    assert sorted(without) == sorted(set(range(80)) - out)
    assert later == {"pi-a": 4, "_quarantine": 1}
    assert (await read(later))[2] == without
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_with_a_real_server_an_epoch_comes_in_order_and_again_for_an_old_snapshot(log_lines):
    world, archive = World(AnsweringLog({})), MemoryArchive()
    world.log.is_silent = True  # the real server answers
    archive.append("toy", "pi-a", [(offset, make_pack(offset, 20)) for offset in range(6)])
    archive.append("toy", "_train.toy", [(offset, make_pack(10 + offset, 20)) for offset in range(6)])
    server = EpochServer(
        world.log,
        archive,
        world.health,
        border=Border({"toy": STREAM}, {}),
        edges=["pi-a"],
        requests_topic=REQUESTS,
        epochs_topic=lambda _: EPOCHS,
        group="site.epoch_server.vault",
    )
    serving = asyncio.create_task(server.run())

    async def read(first: int = 0, ends: dict[str, int] | None = None) -> tuple[str, dict[str, int], list[int]]:
        epochs = world.epochs()
        async with epochs.open():
            plan = await epochs.draw(0, ends)
            async with aclosing(mini_batches(epochs, plan, first)) as batches:
                ids = [i async for batch, _ in batches for i in batch.ids.tolist()]
        return plan.digest, dict(plan.snapshot.ends), ids

    digest, ends, ids = await read()
    archive.append("toy", "pi-a", [(6, make_pack(6, 20))])
    archive.append("toy", "pi-b", [(0, make_pack(7, 20))])
    again, _, rest = await read(24, ends)
    grown, _, more = await read()
    assert again == digest != grown
    assert rest == ids[24:]
    assert len(ids) == len(set(ids)) < len(more)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
