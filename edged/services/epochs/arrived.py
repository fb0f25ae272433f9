"""What fetches have brought of a window's samples, to look up by id.

A sample costs its payload and some 40 bytes here: it is an object of its own only while it is read. See also:
`window_reader` for who asks, `domain.epochs.window.SAMPLE_OVERHEAD` for what is reckoned with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.domain.archive.snapshot import Ids
from edged.domain.cache.entry import Entry


@dataclass(frozen=True, slots=True)
class _Batch:
    """`ids`: int64 [n], rising; `order[i]`: the place of `ids[i]` in the columns."""

    ids: Ids
    order: Ids
    payloads: Sequence[bytes | None]
    codecs: Sequence[str]
    labels: Sequence[str | None]

    def entry(self, at: int) -> Entry | None:
        place = int(self.order[at])
        payload = self.payloads[place]
        return None if payload is None else Entry(payload, self.codecs[place], self.labels[place])


class Arrived:
    """Of a sample that came several times, the last."""

    def __init__(self) -> None:
        self._batches: list[_Batch] = []

    def add(
        self, ids: Ids, payloads: Sequence[bytes | None], codecs: Sequence[str], labels: Sequence[str | None]
    ) -> None:
        """Take these, by distinct ids, in the columns' order; a payload None: the archive does not have the sample."""
        order = np.argsort(ids, kind="stable")
        self._batches.append(_Batch(ids[order], order, payloads, codecs, labels))

    def have(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of `ids` have come, or are known to be missing in the archive: bool [n]."""
        found = np.zeros(len(ids), np.bool_)
        for batch in self._batches:
            found |= find(batch.ids, ids)[1]
        return found

    def entries(self, ids: Ids) -> dict[int, Entry | None]:
        """Those of `ids` that have come; None for what the archive does not have."""
        found: dict[int, Entry | None] = {}
        for batch in self._batches:
            at, is_there = find(batch.ids, ids)
            found |= {
                sample: batch.entry(i) for sample, i in zip(ids[is_there].tolist(), at[is_there].tolist(), strict=True)
            }
        return found


def find(rising: Ids, ids: Ids) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """The place of each of `ids` in `rising`, int64 [n], where it is there: bool [n]."""
    at = np.minimum(np.searchsorted(rising, ids), max(len(rising) - 1, 0))
    return at, rising[at] == ids if len(rising) else np.zeros(len(ids), np.bool_)
