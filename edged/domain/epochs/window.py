"""Windows of samples to fetch at once, and the held-out samples in windows.

Covers what a window is and how many bytes it may have. Which training samples make one is cache_plan's subject; what a
window's request looks like on the wire is epoch_protocol's. Fetches nothing.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import BlockRef, Ids

SAMPLE_OVERHEAD = 64
"""Bytes that a held sample costs beside its payload (object header, label, codec); what makes tiny samples count."""

MAX_WINDOW_SAMPLES = 1 << 17
MAX_WINDOW_BLOCKS = 1 << 14
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
