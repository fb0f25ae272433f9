"""How the archive answers a request for samples: which blocks to read in which order, and the cut into parts.

Covers the order of reading and the parts' sizes. Reads nothing and sends nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.domain.archive.protocol import MAX_PART_BYTES, SamplesPart, SamplesRequest
from edged.domain.archive.snapshot import BlockRef
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample

_BYTES_BESIDE_PAYLOAD = 24
"""Of one sample in a part: its position, label, codec and end."""
_BYTES_OF_MISSING = 8


class Want(NamedTuple):
    """The wanted rows of one block, int64 [k], and the position of each in the request, int64 [k]."""

    ref: BlockRef
    rows: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]


def wants(request: SamplesRequest) -> list[Want]:
    """What to read, sorted by where it lies; each block once, however often the request names it."""
    first = np.cumsum([0, *(len(rows) for rows in request.rows)])
    entries: dict[BlockRef, list[int]] = {}
    for i, ref in enumerate(request.refs):
        entries.setdefault(ref, []).append(i)
    return [
        Want(
            ref,
            np.concatenate([request.rows[i] for i in entries[ref]]).astype(np.int64),
            np.concatenate([np.arange(first[i], first[i + 1]) for i in entries[ref]]),
        )
        for ref in sorted(entries)
    ]


class Parts:
    """Cuts an answer into parts of at most MAX_PART_BYTES, or of one sample that is larger alone.

    Feed it blocks with `add`, then call `close`; each gives the parts that are full by then.
    """

    def __init__(self, request: str) -> None:
        self._request = request
        self._next_part = 0
        self._clear()

    def add(self, want: Want, pack: Pack | None) -> Iterator[SamplesPart]:
        """The block's wanted samples; without a pack, or for rows that it lacks, their positions are missing."""
        for row, position in zip(want.rows.tolist(), want.positions.tolist(), strict=True):
            if pack is None or row >= len(pack.samples):
                yield from self._make_room(_BYTES_OF_MISSING)
                self._missing.append(position)
            else:
                sample = pack.samples[row]
                yield from self._make_room(_BYTES_BESIDE_PAYLOAD + len(sample.payload))
                self._positions.append(position)
                self._samples.append(sample)

    def close(self) -> SamplesPart:
        """The last part, with what is left; it may be empty."""
        return self._part(last=True)

    def _make_room(self, num_bytes: int) -> Iterator[SamplesPart]:
        if self._num_bytes and self._num_bytes + num_bytes > MAX_PART_BYTES:
            yield self._part(last=False)
        self._num_bytes += num_bytes

    def _part(self, *, last: bool) -> SamplesPart:
        part = SamplesPart(
            self._request,
            self._next_part,
            last,
            np.array(self._positions, np.int64),
            tuple(sample.label for sample in self._samples),
            tuple(sample.codec for sample in self._samples),
            tuple(sample.payload for sample in self._samples),
            np.array(self._missing, np.int64),
        )
        self._next_part += 1
        self._clear()
        return part

    def _clear(self) -> None:
        self._samples: list[Sample] = []
        self._positions: list[int] = []
        self._missing: list[int] = []
        self._num_bytes = 0
