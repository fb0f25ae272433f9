"""Windows: samples that are fetched at once.

Covers what a window is and how large it may be. See also: `plan` for the training samples of each, `split` for the
held-out ones, `domain.archive.protocol` for a window's request.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import BlockRef, Ids

SAMPLE_OVERHEAD = 64
"""Bytes that a sample in memory costs besides its payload (object header, label, codec): so that tiny ones count."""

MAX_WINDOW_SAMPLES = 1 << 17
MAX_WINDOW_BLOCKS = 1 << 14
"""A window's request takes 2 bytes per sample and 16 per block: with these it stays below Kafka's limit of 1 MiB."""


@dataclass(frozen=True, eq=False)
class Window:
    """Some samples to fetch at once. A sample's *position* is its index in the concatenation of all `rows`.

    `rows[i]`: uint16 [k], the wanted rows of block `refs[i]`, rising and never empty. `ids`: int64 [n], the snapshot's
    sample id at each position. `order`: int64 [n], the positions in the order of use. `num_bytes`: the memory of its
    samples, about.
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
        """The refs and rows of some positions, int64 rising: to ask for those again."""
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
