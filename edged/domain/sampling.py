"""The order of an epoch: which samples come when, as a pure function of snapshot, seed and epoch.

Covers uniform sampling without replacement and the held-out samples. Fetches nothing; what a window's request looks
like on the wire is domain.epoch_protocol's subject.

The blocks are shuffled and cut into windows that fit a byte budget; each window's samples are shuffled among
themselves. So each block is fetched once an epoch, memory holds a window and never the data set, and a data set that
fits one window is shuffled whole. Blocks are the unit of planning: per sample, nothing is kept outside a window.
"""

import hashlib
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from edged.domain.dataset import TEST_SOURCE, TRAIN_SOURCE, BlockRef, Snapshot, test_rows

SAMPLE_OVERHEAD = 64
"""Bytes that a held sample costs beside its payload (object header, label, codec); what makes tiny samples count."""

MOST_WINDOW_SAMPLES = 1 << 17
MOST_WINDOW_BLOCKS = 1 << 14
"""A window's request names two bytes a sample and 16 a block: with these it stays below Kafka's 1 MiB a message."""

Ids = npt.NDArray[np.int64]


def shuffled(count: int, seed: int, turn: int = 0) -> Ids:
    """0 to count - 1 in the order drawn from (seed, turn): int64 [count].

    Import and sensor order a data set by it, so that one may take what the other leaves.
    """
    return np.random.default_rng((seed, turn)).permutation(count)


@dataclass(frozen=True, eq=False)
class Window:
    """Some samples to fetch at once. A sample's *position* is its index in the concatenation of all `rows`.

    `rows[i]`: uint16 [k], the wanted rows of block `refs[i]`, rising and never empty. `ids`: int64 [n], the snapshot's
    sample id at each position. `order`: int64 [n], the positions in the order of use.
    """

    refs: tuple[BlockRef, ...]
    rows: tuple[npt.NDArray[np.uint16], ...]
    ids: Ids
    order: Ids

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


class EpochPlan:
    """The windows of one epoch over `snapshot`, made one at a time.

    Every sample that is not held out is in exactly one window. A sample's *index* is its place in the epoch's order.
    """

    def __init__(
        self, snapshot: Snapshot, blocks: Ids, starts: Ids, *, seed: int, epoch: int, test_fraction: float
    ) -> None:
        self.snapshot = snapshot
        self.epoch = epoch
        self._blocks = blocks
        self._starts = starts
        self._seed = seed
        self._test_fraction = test_fraction
        self._sizes: dict[int, int] = {}

    @property
    def num_windows(self) -> int:
        return len(self._starts) - 1

    @cached_property
    def num_samples(self) -> int:
        """Samples of the whole epoch. Visits each block once: 20 µs for each of an edge's own."""
        return sum(self.window_samples(index) for index in range(self.num_windows))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the order, in hexadecimal: who resumes an epoch checks that it is still the same."""
        snapshot, blocks = self.snapshot, self._blocks
        used, source = np.unique(snapshot.source, return_inverse=True)  # a source without blocks changes nothing
        names = [snapshot.sources[i] for i in used.tolist()]
        sha = hashlib.sha256(json.dumps([names, self._seed, self.epoch, self._test_fraction]).encode())
        for column in (source, snapshot.offset, snapshot.rows):
            sha.update(column[blocks].astype("<i8").tobytes())
        sha.update(self._starts.astype("<i8").tobytes())
        return sha.hexdigest()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there to train on."""
        return not any(self.window_samples(index) for index in range(self.num_windows))

    def window_samples(self, index: int) -> int:
        """Samples in window `index`; may be 0 when all of its rows are held out."""
        if index not in self._sizes:
            self._sizes[index] = sum(len(self._rows(block)) for block in self._blocks_of(index))
        return self._sizes[index]

    def window(self, index: int) -> Window:
        """Window `index`, the same at every call."""
        blocks = self._blocks_of(index)
        chosen = [(block, rows) for block, rows in zip(blocks, map(self._rows, blocks), strict=True) if len(rows)]
        n = sum(len(rows) for _, rows in chosen)
        shuffle = np.random.default_rng([self._seed, self.epoch, index + 1])
        return _window(self.snapshot, chosen, shuffle.permutation(n))

    def locate(self, sample_index: int) -> tuple[int, int]:
        """(window, place in its order) of the epoch's `sample_index`-th sample; (num_windows, 0) behind the last."""
        for index in range(self.num_windows):
            size = self.window_samples(index)
            if sample_index < size:
                return index, sample_index
            sample_index -= size
        return self.num_windows, 0

    def _blocks_of(self, index: int) -> list[int]:
        blocks: list[int] = self._blocks[self._starts[index] : self._starts[index + 1]].tolist()
        return blocks

    def _rows(self, block: int) -> npt.NDArray[np.uint16]:
        return np.flatnonzero(~_held_out(self.snapshot, block, self._test_fraction)).astype(np.uint16)


def plan(snapshot: Snapshot, *, seed: int, epoch: int, test_fraction: float, window_bytes: int) -> EpochPlan:
    """The plan of `epoch` (from 0) with `seed` (not negative), in windows whose blocks hold at most `window_bytes`.

    A block that is larger makes a window of its own. Test sources are left out, and the held-out rows of the others.
    """
    is_test = np.array([source.startswith(TEST_SOURCE) for source in snapshot.sources], np.bool_)
    blocks = np.flatnonzero(~is_test[snapshot.source]) if snapshot.num_blocks else np.zeros(0, np.int64)
    blocks = np.random.default_rng([seed, epoch, 0]).permutation(blocks)
    starts = _cut(snapshot, blocks, window_bytes)
    return EpochPlan(snapshot, blocks, starts, seed=seed, epoch=epoch, test_fraction=test_fraction)


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
    return Window(refs, tuple(rows for _, rows in chosen), np.concatenate([np.zeros(0, np.int64), *ids]), order)


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
    """The source's blocks by a hash of their offsets (the finaliser of SplitMix64, Steele et al. 2014)."""
    blocks = np.flatnonzero(snapshot.source == source)
    key = snapshot.offset[blocks].astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    key ^= key >> np.uint64(31)
    ordered: list[int] = blocks[np.argsort(key, kind="stable")].tolist()
    return ordered
