"""The offsets that an archive file covers: those of its packs and of the known gaps between them."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

Gap = tuple[int, int]
"""(first, next): offsets that the log had deleted before they could be archived, or that never held a record."""


def covered(offsets: Sequence[int], gaps: Iterable[Gap]) -> Gap:
    """The range (first, next) that the packs' offsets and the gaps cover together.

    Raises ValueError unless they are contiguous, the offsets in order, and at least one pack among them.
    """
    if not offsets or any(a >= b for a, b in pairwise(offsets)):
        raise ValueError("a file holds at least one pack, and packs in the order of their offsets")
    spans = sorted([(offset, offset + 1) for offset in offsets] + list(gaps))
    if any(first >= end for first, end in spans) or any(a[1] != b[0] for a, b in pairwise(spans)):
        raise ValueError("offsets of packs and gaps are not contiguous")
    return spans[0][0], spans[-1][1]


def num_offsets(gaps: Iterable[Gap]) -> int:
    """How many offsets the gaps cover."""
    return sum(end - first for first, end in gaps)
