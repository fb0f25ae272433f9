"""Windows of samples to fetch at once, and the held-out samples in windows.

Covers what a window is and how many bytes it may have. Which training samples make one is cache_plan's subject; what a
window's request looks like on the wire is epoch_protocol's. Fetches nothing.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import TEST_SOURCE, TRAIN_SOURCE, BlockRef, Ids, Snapshot, test_rows
from edged.domain.splitmix64 import mixed

SAMPLE_OVERHEAD = 64
"""Bytes that a held sample costs beside its payload (object header, label, codec); what makes tiny samples count."""

MOST_WINDOW_SAMPLES = 1 << 17
MOST_WINDOW_BLOCKS = 1 << 14
"""A window's request names two bytes a sample and 16 a block: with these it stays below Kafka's 1 MiB a message."""


@dataclass(frozen=True, eq=False)
class Window:
    """Some samples to fetch at once. A sample's *position* is its index in the concatenation of all `rows`.

    `rows[i]`: uint16 [k], the wanted rows of block `refs[i]`, rising and never empty. `ids`: int64 [n], the snapshot's
    sample id at each position. `order`: int64 [n], the positions in the order of use. `num_bytes`: what its samples
    will hold in memory, about.
    """

    refs: tuple[BlockRef, ...]
    rows: tuple[npt.NDArray[np.uint16], ...]
    ids: Ids
    order: Ids
    num_bytes: int

    @property
    def num_samples(self) -> int:
        return len(self.ids)

    def part(self, positions: Ids) -> tuple[tuple[BlockRef, ...], tuple[npt.NDArray[np.uint16], ...]]:
        """The refs and rows of some positions, int64 rising: what to ask for again."""
        refs: list[BlockRef] = []
        rows: list[npt.NDArray[np.uint16]] = []
        ends = np.cumsum([len(each) for each in self.rows])
        for i, (ref, wanted) in enumerate(zip(self.refs, self.rows, strict=True)):
            begin = ends[i] - len(wanted)
            inside = positions[np.searchsorted(positions, begin) : np.searchsorted(positions, ends[i])] - begin
            if len(inside):
                refs.append(ref)
                rows.append(wanted[inside])
        return tuple(refs), tuple(rows)


def held_out_windows(
    snapshot: Snapshot, *, test_fraction: float, window_bytes: int, most_samples: int
) -> tuple[Window, ...]:
    """The held-out samples in a fixed order, at most `most_samples`, spread over the sources evenly.

    As the archive grows, a source's choice changes slowly: its blocks are taken in the order of a hash.
    """
    chosen = _spread(snapshot, test_fraction, most_samples)
    blocks = np.array([block for block, _ in chosen], np.int64)
    starts = _cut(snapshot, blocks, window_bytes).tolist()
    cuts = [chosen[a:b] for a, b in pairwise(starts)]
    return tuple(_window(snapshot, cut, np.arange(sum(len(rows) for _, rows in cut))) for cut in cuts)


def _held_out(snapshot: Snapshot, block: int, fraction: float) -> npt.NDArray[np.bool_]:
    ref = snapshot.ref(block)
    return test_rows(ref.source, ref.offset, int(snapshot.rows[block]), fraction)


def _window(snapshot: Snapshot, chosen: Sequence[tuple[int, npt.NDArray[np.uint16]]], order: Ids) -> Window:
    refs = tuple(snapshot.ref(block) for block, _ in chosen)
    first = snapshot.first_id
    ids = [first[block] + rows.astype(np.int64) for block, rows in chosen]
    payloads = sum(int(snapshot.num_bytes[block]) * len(rows) // int(snapshot.rows[block]) for block, rows in chosen)
    num_bytes = payloads + SAMPLE_OVERHEAD * len(order)
    every_rows = tuple(rows for _, rows in chosen)
    return Window(refs, every_rows, np.concatenate([np.zeros(0, np.int64), *ids]), order, num_bytes)


def _cut(snapshot: Snapshot, blocks: Ids, window_bytes: int) -> Ids:
    """Starts of the windows in `blocks`, and the end: int64 [windows + 1]."""
    samples = np.cumsum(snapshot.rows[blocks])
    cost = np.cumsum(snapshot.num_bytes[blocks]) + SAMPLE_OVERHEAD * samples
    starts = [0]
    while starts[-1] < len(blocks):
        at = starts[-1]
        used, seen = (int(cost[at - 1]), int(samples[at - 1])) if at else (0, 0)
        by_bytes = int(np.searchsorted(cost, used + window_bytes, side="right"))
        by_samples = int(np.searchsorted(samples, seen + MOST_WINDOW_SAMPLES, side="right"))
        starts.append(max(at + 1, min(by_bytes, by_samples, at + MOST_WINDOW_BLOCKS)))
    return np.array(starts, np.int64)


def _spread(snapshot: Snapshot, fraction: float, most: int) -> list[tuple[int, npt.NDArray[np.uint16]]]:
    """Blocks and their held-out rows; always the next block of the source with the fewest samples so far."""
    has_test = [
        source.startswith(TEST_SOURCE) or (fraction > 0 and not source.startswith(TRAIN_SOURCE))
        for source in snapshot.sources
    ]
    blocks_of = {index: iter(_by_hash(snapshot, index)) for index, has in enumerate(has_test) if has}
    fewest = [(0, index) for index in blocks_of]
    chosen: list[tuple[int, npt.NDArray[np.uint16]]] = []
    left = most
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
