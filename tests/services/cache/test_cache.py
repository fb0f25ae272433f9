# ruff: noqa: S311, SIM118 - loads are drawn by random, and the ports are no mappings
"""The cache: an entry in one tier, budgets held, only named victims evicted, a failing disk never fatal."""

import asyncio
import random
import threading
import tracemalloc
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.adapters.memory.disk_tier import MemoryDiskTier
from edged.adapters.memory.health import RecordingHealth
from edged.domain.archive.snapshot import BlockRef, Ids
from edged.domain.cache.entry import ENTRY_OVERHEAD_BYTES, Entry, SampleKey
from edged.errors import DiskFull
from edged.services.cache.cache import Cache
from edged.services.cache.disk_gate import RETRY_S, SPILL_BYTES
from tests.support.properties import examples

KIB, MIB = 1 << 10, 1 << 20
pytestmark = pytest.mark.looptime


def key(at: int) -> SampleKey:
    return SampleKey("pi-a", at // 256, at % 256)


def row_of(key: SampleKey) -> tuple[BlockRef, Ids]:
    return BlockRef(key.source, key.offset), np.array([key.row])


def entries(ats: Iterable[int], size: int = 784) -> dict[SampleKey, Entry]:
    return {key(at): Entry(at.to_bytes(4, "big") * (size // 4), "raw", str(at % 10)) for at in ats}


def cache(disk: MemoryDiskTier | None, **options: Any) -> Cache:
    return Cache(disk, RecordingHealth(), **{"memory_bytes": MIB, "disk_bytes": 4 * MIB, **options})


def assert_sound(made: Cache, disk: MemoryDiskTier | None) -> None:
    """Each entry in one tier, the bytes those of the entries, the budgets held."""
    in_memory = set(made._memory)
    on_disk = set() if disk is None else disk.blobs.keys() - made._doomed
    assert not in_memory & on_disk
    assert set(made.keys()) == in_memory | on_disk
    assert made.memory_bytes == sum(e.num_bytes + ENTRY_OVERHEAD_BYTES for e in made._memory.values())
    assert made.disk_bytes == (0 if disk is None else sum(len(disk.blobs[k]) for k in on_disk))
    assert made.memory_bytes <= made._max_memory_bytes
    assert made.disk_bytes <= made._gate._given_bytes


async def test_admitted_entries_are_hits_and_others_misses():
    async with cache(MemoryDiskTier()) as made:
        put = entries(range(3000))
        assert await made.admit(put) == put.keys()
        assert await made.get_many([*put, key(9999)]) == put
        assert made.counts.hits_memory + made.counts.hits_disk == 3000
        assert made.counts.misses == 1
        assert made.counts.hits_memory > 0 < made.counts.hits_disk
        assert made.holds(key(5))
        assert not made.holds(key(9999))


async def test_the_held_rows_of_a_block_are_found_at_once():
    async with cache(MemoryDiskTier()) as made:
        await made.admit(entries([256, 258, 300]))
        assert made.holds_rows("pi-a", 1, 4).tolist() == [True, False, True, False]
        assert made.holds_rows("pi-b", 1, 2).tolist() == [False, False]
        assert made.holds_rows("pi-a", 1, 256).sum() == 3


async def test_without_room_and_victims_nothing_is_admitted_and_nothing_evicted():
    disk = MemoryDiskTier()
    async with cache(disk) as made:
        admitted = await made.admit(entries(range(10_000)))
        assert len(admitted) < 10_000
        assert await made.admit(entries(range(10_000, 10_100))) == set()
        assert set(made.keys()) == admitted
        assert made.counts.evicted == 0
        assert_sound(made, disk)


async def test_both_tiers_are_used_to_nearly_their_budgets():
    disk = MemoryDiskTier()
    async with cache(disk) as made:
        await made.admit(entries(range(10_000)))
        assert made.memory_bytes + made.disk_bytes > 5 * MIB - SPILL_BYTES - 2 * KIB


async def test_victims_are_evicted_in_order_as_needed_and_pinned_ones_stay():
    async with cache(None, memory_bytes=10 * (1000 + ENTRY_OVERHEAD_BYTES), disk_bytes=0) as made:
        await made.admit(entries(range(10), 1000))
        for each in (3, 50):
            made.pin(*row_of(key(each)))
        made.pin(*row_of(key(3)))
        assert await made.admit(entries([10, 11], 1000), evict=[key(77), key(3), key(8), key(2), key(1)]) == {
            key(10),
            key(11),
        }
        assert {k.row for k in made.keys()} == {0, 1, 3, 4, 5, 6, 7, 9, 10, 11}
        made.unpin(*row_of(key(3)))
        assert await made.admit(entries([12, 13], 1000)) == {key(12)}
        assert not made.holds(key(1))  # a victim left over, while 3 is pinned once more
        made.unpin(*row_of(key(3)))
        assert await made.admit(entries([14, 15], 1000)) == {key(14)}
        assert not made.holds(key(3))


@pytest.mark.parametrize("wanted_again", ["pinned", "admitted"])
async def test_a_spare_victim_that_is_wanted_again_stays(wanted_again):
    async with cache(None, memory_bytes=10 * (1000 + ENTRY_OVERHEAD_BYTES), disk_bytes=0) as made:
        await made.admit(entries(range(8), 1000))
        assert await made.admit({}, evict=[key(1), key(2)]) == set()
        if wanted_again == "pinned":
            made.pin(*row_of(key(1)))
            made.unpin(*row_of(key(1)))
        else:
            assert await made.admit(entries([1], 1000)) == {key(1)}
        assert len(await made.admit(entries(range(20, 30), 1000))) == 3
        assert made.holds(key(1))
        assert not made.holds(key(2))


async def test_entries_of_an_earlier_run_make_room_unless_they_are_wanted():
    """It may be of blocks that the archive no longer has, which no plan would name as victims."""
    disk = MemoryDiskTier()
    async with cache(disk) as made:
        before = await made.admit(entries(range(10_000)))
    wanted = sorted(before & disk.blobs.keys())[:500]
    async with cache(disk) as made:
        for each in wanted:
            made.pin(*row_of(each))
            made.unpin(*row_of(each))
        new = entries(range(20_000, 23_000))
        assert await made.admit(new) == new.keys()
        assert all(made.holds(each) for each in wanted)
        assert_sound(made, disk)


async def test_a_full_cache_is_replaced_by_writing_batches_to_the_disk():
    disk = MemoryDiskTier()
    async with cache(disk) as made:
        held = sorted(await made.admit(entries(range(10_000))))
        puts, chosen = disk.num_puts, random.Random(1)
        victims = iter(chosen.sample(held, len(held)))
        for at in range(10_000, 12_000):
            assert await made.admit(entries([at]), evict=[next(victims), next(victims)]) == {key(at)}
        assert 0 < disk.num_puts - puts <= 2000 / 64
        assert_sound(made, disk)


async def test_the_cache_is_warm_after_a_restart():
    disk = MemoryDiskTier()
    async with cache(disk) as made:
        await made.admit(entries(range(1000)))
        assert made.memory_bytes > 0
    async with cache(disk) as again:
        assert await again.get_many([key(at) for at in range(1000)]) == entries(range(1000))
        assert again.counts.hits_disk == 1000
        assert_sound(again, disk)


async def test_corrupt_and_lost_entries_are_left_out_counted_and_can_be_admitted_again():
    disk = MemoryDiskTier()
    async with cache(disk, memory_bytes=300 * KIB) as made:
        await made.admit(entries(range(1000)))
        torn, lost, *_ = disk.blobs
        disk.blobs[torn] = disk.blobs[torn][:-1]
        del disk.blobs[lost]
        found = await made.get_many([torn, lost])
        assert found == {}
        assert (made.counts.corrupt, made.counts.misses) == (1, 2)
        assert not made.holds(torn)
        assert_sound(made, disk)
        again = {k: e for k, e in entries(range(1000)).items() if k in {torn, lost}}
        assert await made.admit(again) == {torn, lost}
        assert await made.get_many([torn, lost]) == again


async def test_a_recreated_store_is_noticed_at_once():
    disk = MemoryDiskTier()
    async with cache(disk, memory_bytes=300 * KIB) as made:
        await made.admit(entries(range(1000)))
        first = next(iter(disk.blobs))
        disk.blobs.clear()
        await made.get_many([first])
        assert_sound(made, disk)


async def test_a_full_disk_is_logged_once_recovers_and_leaves_memory_working(log_lines):
    disk = MemoryDiskTier()
    async with cache(disk) as made:
        disk.error = DiskFull("no space left")
        first = await made.admit(entries(range(3000)))
        assert 0 < len(first) < 3000
        second = await made.admit(entries(range(3000, 3500)), evict=sorted(first)[:500])
        assert len(second) == 500
        assert disk.blobs == {}
        assert len(log_lines("cache.disk_full")) == 1
        puts = disk.num_puts
        await made.admit(entries(range(3500, 3600)))
        assert disk.num_puts == puts  # it is left alone for a while
        await asyncio.sleep(RETRY_S)
        assert await made.admit(entries(range(4000, 4100))) == set()
        assert disk.num_puts > puts
        disk.error = None
        await asyncio.sleep(RETRY_S)
        assert len(await made.admit(entries(range(5000, 8000)))) == 3000
        assert len(log_lines("cache.disk_full")) == 1
        assert len(log_lines("cache.disk_recovered")) == 1
        assert_sound(made, disk)


async def test_a_full_cache_with_a_full_disk_keeps_replacing_in_memory_and_recovers():
    disk = MemoryDiskTier()
    async with cache(disk) as made:
        await made.admit(entries(range(10_000)))
        on_disk = set(disk.blobs)
        disk.error = DiskFull("no space left")
        for at in range(20_000, 24_000, 200):
            held = sorted(made.keys(), key=lambda k: (k in on_disk, k))
            assert len(await made.admit(entries(range(at, at + 200)), evict=held)) == 200
        assert len(disk.blobs) > len(on_disk) - 600  # entries there are still hits; evicting them makes no room
        disk.error = None
        await asyncio.sleep(RETRY_S)
        await made.admit(entries(range(30_000, 32_000)), evict=sorted(made.keys()))
        assert any(k.offset >= 78 for k in disk.blobs)
        assert_sound(made, disk)


async def test_the_write_budget_holds_is_logged_once_survives_a_restart_and_refills(log_lines):
    disk, now_s = MemoryDiskTier(), 1e9
    forward_s = 3652.0 * 86_400
    options = {"written_bytes_per_day": lambda: 16 * MIB, "memory_bytes": 512 * KIB, "disk_bytes": 64 * MIB}
    async with cache(disk, **options, wall_time=lambda: now_s) as made:
        admitted = await made.admit(entries(range(20_000)))
        assert len(admitted) < 20_000
        assert 1 * MIB < disk.written_bytes <= 2 * MIB
        assert len(log_lines("cache.write_budget")) == 1
        assert await made.admit(entries(range(30_000, 30_010)), evict=list(made._memory)) == set(
            entries(range(30_000, 30_010))
        )
    written = disk.written_bytes
    async with cache(disk, **options, wall_time=lambda: now_s) as again:
        await again.admit(entries(range(40_000, 50_000)))
        assert disk.written_bytes <= written + 300 * KIB
        now_s += forward_s  # a clock that jumps while it runs refills nothing
        await again.admit(entries(range(60_000, 70_000)))
        assert disk.written_bytes <= written + 300 * KIB
        await asyncio.sleep(43_200)
        await again.admit(entries(range(50_000, 60_000)))
        assert disk.written_bytes > written + MIB


async def test_entries_larger_than_the_memory_tier_go_to_the_disk():
    disk = MemoryDiskTier()
    async with cache(disk, memory_bytes=100_000) as made:
        put = entries(range(10), 200_000)
        assert await made.admit(put) == put.keys()
        assert await made.get_many(put) == put
        assert made.counts.hits_disk == 10
        more = entries(range(10, 30), 200_000)
        assert await made.admit(more, evict=sorted(put)) != set()
        assert_sound(made, disk)


async def test_an_entry_that_no_tier_can_hold_is_not_admitted():
    async with cache(None, memory_bytes=1000, disk_bytes=0) as made:
        assert await made.admit(entries([1], 2000)) == set()


async def test_memory_stays_flat_over_many_epochs_with_both_tiers_full():
    """Besides the payloads, which have their budget; the disk is the fake's memory, so its bytes are taken off."""
    disk, chosen = MemoryDiskTier(), random.Random(1)
    async with cache(disk, memory_bytes=MIB, disk_bytes=2 * MIB) as made:
        held = sorted(await made.admit(entries(range(20_000))))
        sizes = []
        tracemalloc.start()
        for epoch in range(12):
            coming = entries(chosen.sample(range(20_000), 1000))
            await made.admit(coming, evict=iter(chosen.sample(held, len(held))))
            del coming
            held = sorted(made.keys())
            sizes.append(tracemalloc.get_traced_memory()[0] - (made.disk_bytes if epoch else 0))
        tracemalloc.stop()
        assert max(sizes[6:]) - min(sizes[6:]) < MIB
        assert made._table.num_bytes < 100 * len(made)
        assert_sound(made, disk)


async def test_the_memory_of_an_entry_is_within_its_counted_overhead():
    tracemalloc.start()
    async with cache(None, memory_bytes=64 * MIB, disk_bytes=0) as made:
        before = tracemalloc.get_traced_memory()[0]
        for at in range(0, 20_000, 100):
            await made.admit(entries(range(at, at + 100)))
        taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken <= made.memory_bytes


operations = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.lists(st.integers(0, 60), max_size=12), st.lists(st.integers(0, 60))),
        st.tuples(st.just("get"), st.lists(st.integers(0, 60), max_size=12)),
        st.tuples(st.just("pin"), st.integers(0, 60)),
        st.tuples(st.just("unpin")),
        st.tuples(st.just("flush")),
        st.tuples(st.just("refuse"), st.booleans()),
        st.tuples(st.just("wait")),
    ),
    max_size=30,
)


@examples(150)
@given(operations, st.integers(0, 40_000), st.integers(0, 60_000))
async def test_any_sequence_of_calls_agrees_with_a_simple_model(script, memory_bytes, disk_bytes):
    """The model: what was admitted and has not been a victim since is held, unaltered; all else is not."""
    disk = MemoryDiskTier()
    content = entries(range(61), 4000) | entries(range(0, 61, 3), 300)
    now = [0.0]
    async with cache(disk, memory_bytes=memory_bytes, disk_bytes=disk_bytes) as made:
        held: set[SampleKey] = set()
        spare: set[SampleKey] = set()
        pinned: list[SampleKey] = []
        for operation, *arguments in script:
            if operation == "admit":
                coming = {key(at): content[key(at)] for at in arguments[0]}
                victims = [key(at) for at in arguments[1]]
                evicted_before = made.counts.evicted
                admitted = await made.admit(coming, evict=victims)
                evicted = (held | admitted) - set(made.keys())
                spare |= set(victims)
                assert evicted <= spare - set(pinned)
                spare = (spare - coming.keys()) & set(made.keys())
                assert len(held | admitted) - len(evicted) == len(made)
                assert (made.counts.evicted - evicted_before > 0) or not evicted
                held = (held | admitted) - evicted
            elif operation == "get":
                wanted = [key(at) for at in arguments[0]]
                assert await made.get_many(wanted) == {k: content[k] for k in wanted if k in held}
            elif operation == "pin":
                pinned.append(key(arguments[0]))
                made.pin(*row_of(pinned[-1]))
                spare.discard(pinned[-1])
            elif operation == "unpin" and pinned:
                made.unpin(*row_of(pinned.pop()))
            elif operation == "flush":
                await made.flush()
            elif operation == "refuse":
                disk.error = DiskFull("no space left") if arguments[0] else None
            elif operation == "wait":
                made._gate._refused_until_s = now[0]
            assert set(made.keys()) == held
            assert_sound(made, disk)


class SlowDisk(MemoryDiskTier):
    """Cancels the waiting task while it writes."""

    task: asyncio.Task[Any] | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def put_many(self, entries: Any) -> dict[SampleKey, int]:
        if self.task is not None:
            assert self.loop is not None
            cancelled = threading.Event()

            def cancel() -> None:
                assert self.task is not None
                self.task.cancel()
                cancelled.set()

            self.loop.call_soon_threadsafe(cancel)
            cancelled.wait(10)
        return super().put_many(entries)


async def test_a_cancelled_spill_leaves_each_entry_in_one_tier(real_threads):
    disk = SlowDisk()
    async with cache(disk) as made:
        disk.loop, disk.task = asyncio.get_running_loop(), asyncio.current_task()
        with pytest.raises(asyncio.CancelledError):
            await made.admit(entries(range(3000)))
        disk.task = None
        asyncio.current_task().uncancel()  # type: ignore[union-attr]
        assert disk.blobs
        assert_sound(made, disk)
        assert len(await made.get_many(list(made.keys()))) == len(made)


async def test_plans_that_admit_as_many_as_they_evict_never_fail_to_admit():
    async with cache(MemoryDiskTier(), memory_bytes=256 * KIB, disk_bytes=MIB) as made:
        planned = made.num_entries(784)
        for first in range(0, 10 * planned, 64):
            victims = (key(at) for at in range(first - planned, first + 64 - planned) if at >= 0)
            coming = entries(range(first, first + 64))
            assert await made.admit(coming, evict=victims) == coming.keys()


async def test_a_victim_just_admitted_is_not_returned_as_admitted():
    async with cache(None, memory_bytes=2 * (1000 + ENTRY_OVERHEAD_BYTES), disk_bytes=0) as made:
        assert await made.admit(entries([1, 2, 3], 1000), evict=[key(1)]) == {key(2), key(3)}
