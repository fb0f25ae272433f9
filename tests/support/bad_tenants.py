"""One bad tenant for each role, to be set beside good ones: what it does is its own trouble."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edged.domain.archive.protocol import SamplesRequest
from edged.domain.archive.snapshot import BlockRef

UNREADABLE_BATCH_KEY = b"unreadable"


def request_for_absent_blocks(edge: str, blocks: int, *, sources: Sequence[str] = ("pi-a",)) -> SamplesRequest:
    """An edge as requester: one row of each of so many blocks that no file holds, spread over the sources."""
    refs = tuple(BlockRef(sources[i % len(sources)], (1 << 40) + i) for i in range(blocks))
    return SamplesRequest("absent", edge, "fashion", refs, tuple(np.zeros(1, np.uint16) for _ in refs))


def damage_newest_file(archive: Path, source: str, stream: str = "fashion") -> Path:
    """A source of the archive: its newest file loses its end, as on a disk that lost power."""
    newest = max((archive / stream / source).glob("0*/*.parquet"))
    newest.write_bytes(newest.read_bytes()[:-100])
    return newest
