"""When the disk tier may be written: refusals, the limit that is found again, and the write budget."""

import asyncio

import pytest

from edged.adapters.memory.disk_tier import MemoryDiskTier
from edged.errors import DiskFull
from edged.services.cache.disk_gate import RETRY_S, SPILL_BYTES, DiskGate

pytestmark = pytest.mark.looptime

MIB = 1 << 20
FULL = DiskFull("no space left")


def gate(disk: MemoryDiskTier | None, per_day: int | None = None, now_s: float = 1e9) -> DiskGate:
    made = DiskGate(disk, 64 * MIB, None if per_day is None else lambda: per_day, lambda: now_s)
    made.restore(0.0)
    return made


async def test_without_a_disk_nothing_may_be_written():
    none = gate(None)
    assert not none.allows(0)
    assert (none.max_bytes, none.limit_bytes) == (0, 0)
    assert none.is_open


async def test_the_limit_is_the_smaller_of_the_given_bytes_and_the_disks_capacity():
    assert gate(MemoryDiskTier(10 * MIB)).limit_bytes == 10 * MIB
    assert gate(MemoryDiskTier()).limit_bytes == 64 * MIB


async def test_a_disk_that_refused_is_left_alone_for_a_while_and_then_tried_with_a_little_more(log_lines):
    refused = gate(MemoryDiskTier())
    refused.refuse(FULL, held_bytes=MIB)
    assert not refused.is_open
    assert refused.limit_bytes == MIB + 2 * SPILL_BYTES
    assert not refused.allows(1)
    await asyncio.sleep(RETRY_S)
    assert refused.allows(1)
    refused.refuse(FULL, held_bytes=MIB)
    assert len(log_lines("cache.disk_full")) == 1


async def test_each_accepted_batch_raises_the_limit_to_the_most_there_is(log_lines):
    disk = MemoryDiskTier(2 * MIB)
    accepting = gate(disk)
    accepting.refuse(FULL, held_bytes=MIB)
    limits = []
    for _ in range(3):
        accepting.accept()
        limits.append(accepting.limit_bytes)
    assert limits == [2 * MIB, 2 * MIB, 2 * MIB]
    assert accepting.is_open
    assert len(log_lines("cache.disk_recovered")) == 1


async def test_the_limit_follows_a_disk_whose_capacity_shrinks():
    disk = MemoryDiskTier(8 * MIB)
    shrinking = gate(disk)
    disk.budget_bytes = 3 * MIB
    shrinking.record(stored_bytes=0, written_bytes=0)
    assert (shrinking.max_bytes, shrinking.limit_bytes) == (3 * MIB, 3 * MIB)


async def test_a_spent_write_budget_closes_the_gate_and_is_restored_with_the_disk(log_lines):
    disk = MemoryDiskTier()
    spent = gate(disk, per_day=8 * MIB)
    assert spent.allows(MIB // 4)
    spent.record(stored_bytes=0, written_bytes=MIB)
    assert not spent.allows(MIB // 4)
    assert not spent.allows(MIB // 4)
    assert not spent.is_open
    assert len(log_lines("cache.write_budget")) == 1
    assert not gate(disk, per_day=8 * MIB).allows(MIB // 4)
    assert gate(disk, per_day=8 * MIB, now_s=1e9 + 86_400).allows(MIB // 4)


async def test_bytes_to_be_written_are_estimated_by_the_measured_amplification():
    disk = MemoryDiskTier()
    measured = gate(disk, per_day=8 * MIB)
    measured.record(stored_bytes=0, written_bytes=MIB // 2)
    assert not measured.allows(MIB // 4)  # four times as much, before anything is measured
    disk.written_bytes = 2 * SPILL_BYTES
    measured.record(stored_bytes=2 * SPILL_BYTES, written_bytes=0)
    assert measured.allows(MIB // 4)
