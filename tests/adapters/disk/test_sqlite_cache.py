# ruff: noqa: S311, SIM118 - loads are drawn by random, and the ports are no mappings
"""SqliteCache beyond the port's contract: restarts, crashes, full disks, damaged and foreign files."""

import errno
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from edged.adapters.disk import sqlite_cache
from edged.adapters.disk.sqlite_cache import MIN_BUDGET_BYTES, SqliteCache
from edged.domain.cache.entry import Entry, SampleKey
from edged.errors import DiskFull, StorageError
from tests.support.disk_cache_writer import NAMESPACE, entry
from tests.support.small_disk import mount, mounted

MIB = 1 << 20


def opened(folder: Path, budget_bytes: int = 8 * MIB, namespace: str = NAMESPACE) -> SqliteCache:
    return SqliteCache(folder, budget_bytes, namespace)


def filled(folder: Path, num: int = 2000) -> list[SampleKey]:
    """Create a cache with entries and close it; returns their keys."""
    keys = [SampleKey("pi-a", at // 256, at % 256) for at in range(num)]
    tier = opened(folder, 32 * MIB)
    tier.put_many({key: entry(key) for key in keys})
    tier.close()
    return keys


def file_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def assert_serves_what_is_whole(tier: SqliteCache) -> int:
    """Assert that all entries it returns are correct and that it accepts new ones; returns their number."""
    found = tier.get_many([key for key, _ in tier.keys()])
    assert all(kept == entry(key) for key, kept in found.items())
    new = {key: entry(key) for key in [SampleKey("new", 0, row) for row in range(64)]}
    tier.put_many(new)
    assert tier.get_many(new) == new
    return len(found)


def test_after_a_restart_the_offered_capacity_can_be_filled(tmp_path):
    """Deleted entries left gaps in the pages that new entries do not fill."""
    alike = Entry(bytes(784), "raw", "boot")
    rows = iter(range(1 << 16))

    def put(tier: SqliteCache, num: int) -> None:
        tier.put_many({SampleKey("pi-a", 0, row): alike for row in itertools.islice(rows, num)})

    def fill(tier: SqliteCache) -> None:
        while True:
            put(tier, 16)

    tier = opened(tmp_path, 2 * MIB)
    for _ in range(2):
        with pytest.raises(DiskFull):
            fill(tier)
        tier.delete_many([key for key, _ in tier.keys()][::6])
        put(tier, 1)  # and empties the slots of the others
    with pytest.raises(DiskFull):
        fill(tier)
    tier.close()

    again = opened(tmp_path, 2 * MIB)
    while again.used_bytes + 20_000 < again.capacity_bytes:
        put(again, 16)  # raises DiskFull
    again.close()


def test_it_is_warm_after_a_restart(tmp_path):
    keys = filled(tmp_path)
    tier = opened(tmp_path, 32 * MIB)
    tier.set_note("spent")
    assert {key for key, _ in tier.keys()} == set(keys)
    assert tier.get_many(keys) == {key: entry(key) for key in keys}
    tier.close()
    again = opened(tmp_path, 32 * MIB)
    assert again.note == "spent"
    again.close()


@pytest.mark.parametrize("run", range(3))
def test_a_kill_at_any_moment_leaves_nothing_corrupt(tmp_path, run, log_lines):
    """Five kills on one file in each run, at different moments; the file is warm and intact each time."""
    chosen = random.Random(run)
    for _ in range(5):
        command = [sys.executable, "-m", "tests.support.disk_cache_writer", str(tmp_path), str(8 * MIB), "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(chosen.uniform(0.05, 0.5))
            writer.send_signal(signal.SIGKILL)
        assert file_bytes(tmp_path) <= 8 * MIB
        tier = opened(tmp_path)
        assert assert_serves_what_is_whole(tier) > 0
        assert tier.num_corrupt == 0
        tier.close()
    assert log_lines("cache.recreated") == []


@pytest.mark.parametrize("max_file_bytes", [700_000, 2_000_000])
def test_a_full_disk_refuses_entries_and_loses_none(tmp_path, max_file_bytes):
    command = [sys.executable, "-m", "tests.support.disk_cache_writer"]
    done = subprocess.run(
        [*command, str(tmp_path), str(64 * MIB), str(max_file_bytes)], capture_output=True, text=True, check=True
    )
    assert "refused" in done.stdout
    tier = opened(tmp_path, 64 * MIB)
    assert assert_serves_what_is_whole(tier) > 0
    assert tier.num_corrupt == 0
    tier.close()


@pytest.fixture
def small_file_system(tmp_path):
    """A file system of 2 MiB of its own."""
    with mounted(tmp_path, "size=2m"):
        yield tmp_path


def test_a_full_file_system_refuses_entries_serves_others_and_recovers(small_file_system):
    tier = opened(small_file_system, 64 * MIB)
    for _ in range(3):
        with pytest.raises(StorageError):
            tier.put_many({key: entry(key) for key in [SampleKey("pi-a", at // 64, at % 64) for at in range(6400)]})
        found = tier.get_many([key for key, _ in tier.keys()])
        assert found
        assert all(kept == entry(key) for key, kept in found.items())
    mount(small_file_system, "remount,size=16m")
    assert assert_serves_what_is_whole(tier) == len(found)
    assert tier.num_corrupt == 0
    tier.close()


def test_bytes_flipped_in_the_file_are_never_served_and_never_fatal(tmp_path):
    filled(tmp_path / "whole", 600)
    chosen = random.Random(1)
    served = 0
    for at in range(40):
        folder = tmp_path / str(at)
        shutil.copytree(tmp_path / "whole", folder)
        with (folder / "cache.sqlite").open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            for _ in range(20 if at % 2 else 1):
                file.seek(chosen.randrange(4096 if at % 8 == 0 else size))
                file.write(chosen.randbytes(1))
        tier = opened(folder, 32 * MIB)
        served += assert_serves_what_is_whole(tier)
        tier.close()
    assert served > 0


def test_a_damaged_file_that_the_disk_keeps_from_being_replaced_is_an_empty_tier_until_it_can(tmp_path, monkeypatch):
    keys = filled(tmp_path)
    tier = opened(tmp_path, 32 * MIB)
    tier.set_note("what was drawn")
    with (tmp_path / "cache.sqlite").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom((tmp_path / "cache.sqlite").stat().st_size - 4096))

    def fails(*_args: object, **_options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fails)
        assert tier.get_many(keys) == {}
        assert list(tier.keys()) == []
        with pytest.raises(StorageError):
            tier.put_many({keys[0]: entry(keys[0])})

    assert assert_serves_what_is_whole(tier) == 0
    assert tier.note == "what was drawn"
    tier.close()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_never_fatal(tmp_path, keep):
    filled(tmp_path)
    file = tmp_path / "cache.sqlite"
    os.truncate(file, int(file.stat().st_size * keep) // 512 * 512)
    tier = opened(tmp_path, 32 * MIB)
    assert_serves_what_is_whole(tier)
    tier.close()


def make_foreign_database(file: Path) -> None:
    database = sqlite3.connect(file)
    database.execute("CREATE TABLE entry (slot INTEGER PRIMARY KEY, source, block, row, data)")
    database.close()


@pytest.mark.parametrize(
    "make", [lambda file: file.write_bytes(b"a diary, not a database\n" * 400), make_foreign_database]
)
def test_a_foreign_file_in_its_place_is_replaced(tmp_path, make, log_lines):
    make(tmp_path / "cache.sqlite")
    tier = opened(tmp_path)
    assert assert_serves_what_is_whole(tier) == 0
    assert len(log_lines("cache.recreated")) == 1
    tier.close()


def test_another_streams_entries_are_dropped(tmp_path, log_lines):
    filled(tmp_path)
    tier = opened(tmp_path, 32 * MIB, "greenhouse/sounds/16000/int16")
    assert list(tier.keys()) == []
    assert len(log_lines("cache.recreated")) == 1
    tier.close()


def test_a_file_above_a_smaller_budget_is_recreated(tmp_path):
    filled(tmp_path)
    tier = opened(tmp_path, MIN_BUDGET_BYTES)
    assert_serves_what_is_whole(tier)
    assert file_bytes(tmp_path) <= MIN_BUDGET_BYTES
    tier.close()


@pytest.mark.parametrize(("budget_bytes", "max_bytes"), [(MIB, 3000), (4 * MIB, 3000), (32 * MIB, 200_000)])
def test_the_files_stay_within_the_budget_while_entries_of_all_sizes_replace_each_other(
    tmp_path, budget_bytes, max_bytes
):
    chosen = random.Random(2)
    tier = opened(tmp_path, budget_bytes)
    held: list[SampleKey] = []
    for at in range(300):
        coming = {}
        for row in range(max(1, 100_000 // max_bytes)):
            key = SampleKey("pi-a", at, row)
            coming[key] = Entry(bytes(chosen.randrange(max_bytes)), "raw", None)
        dead = []
        while held and tier.used_bytes + sum(e.num_bytes * 1.1 + 4096 for e in coming.values()) > tier.capacity_bytes:
            dead.append(held.pop(chosen.randrange(len(held))))
            tier.delete_many(dead[-1:])
        tier.put_many(coming)
        held += coming
        assert file_bytes(tmp_path) <= budget_bytes
    assert tier.get_many(held).keys() == set(held)
    tier.close()


def test_a_second_process_is_refused_and_harms_nothing(tmp_path):
    keys = filled(tmp_path)
    first = opened(tmp_path, 32 * MIB)
    with pytest.raises(StorageError, match="in use"):
        opened(tmp_path, 32 * MIB)
    assert len(first.get_many(keys)) == len(keys)
    first.close()


def test_an_unusable_folder_is_reported(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file is no folder"):
        opened(tmp_path / "file" / "cache")
    (tmp_path / "cache.sqlite").mkdir()
    with pytest.raises(StorageError, match="cannot be"):
        opened(tmp_path)
    with pytest.raises(StorageError, match="below"):
        opened(tmp_path / "small", 1000)


def test_compressible_payloads_take_less(tmp_path):
    entries = {SampleKey("pi-a", 0, row): Entry(bytes(2000), "raw", None) for row in range(200)}
    plain, small = opened(tmp_path / "a"), SqliteCache(tmp_path / "b", 8 * MIB, NAMESPACE, compress=True)
    plain.put_many(entries)
    small.put_many(entries)
    assert small.get_many(entries) == entries
    assert small.used_bytes < plain.used_bytes / 10
    plain.close()
    small.close()


@pytest.mark.parametrize("is_counted", [True, False])
def test_written_bytes_are_known_whether_or_not_the_kernel_counts_them(tmp_path, monkeypatch, is_counted):
    if not is_counted:
        monkeypatch.setattr(sqlite_cache, "_IO", tmp_path / "none")
    elif not sqlite_cache._IO.exists() or tmp_path.is_relative_to("/dev/shm"):  # noqa: S108 - asks where it is
        pytest.skip("the kernel counts no bytes here")
    tier = opened(tmp_path, 32 * MIB)
    entries = {SampleKey("pi-a", 0, row): Entry(bytes(20_000), "raw", None) for row in range(200)}
    tier.put_many(entries)
    assert 4_000_000 < tier.written_bytes < 16_000_000
    tier.close()
