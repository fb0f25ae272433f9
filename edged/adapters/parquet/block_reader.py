"""Reads blocks of the archive's files: some at once, in their order, and keeps the ones used last.

Files are immutable, so what was read of one stays valid. See also: `file` (their format).
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable
from concurrent.futures import Executor, Future
from itertools import islice
from typing import NamedTuple

from edged.adapters.parquet import rows as parquet_rows
from edged.adapters.parquet.damage import CorruptFileError, translated
from edged.adapters.parquet.footers import File, Footers
from edged.domain.archive.snapshot import BlockRef
from edged.domain.samples.columns import PackColumns
from edged.errors import ArchiveUnavailable, BlockAbsent, StorageError

READS_AT_ONCE = 8
"""Of one call: a storage that answers after 20 ms gives 80 MB/s of blocks of 200 kB."""


BlockOrError = PackColumns | StorageError | ArchiveUnavailable
"""A block, or why it could not be read now."""


class BlockPlace(NamedTuple):
    """Where a block is."""

    file: File
    offset: int


class BlockCache:
    """The blocks used last, of at most `max_bytes` in memory. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._blocks: OrderedDict[BlockPlace, PackColumns] = OrderedDict()
        self.num_bytes = 0

    def get(self, place: BlockPlace) -> PackColumns | None:
        """The block, if it is kept."""
        with self._lock:
            if place in self._blocks:
                self._blocks.move_to_end(place)
            return self._blocks.get(place)

    def put(self, place: BlockPlace, block: PackColumns) -> None:
        """Keep the block, and those used last that fit beside it."""
        if block.memory_bytes > self._max_bytes:
            return
        with self._lock:
            if place not in self._blocks:
                self._blocks[place] = block
                self.num_bytes += block.memory_bytes
            while self.num_bytes > self._max_bytes:
                self.num_bytes -= self._blocks.popitem(last=False)[1].memory_bytes

    def forget(self, stream: str, source: str) -> None:
        """Some of the source's files are there no more; others may come under their names."""
        with self._lock:
            for place in [each for each in self._blocks if (each.file.stream, each.file.source) == (stream, source)]:
                self.num_bytes -= self._blocks.pop(place).memory_bytes


class BlockReader:
    """Thread-safe. Holds the cache, and of each call in progress at most READS_AT_ONCE blocks."""

    def __init__(self, footers: Footers, threads: Executor | None, cache_bytes: int) -> None:
        """`threads`: for reading ahead of the caller; without, each block is read when it is asked for."""
        self._footers = footers
        self._threads = threads
        self.cache = BlockCache(cache_bytes)

    def read_each(
        self, wanted: Iterable[tuple[BlockRef, File | StorageError]]
    ) -> Generator[tuple[BlockRef, BlockOrError], None, None]:
        """The blocks in the order of `wanted`, or the error of each. Closing drops the reads that are on their way."""
        damaged: dict[File, CorruptFileError] = {}
        if self._threads is None:
            for ref, file in wanted:
                yield ref, self.block_or_error(file, ref.offset, damaged)
            return
        left, ahead = iter(wanted), deque[tuple[BlockRef, Future[BlockOrError]]]()
        try:
            while True:
                for ref, file in islice(left, READS_AT_ONCE - len(ahead)):
                    ahead.append((ref, self._threads.submit(self.block_or_error, file, ref.offset, damaged)))
                if not ahead:
                    return
                ref, block = ahead.popleft()
                yield ref, block.result()
        finally:
            for _, each in ahead:
                each.cancel()

    def block_or_error(
        self, file: File | StorageError, offset: int, damaged: dict[File, CorruptFileError]
    ) -> BlockOrError:
        """The block. `damaged`: files whose footer is, which is not looked at again in this call."""
        if isinstance(file, StorageError):
            return file
        try:
            return self._block(file, offset, damaged)
        except (StorageError, ArchiveUnavailable) as error:
            return error

    def _block(self, file: File, offset: int, damaged: dict[File, CorruptFileError]) -> PackColumns:
        place = BlockPlace(file, offset)
        if (kept := self.cache.get(place)) is not None:
            return kept
        if file in damaged:
            raise damaged[file]
        try:
            footer = self._footers.footer(file)
        except CorruptFileError as error:
            damaged[file] = error
            raise
        try:
            number = footer.contents.block_of(offset)
        except KeyError:
            raise BlockAbsent(f"{file.stream}/{file.source}: no file holds block {offset}") from None
        with translated(f"{self._footers.where(file)}, block {offset}"), self._footers.open(file) as raw:
            block = parquet_rows.read_block(raw, footer, number)
        self.cache.put(place, block)
        return block
