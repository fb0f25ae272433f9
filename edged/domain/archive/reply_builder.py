"""Builds the archive's reply to a request for samples: the order in which blocks are read, and the cut into parts.

Reads nothing and sends nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.domain.archive import protocol
from edged.domain.archive.protocol import MAX_PART_BYTES, Picked, SamplesRequest
from edged.domain.archive.snapshot import BlockRef, Ids
from edged.domain.samples import column_border
from edged.domain.samples.border import Refused
from edged.domain.samples.columns import PackColumns
from edged.domain.topology import Stream

_SAMPLE_OVERHEAD_BYTES = 24
"""Of one sample in a part: position, label, codec and end."""
_MISSING_BYTES = 8
_NONE = np.zeros(0, np.int64)


class BlockRead(NamedTuple):
    """The wanted rows of one block, int64 [k], and the position of each in the request, int64 [k]."""

    ref: BlockRef
    rows: Ids
    positions: Ids


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


class ReplyPart(NamedTuple):
    """One encoded message of a reply, with its numbers of samples and of missing ones."""

    message: bytes
    samples: int
    missing: int


class ReplyBuilder:
    """Cuts a reply into parts of at most MAX_PART_BYTES; a larger sample gets a part of its own.

    Call `add` with each block, then `close`; each gives the parts that are full. Holds one part.
    """

    def __init__(self, request: str, stream: Stream) -> None:
        self._request = request
        self._stream = stream
        self._refused: list[Refused] = []
        self._next_part = 0
        self._clear()

    def add(self, read: BlockRead, block: PackColumns | None) -> Iterator[ReplyPart]:
        """Add the block's wanted samples.

        Missing are the positions of rows beyond it, of all without a block, and of samples that the border refuses.
        """
        is_found, sizes = self._found(read.rows, block)
        start = 0
        while start < len(sizes):
            end = start + self._fitting(sizes[start:])
            cut, found = slice(start, end), is_found[start:end]
            positions = read.positions[cut]
            self._missing.append(positions[~found])
            if block is not None and found.any():
                self._positions.append(positions[found])
                self._picked.append(protocol.picked(block, read.rows[cut][found]))
            self._num_bytes += int(sizes[cut].sum())
            start = end
            if start < len(sizes):
                yield self._part(last=False)

    def take_refused(self) -> list[Refused]:
        """What the border has refused since the last call."""
        refused, self._refused = self._refused, []
        return refused

    def close(self) -> ReplyPart:
        """The last part, with the rest; it may be empty."""
        return self._part(last=True)

    def _found(self, rows: Ids, block: PackColumns | None) -> tuple[npt.NDArray[np.bool_], Ids]:
        """Which of `rows` are sent, and the bytes that each takes of a part."""
        sizes = np.full(len(rows), _MISSING_BYTES, np.int64)
        if block is None:
            return np.zeros(len(rows), np.bool_), sizes
        is_found = rows < len(block)
        refused = column_border.refused(block, rows[is_found], self._stream)
        if refused:
            self._refused += refused
            is_found &= ~np.isin(rows, [each.row for each in refused])
        sizes[is_found] = _SAMPLE_OVERHEAD_BYTES + block.lengths[rows[is_found]]
        return is_found, sizes

    def _fitting(self, sizes: Ids) -> int:
        """How many of the first fit into this part; at least one into an empty one."""
        fitting = int(np.searchsorted(np.cumsum(sizes), MAX_PART_BYTES - self._num_bytes, side="right"))
        return fitting if self._num_bytes else max(fitting, 1)

    def _part(self, *, last: bool) -> ReplyPart:
        position, missing = (np.concatenate([_NONE, *each]) for each in (self._positions, self._missing))
        message = protocol.encode_samples(self._request, self._next_part, position, self._picked, missing, last=last)
        self._next_part += 1
        self._clear()
        return ReplyPart(message, len(position), len(missing))

    def _clear(self) -> None:
        self._picked: list[Picked] = []
        self._positions: list[Ids] = []
        self._missing: list[Ids] = []
        self._num_bytes = 0
