"""A snapshot of a stream: the blocks that the archive held at one time, and the dense numbering of their samples.

Covers identity and the split into training and test samples. See also: `domain.epochs` (the order of an epoch).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.domain.archive.source_log import Origin, address_in_log

Ids = npt.NDArray[np.int64]

TRAIN_SOURCE = "_train."
TEST_SOURCE = "_test."
"""Prefixes of the sources of imported data; no edge's name has them (names begin with a letter or a digit)."""

QUARANTINE_SOURCE = "_quarantine"
OVERLAY_SOURCES = frozenset({QUARANTINE_SOURCE})
"""Sources whose blocks hold records about samples and no samples: laid over the other blocks when a snapshot is taken.

A snapshot names their ends like any other's, so that it says which of their records are in effect.
"""

FLOOR_PREFIX = "_floor."
"""Before a source's name: a snapshot has the first offset that counts beside the source's end.

Named only while something below it is still kept: then the end alone does not say what the snapshot has.
"""

_NEWEST = (1 << 62) - 1
"""Beyond every source's end."""


def _no_ranges() -> Ids:
    return np.zeros((0, 3), np.int64)


class BlockRef(NamedTuple):
    """One block (= pack) of the archive."""

    source: str
    offset: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Blocks sorted by (source, offset).

    `sources`: names; `source`, `offset`, `rows`, `num_bytes`: int64 [blocks], the block's source (an index into
    `sources`), its pack's offset, its number of samples and its payload bytes. `ends`: source → next offset; small
    enough for a checkpoint, and enough to request the same snapshot again, for as long as it is kept: see
    `FLOOR_PREFIX` for what is forgotten. `quarantined`:
    int64 [ranges, 3], rows that are not to be trained or tested on, as (block, first row, row after the last): rising,
    not touching each other. They keep their ids.
    `origins`: of the sources whose blocks have addresses of their own for being held out, see `source_log`, in the
    blocks' order.
    """

    sources: tuple[str, ...]
    source: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    num_bytes: npt.NDArray[np.int64]
    ends: Mapping[str, int]
    quarantined: Ids = field(default_factory=_no_ranges)
    origins: Mapping[str, tuple[Origin, ...]] = field(default_factory=dict)

    @property
    def num_blocks(self) -> int:
        return len(self.rows)

    @property
    def num_samples(self) -> int:
        return int(self.rows.sum())

    @cached_property
    def first_id(self) -> npt.NDArray[np.int64]:
        """Sample ids number all samples densely, in the blocks' order: int64 [blocks + 1], the first of each."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.rows)])

    @cached_property
    def usable_rows(self) -> npt.NDArray[np.int64]:
        """Rows of each block that are not in quarantine: int64 [blocks]."""
        block, first, end = self.quarantined.T
        usable: Ids = self.rows - np.bincount(block, end - first, self.num_blocks).astype(np.int64)
        return usable

    def is_quarantined(self, block: int) -> npt.NDArray[np.bool_]:
        """Which rows of a block are in quarantine: bool [rows]."""
        mask = np.zeros(int(self.rows[block]), np.bool_)
        begin, end = np.searchsorted(self.quarantined[:, 0], [block, block + 1]).tolist()
        for _, first, stop in self.quarantined[begin:end].tolist():
            mask[first:stop] = True
        return mask

    def without_quarantined(self, ids: Ids) -> Ids:
        """Those of `ids` that are not in quarantine, in the same order."""
        if not len(self.quarantined):
            return ids
        block, first, end = self.quarantined.T
        start, stop = self.first_id[block] + first, self.first_id[block] + end
        nearest = np.searchsorted(start, ids, side="right") - 1
        kept: Ids = ids[(nearest < 0) | (ids >= stop[nearest])]
        return kept

    def block_of(self, ref: BlockRef) -> int | None:
        """The index of the block; None when the snapshot has none of that name."""
        if ref.source not in self.sources:
            return None
        begin, end = np.searchsorted(self.source, [number := self.sources.index(ref.source), number + 1]).tolist()
        block = begin + int(np.searchsorted(self.offset[begin:end], ref.offset))
        return block if block < end and self.offset[block] == ref.offset else None

    def ref(self, block: int) -> BlockRef:
        """The block's name."""
        return BlockRef(self.sources[int(self.source[block])], int(self.offset[block]))

    def held_out_rows(self, block: int, fraction: float) -> npt.NDArray[np.bool_]:
        """Which rows of the block are held out for testing: bool [rows], see `test_rows`."""
        source, offset = self.ref(block)
        for first, name, base in reversed(self.origins.get(source, ())):
            if first <= offset:
                source, offset = address_in_log(source, name, offset - base if name else offset)
                break
        return test_rows(source, offset, int(self.rows[block]), fraction)

    def locate(self, ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(block, row) of each sample id, int64 [n] each."""
        block = np.searchsorted(self.first_id, ids, side="right") - 1
        return block, ids - self.first_id[block]


def test_rows(source: str, offset: int, num_rows: int, fraction: float) -> npt.NDArray[np.bool_]:
    """Which rows of a block are held out for testing: bool [num_rows].

    A pure function of the sample's address, so all nodes and restarts agree and a sample never changes sides: imported
    test sets are all test, imported training sets all training; of an edge's own samples the share `fraction`, by a
    hash.
    """
    if source.startswith(TEST_SOURCE):
        return np.ones(num_rows, np.bool_)
    if source.startswith(TRAIN_SOURCE) or fraction <= 0:
        return np.zeros(num_rows, np.bool_)
    key = hashlib.blake2b(f"{source}/{offset}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(key, "little")).random(num_rows) < fraction


def floor_name(source: str) -> str:
    """The name in a snapshot's `ends` of the source's first offset that counts."""
    return f"{FLOOR_PREFIX}{source}"


def floors(ends: Mapping[str, int]) -> dict[str, int]:
    """The first offset that counts, of each source of which the snapshot with these `ends` names one."""
    return {name.removeprefix(FLOOR_PREFIX): end for name, end in ends.items() if name.startswith(FLOOR_PREFIX)}


def without_floors(ends: Mapping[str, int]) -> dict[str, int]:
    """`ends` for whoever knows no floors: the snapshot has all that is still kept."""
    return {name: end for name, end in ends.items() if not name.startswith(FLOOR_PREFIX)}


def with_newest_quarantine(ends: Mapping[str, int]) -> dict[str, int]:
    """`ends` for the same blocks, with all that the quarantine says of them by the time they are asked for."""
    return {**ends, QUARANTINE_SOURCE: _NEWEST}


def renumbered(ids: Ids, old: Snapshot, new: Snapshot) -> Ids:
    """`ids` of snapshot `old` as numbered by `new`, in the same order.

    Those that are not in `new`, or in quarantine there, are left out.
    """
    index_of = {name: index for index, name in enumerate(new.sources)}
    source_of = np.array([index_of.get(name, -1) for name in old.sources] or [-1], np.int64)
    block, row = old.locate(ids)
    source, offset = source_of[old.source[block]], old.offset[block]
    result = np.full(len(ids), -1, np.int64)
    for index in np.unique(source[source >= 0]).tolist():
        positions = np.flatnonzero(source == index)
        blocks = np.flatnonzero(new.source == index)
        nearest = np.searchsorted(new.offset[blocks], offset[positions])
        nearest = blocks[np.minimum(nearest, max(len(blocks) - 1, 0))]
        is_there = (new.offset[nearest] == offset[positions]) & (row[positions] < new.rows[nearest])
        result[positions[is_there]] = new.first_id[nearest[is_there]] + row[positions[is_there]]
    return new.without_quarantined(result[result >= 0])
