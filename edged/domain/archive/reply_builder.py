"""Builds the archive's reply to a request for samples: the order in which blocks are read, and the cut into parts.

Reads nothing and sends nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.domain.archive.protocol import MAX_PART_BYTES, SamplesPart, SamplesRequest
from edged.domain.archive.snapshot import BlockRef
from edged.domain.samples import border
from edged.domain.samples.border import Refused
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.domain.topology import Stream
from edged.errors import RejectedRecord

_SAMPLE_OVERHEAD_BYTES = 24
"""Of one sample in a part: position, label, codec and end."""
_MISSING_BYTES = 8


class BlockRead(NamedTuple):
    """The wanted rows of one block, int64 [k], and the position of each in the request, int64 [k]."""

    ref: BlockRef
    rows: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]


def block_reads(request: SamplesRequest) -> list[BlockRead]:
    """The blocks to read, sorted by (source, offset), each once, however often the request names it."""
    first = np.cumsum([0, *(len(rows) for rows in request.rows)])
    entries: dict[BlockRef, list[int]] = {}
    for i, ref in enumerate(request.refs):
        entries.setdefault(ref, []).append(i)
    return [
        BlockRead(
            ref,
            np.concatenate([request.rows[i] for i in entries[ref]]).astype(np.int64),
            np.concatenate([np.arange(first[i], first[i + 1]) for i in entries[ref]]),
        )
        for ref in sorted(entries)
    ]


class ReplyBuilder:
    """Cuts a reply into parts of at most MAX_PART_BYTES; a larger sample gets a part of its own.

    Call `add` with each block, then `close`; each gives the parts that are full.
    """

    def __init__(self, request: str, stream: Stream) -> None:
        self._request = request
        self._stream = stream
        self._refused: list[Refused] = []
        self._next_part = 0
        self._clear()

    def add(self, read: BlockRead, pack: Pack | None) -> Iterator[SamplesPart]:
        """Add the block's wanted samples.

        Missing are the positions of rows beyond it, of all without a pack, and of samples that the border refuses.
        """
        for row, position in zip(read.rows.tolist(), read.positions.tolist(), strict=True):
            sample = None if pack is None or row >= len(pack.samples) else pack.samples[row]
            if sample is None or self._is_refused(row, sample):
                yield from self._make_room(_MISSING_BYTES)
                self._missing.append(position)
            else:
                yield from self._make_room(_SAMPLE_OVERHEAD_BYTES + len(sample.payload))
                self._positions.append(position)
                self._samples.append(sample)

    def take_refused(self) -> list[Refused]:
        """What the border has refused since the last call."""
        refused, self._refused = self._refused, []
        return refused

    def _is_refused(self, row: int, sample: Sample) -> bool:
        try:
            border.check_sample(sample, self._stream)
        except RejectedRecord as error:
            place = sample.device[:64], sample.partition, sample.offset
            self._refused.append(Refused(row, *place, error.reason, error.detail))
            return True
        return False

    def close(self) -> SamplesPart:
        """The last part, with the rest; it may be empty."""
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
