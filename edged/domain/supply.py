"""What a snapshot has to train on: its training samples and what each holds in memory."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.domain import sampling
from edged.domain.archive.snapshot import TEST_SOURCE, TRAIN_SOURCE, Ids, Snapshot, test_rows
from edged.domain.sampling import Window


@dataclass(frozen=True, eq=False)
class Supply:
    """The training samples of a snapshot. `cost`: int64 [blocks], what a sample of the block holds in memory."""

    snapshot: Snapshot
    test_fraction: float
    blocks: Ids
    cost: Ids

    def rows(self, block: int) -> npt.NDArray[np.uint16]:
        """The block's training rows."""
        ref, count = self.snapshot.ref(block), int(self.snapshot.rows[block])
        return np.flatnonzero(~test_rows(ref.source, ref.offset, count, self.test_fraction)).astype(np.uint16)

    def ids(self, blocks: Ids) -> Ids:
        """The training samples of `blocks`, block by block."""
        first = self.snapshot.first_id
        each = [first[block] + self.rows(block).astype(np.int64) for block in blocks.tolist()]
        return np.concatenate([np.zeros(0, np.int64), *each])

    def costs(self, ids: Ids) -> Ids:
        """Bytes of each sample, about: int64 [n]."""
        return self.cost[self.snapshot.locate(ids)[0]]

    def window(self, ids: Ids) -> Window:
        """What to ask the archive for to have samples `ids`: int64 rising, no id twice."""
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
        """Training samples, as expected: which of a source's own rows are held out is not counted one by one."""
        snapshot = self.snapshot
        is_train = np.array([source.startswith(TRAIN_SOURCE) for source in snapshot.sources], np.bool_)
        rows = snapshot.rows[self.blocks]
        share = np.where(is_train[snapshot.source[self.blocks]], 1.0, 1.0 - self.test_fraction)
        return round(float((rows * share).sum()))

    @property
    def num_bytes(self) -> int:
        """What all of them would hold in memory, about."""
        return int((self.snapshot.rows * self.cost)[self.blocks].sum())


def supply(snapshot: Snapshot, test_fraction: float) -> Supply:
    """What a snapshot has to train on."""
    is_test = np.array([source.startswith(TEST_SOURCE) for source in snapshot.sources], np.bool_)
    has_any = snapshot.rows > 0
    blocks = np.flatnonzero(has_any & ~is_test[snapshot.source]) if snapshot.num_blocks else np.zeros(0, np.int64)
    cost = -(-snapshot.num_bytes // np.maximum(snapshot.rows, 1)) + sampling.SAMPLE_OVERHEAD
    return Supply(snapshot, test_fraction, blocks, cost)
