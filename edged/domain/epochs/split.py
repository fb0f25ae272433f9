"""The train/test split of a snapshot: its training samples with their memory, its held-out samples in windows."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import TEST_SOURCE, TRAIN_SOURCE, Ids, Snapshot
from edged.domain.epochs import window as sampling
from edged.domain.epochs.window import MAX_WINDOW_BLOCKS, MAX_WINDOW_SAMPLES, SAMPLE_OVERHEAD, Window
from edged.domain.splitmix64 import mixed


@dataclass(frozen=True, eq=False)
class TrainSplit:
    """The training samples of a snapshot. `blocks`: those that have any. `cost`: int64 [blocks], bytes per sample."""

    snapshot: Snapshot
    test_fraction: float
    blocks: Ids
    cost: Ids

    def rows(self, block: int) -> npt.NDArray[np.uint16]:
        """The block's training rows."""
        is_test = self.snapshot.held_out_rows(block, self.test_fraction)
        return np.flatnonzero(~is_test & ~self.snapshot.is_quarantined(block)).astype(np.uint16)

    def ids(self, blocks: Ids) -> Ids:
        """The training samples of `blocks`, block by block."""
        first = self.snapshot.first_id
        each = [first[block] + self.rows(block).astype(np.int64) for block in blocks.tolist()]
        return np.concatenate([np.zeros(0, np.int64), *each])

    def costs(self, ids: Ids) -> Ids:
        """Bytes of each sample, about: int64 [n]."""
        return self.cost[self.snapshot.locate(ids)[0]]

    def window(self, ids: Ids) -> Window:
        """The window that fetches samples `ids`: int64 rising, no id twice."""
        block, row = self.snapshot.locate(ids)
        blocks, starts = np.unique(block, return_index=True)
        rows = tuple(np.split(row.astype(np.uint16), starts[1:])) if len(blocks) else ()
        refs = tuple(self.snapshot.ref(each) for each in blocks.tolist())
        return Window(refs, rows, ids, np.arange(len(ids)), int(self.cost[block].sum()))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to train on."""
        return not any(len(self.rows(block)) for block in self.blocks.tolist())

    @property
    def num_samples(self) -> int:
        """Training samples, as expected: the rows that are held out are not counted one by one."""
        snapshot = self.snapshot
        is_train = np.array([source.startswith(TRAIN_SOURCE) for source in snapshot.sources], np.bool_)
        rows = snapshot.usable_rows[self.blocks]
        share = np.where(is_train[snapshot.source[self.blocks]], 1.0, 1.0 - self.test_fraction)
        return round(float((rows * share).sum()))

    @property
    def num_bytes(self) -> int:
        """The memory that all of them would take, about."""
        return int((self.snapshot.usable_rows * self.cost)[self.blocks].sum())


def train_split(snapshot: Snapshot, test_fraction: float) -> TrainSplit:
    """The training samples of `snapshot`."""
    is_test = np.array([source.startswith(TEST_SOURCE) for source in snapshot.sources], np.bool_)
    has_any = snapshot.usable_rows > 0
    blocks = np.flatnonzero(has_any & ~is_test[snapshot.source]) if snapshot.num_blocks else np.zeros(0, np.int64)
    cost = -(-snapshot.num_bytes // np.maximum(snapshot.rows, 1)) + sampling.SAMPLE_OVERHEAD
    return TrainSplit(snapshot, test_fraction, blocks, cost)


def held_out_windows(
    snapshot: Snapshot, *, test_fraction: float, window_bytes: int, max_samples: int
) -> tuple[Window, ...]:
    """The held-out samples in a fixed order, at most `max_samples`, spread evenly over the sources.

    As the archive grows, the choice changes slowly: a source's blocks are taken in the order of a hash.
    """
    chosen = _spread(snapshot, test_fraction, max_samples)
    blocks = np.array([block for block, _ in chosen], np.int64)
    starts = _cut(snapshot, blocks, window_bytes).tolist()
    cuts = [chosen[a:b] for a, b in pairwise(starts)]
    return tuple(_window(snapshot, cut, np.arange(sum(len(rows) for _, rows in cut))) for cut in cuts)


def _held_out(snapshot: Snapshot, block: int, fraction: float) -> npt.NDArray[np.bool_]:
    return snapshot.held_out_rows(block, fraction) & ~snapshot.is_quarantined(block)


def _window(snapshot: Snapshot, chosen: Sequence[tuple[int, npt.NDArray[np.uint16]]], order: Ids) -> Window:
    refs = tuple(snapshot.ref(block) for block, _ in chosen)
    first = snapshot.first_id
    ids = [first[block] + rows.astype(np.int64) for block, rows in chosen]
    payloads = sum(int(snapshot.num_bytes[block]) * len(rows) // int(snapshot.rows[block]) for block, rows in chosen)
    num_bytes = payloads + SAMPLE_OVERHEAD * len(order)
    every_rows = tuple(rows for _, rows in chosen)
    return Window(refs, every_rows, np.concatenate([np.zeros(0, np.int64), *ids]), order, num_bytes)


def _cut(snapshot: Snapshot, blocks: Ids, window_bytes: int) -> Ids:
    """Where each window starts in `blocks`, and the end: int64 [windows + 1]."""
    samples = np.cumsum(snapshot.rows[blocks])
    cost = np.cumsum(snapshot.num_bytes[blocks]) + SAMPLE_OVERHEAD * samples
    starts = [0]
    while starts[-1] < len(blocks):
        at = starts[-1]
        used, seen = (int(cost[at - 1]), int(samples[at - 1])) if at else (0, 0)
        by_bytes = int(np.searchsorted(cost, used + window_bytes, side="right"))
        by_samples = int(np.searchsorted(samples, seen + MAX_WINDOW_SAMPLES, side="right"))
        starts.append(max(at + 1, min(by_bytes, by_samples, at + MAX_WINDOW_BLOCKS)))
    return np.array(starts, np.int64)


def _spread(snapshot: Snapshot, fraction: float, limit: int) -> list[tuple[int, npt.NDArray[np.uint16]]]:
    """Blocks and their held-out rows, always from the source with the fewest samples so far; at most `limit` rows."""
    has_test = [
        source.startswith(TEST_SOURCE) or (fraction > 0 and not source.startswith(TRAIN_SOURCE))
        for source in snapshot.sources
    ]
    blocks_of = {index: iter(_by_hash(snapshot, index)) for index, has in enumerate(has_test) if has}
    fewest = [(0, index) for index in blocks_of]
    chosen: list[tuple[int, npt.NDArray[np.uint16]]] = []
    left = limit
    while fewest and left > 0:
        taken, index = heapq.heappop(fewest)
        block = next(blocks_of[index], None)
        if block is None:
            continue
        rows = np.flatnonzero(_held_out(snapshot, block, fraction)).astype(np.uint16)[:left]
        if len(rows):
            chosen.append((block, rows))
            left -= len(rows)
        heapq.heappush(fewest, (taken + len(rows), index))
    return chosen


def _by_hash(snapshot: Snapshot, source: int) -> list[int]:
    """The source's blocks by a hash of their offsets."""
    blocks = np.flatnonzero(snapshot.source == source)
    key = mixed(snapshot.offset[blocks].astype(np.uint64))
    ordered: list[int] = blocks[np.argsort(key, kind="stable")].tolist()
    return ordered
