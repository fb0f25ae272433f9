# ruff: noqa: SIM118 - the port is no mapping
"""The contract of ports.DiskTier."""

import pytest

from edged.adapters.disk.sqlite_cache import SqliteCache
from edged.adapters.memory.disk_tier import MemoryDiskTier
from edged.domain.cache.entry import Entry, SampleKey
from edged.errors import DiskFull
from edged.ports import DiskTier

MIB = 1 << 20


@pytest.fixture(params=["memory", "sqlite"])
def tier(request, tmp_path):
    tier: DiskTier = MemoryDiskTier(2 * MIB) if request.param == "memory" else SqliteCache(tmp_path, 2 * MIB, "n")
    yield tier
    tier.close()


def entries(num: int, size: int = 784, first: int = 0) -> dict[SampleKey, Entry]:
    return {
        SampleKey("pi-a", at // 256, at % 256): Entry(bytes([at % 251]) * size, "raw", f"label {at % 10}")
        for at in range(first, first + num)
    }


def test_an_empty_tier_has_nothing(tier):
    assert tier.get_many(entries(3)) == {}
    assert list(tier.keys()) == []
    assert (tier.used_bytes, tier.num_corrupt, tier.note) == (0, 0, "")


@pytest.mark.parametrize("size", [0, 1, 784, 2000, 4000, 5000, 200_000])
def test_entries_are_returned_unchanged(tier, size):
    put = entries(4, size) | {SampleKey("ünï", 1 << 40, 65_535): Entry(b"\xff\xd8" * 8, "jpeg", None)}
    assert tier.put_many(put).keys() == put.keys()
    assert tier.get_many([*put, SampleKey("pi-z", 0, 0)]) == put


def test_a_second_put_replaces(tier):
    tier.put_many(entries(3))
    tier.put_many(entries(3, size=100))
    assert tier.get_many(entries(3)) == entries(3, size=100)
    assert len(list(tier.keys())) == 3


def test_the_stored_bytes_add_up(tier):
    put = tier.put_many(entries(300))
    put |= tier.put_many(entries(2, size=20_000, first=300))
    assert dict(tier.keys()) == put
    assert tier.used_bytes == sum(put.values())
    tier.delete_many(list(put)[:100])
    assert tier.used_bytes == sum(list(put.values())[100:])


def test_a_deleted_entry_is_gone_and_may_be_stored_again(tier):
    tier.put_many(entries(300))
    tier.delete_many([*entries(200), SampleKey("pi-z", 0, 0)])
    assert tier.get_many(entries(300)) == entries(100, first=200)
    tier.put_many(entries(50))
    assert tier.get_many(entries(300)) == entries(50) | entries(100, first=200)


def test_a_full_tier_refuses_entries_and_keeps_its_own_intact(tier):
    tier.put_many(entries(100))
    with pytest.raises(DiskFull):
        tier.put_many(entries(20, size=200_000, first=100))
    assert tier.get_many(entries(100)) == entries(100)
    for key, entry in tier.get_many([key for key, _ in tier.keys()]).items():
        assert entry == (entries(100) | entries(20, size=200_000, first=100))[key]
    tier.delete_many([key for key, _ in tier.keys()])
    assert len(tier.put_many(entries(5, size=200_000))) == 5


def test_equal_entries_fit_up_to_the_capacity(tier):
    at = 0
    while tier.used_bytes < tier.capacity_bytes - 130_000:
        at += len(tier.put_many(entries(100, first=at)))
    assert tier.used_bytes > 0.9 * tier.capacity_bytes


def test_the_note_is_kept(tier):
    tier.set_note("spent 7")
    assert tier.note == "spent 7"
