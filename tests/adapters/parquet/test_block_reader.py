"""Blocks are read some at once, come in their order, and those used last are kept."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edged.adapters.local import local_store
from edged.adapters.parquet.block_reader import READS_AT_ONCE, BlockCache, BlockPlace
from edged.adapters.parquet.footers import File
from edged.adapters.parquet.store import ParquetStore
from edged.domain.archive.layout import FileName
from edged.domain.archive.snapshot import BlockRef
from edged.domain.samples.columns import PackColumns
from edged.domain.samples.pack import by_columns, of_columns
from edged.errors import ArchiveUnavailable, BlockAbsent
from tests.support.archive_samples import PATIENT_S, pack


def opened_at(folder: Path, **options: Any) -> ParquetStore:
    return ParquetStore(local_store(folder.as_uri(), "tests", PATIENT_S), **options)


NUM_BLOCKS = 3 * READS_AT_ONCE


@pytest.fixture
def threads():
    with ThreadPoolExecutor(READS_AT_ONCE) as executor:
        yield executor


@pytest.fixture
def written(store):
    for first in range(0, NUM_BLOCKS, 4):
        store.append("fashion", "pi-a", [(offset, pack(4 * offset)) for offset in range(first, first + 4)])
    return store


class Opened:
    """Notes the files that are opened; `hold` keeps each from being read until it is released."""

    def __init__(self, store, monkeypatch):
        self.count = 0
        self.hold = threading.Event()
        self.hold.set()
        self.many_wait = threading.Semaphore(0)
        self._really = store._footers.open
        monkeypatch.setattr(store._footers, "open", self)

    def __call__(self, file):
        self.count += 1
        self.many_wait.release()
        self.hold.wait()
        return self._really(file)


def refs(*offsets: int) -> list[BlockRef]:
    return [BlockRef("pi-a", offset) for offset in offsets]


def test_blocks_come_in_their_order_with_the_errors_of_their_own(written, folder, threads):
    store = opened_at(folder, threads=threads)
    wanted = [*reversed(range(NUM_BLOCKS)), NUM_BLOCKS, 3]

    found = list(store.read_each("fashion", refs(*wanted)))

    assert [ref.offset for ref, _ in found] == wanted
    assert isinstance(found[NUM_BLOCKS][1], BlockAbsent)
    blocks = [block for _, block in found if isinstance(block, PackColumns)]
    assert [*map(of_columns, blocks)] == [pack(4 * offset) for offset in wanted if offset < NUM_BLOCKS]


def test_some_are_read_at_once_and_no_more(written, folder, threads, monkeypatch):
    store = opened_at(folder, threads=threads)
    store.snapshot("fashion")
    opened = Opened(store, monkeypatch)
    opened.hold.clear()
    with closing(store.read_each("fashion", refs(*range(NUM_BLOCKS)))) as blocks, ThreadPoolExecutor(1) as other:
        first = other.submit(next, blocks)
        for _ in range(READS_AT_ONCE):
            opened.many_wait.acquire()
        count = opened.count
        opened.hold.set()
        assert first.result()[0].offset == 0
    assert count == READS_AT_ONCE, "all of them wait, and the next one is asked for when one was taken"


def test_what_was_not_begun_when_the_caller_leaves_is_not_read(written, folder, monkeypatch):
    with ThreadPoolExecutor(1) as one:
        store = opened_at(folder, threads=one)
        store.snapshot("fashion")
        opened = Opened(store, monkeypatch)
        opened.hold.clear()
        blocks = store.read_each("fashion", refs(*range(NUM_BLOCKS)))
        with ThreadPoolExecutor(1) as other:
            first = other.submit(next, blocks)
            opened.many_wait.acquire()
            opened.hold.set()
            first.result()
        blocks.close()
        opened.hold.set()

    assert opened.count <= READS_AT_ONCE + 1


def test_an_archive_that_is_away_is_no_damaged_block(written, folder, threads):
    store = opened_at(folder, threads=threads)
    store.snapshot("fashion")
    folder.rename(folder.with_name("elsewhere"))

    with pytest.raises(ArchiveUnavailable):
        list(store.read_each("fashion", refs(0, 1)))


def test_a_block_that_is_kept_is_not_read_again(written, folder, monkeypatch):
    store = opened_at(folder, cache_bytes=1 << 20)
    store.snapshot("fashion")
    opened = Opened(store, monkeypatch)

    for _ in range(3):
        found = [block for _, block in store.read("fashion", refs(2, 1, 2))]
        assert found == [pack(8), pack(4), pack(8)]

    assert opened.count == 2


def test_a_file_that_was_set_aside_and_written_again_is_another(store, folder):
    cached = opened_at(folder, cache_bytes=1 << 20)
    cached.append("fashion", "pi-a", [(0, pack(0))])
    assert dict(cached.read("fashion", refs(0))) == {BlockRef("pi-a", 0): pack(0)}
    cached.set_aside("fashion", "pi-a", 0)

    cached.append("fashion", "pi-a", [(0, pack(4))])

    assert dict(cached.read("fashion", refs(0))) == {BlockRef("pi-a", 0): pack(4)}


def place(name: str) -> BlockPlace:
    return BlockPlace(File(name, "fashion", "pi-a", FileName(0, None, 0), 1), 0)


def test_the_cache_keeps_what_was_used_last_within_its_bytes():
    block = by_columns(pack(0))
    cache = BlockCache(3 * block.memory_bytes)
    for name in "abc":
        cache.put(place(name), block)
    assert cache.get(place("a")) is block

    cache.put(place("d"), block)

    assert [name for name in "abcd" if cache.get(place(name))] == ["a", "c", "d"]
    assert cache.num_bytes == 3 * block.memory_bytes


def test_a_block_larger_than_the_cache_is_not_kept_and_evicts_nothing():
    small, large = by_columns(pack(0, 1)), by_columns(pack(0, 256))
    cache = BlockCache(small.memory_bytes)
    cache.put(place("a"), small)

    cache.put(place("b"), large)

    assert cache.get(place("a")) is small
    assert cache.get(place("b")) is None
