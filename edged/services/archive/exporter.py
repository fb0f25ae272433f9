"""Takes samples out of the archive for other programs, block by block; what is left out is counted by its reason."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np

from edged.domain.archive import export
from edged.domain.archive.export import Exported
from edged.domain.archive.snapshot import Snapshot
from edged.domain.samples import column_border
from edged.domain.samples.columns import PackColumns
from edged.domain.topology import Stream
from edged.errors import StorageError
from edged.ports import ArchiveStore

_BLOCKS_PER_READ = 1024
"""Names of blocks in memory; the blocks themselves come one by one."""

QUARANTINED, UNREADABLE = "in quarantine", "not readable"


def samples(
    store: ArchiveStore,
    stream: Stream,
    snapshot: Snapshot,
    on_progress: Callable[[int], object],
    left_out: Counter[str],
) -> Iterator[Exported]:
    """The snapshot's samples, in its order; `left_out` counts the others, by reason.

    `on_progress` gets numbers of samples that are done. Raises StorageError, ArchiveUnavailable while the archive as a
    whole cannot be read; a block that is damaged or gone is left out.
    """
    for first in range(0, snapshot.num_blocks, _BLOCKS_PER_READ):
        blocks = range(first, min(first + _BLOCKS_PER_READ, snapshot.num_blocks))
        with closing(store.read_each(stream.name, [snapshot.ref(block) for block in blocks])) as read:
            for number, (_, block) in zip(blocks, read, strict=True):
                if isinstance(block, StorageError):
                    left_out[UNREADABLE] += int(snapshot.rows[number])
                else:
                    yield from _of_block(stream, snapshot, number, block, left_out)
                on_progress(int(snapshot.rows[number]))


def _of_block(
    stream: Stream, snapshot: Snapshot, number: int, block: PackColumns, left_out: Counter[str]
) -> Iterator[Exported]:
    out = snapshot.is_quarantined(number)
    left_out[QUARANTINED] += int(out.sum())
    refused = column_border.refused(block, np.flatnonzero(~out), stream)
    for each in refused:
        out[each.row] = True
        left_out[each.reason] += 1
    source, offset = snapshot.ref(number)
    for row in np.flatnonzero(~out).tolist():
        sample = block.sample(row)
        name = export.name_of(source, offset, row)
        yield Exported(export.split_of(source), name, sample.label, sample.codec, sample.payload)
