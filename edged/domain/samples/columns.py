"""A pack by its columns, as the archive's files and the wire have them: no object for each sample.

See also: `pack` (their encoding, and a pack of samples), `column_border` (the border's rule on columns).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edged.domain.place import Place
from edged.domain.samples.sample import CODECS, Sample
from edged.domain.samples.times import UNKNOWN_MS

_ROW_BYTES = 8 * 4 + 4 * 4 + 1
"""Of one sample in all columns but the payload."""

_COLUMNS_BYTES = 4096
_MAX_RUNS = 8
"""Of neighbours: one copy of many small payloads takes less time than as many pieces."""

_CURSOR_BYTES = 128

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Texts(NamedTuple):
    """A column of texts: `values` ascend, each is used; `numbers`: int32 [n], -1 for none."""

    values: tuple[str, ...]
    numbers: npt.NDArray[np.int32]

    def at(self, row: int) -> str | None:
        number = int(self.numbers[row])
        return None if number < 0 else self.values[number]


@dataclass(frozen=True, slots=True, eq=False)
class PackColumns:
    """`payload`: of all samples, one after the other; sample i's is from `bounds[i]` to `bounds[i + 1]`.

    `bounds` int64 [n + 1], `partition` int32 [n], `offset`, `arrived_ms`, `sampled_ms` (UNKNOWN_MS: none) int64 [n],
    `codec` uint8 [n], a number of CODECS. `cursors`: as of `Pack`.
    """

    stream: str
    payload: Bytes
    bounds: Rows
    label: Texts
    device: Texts
    partition: npt.NDArray[np.int32]
    incarnation: Texts
    offset: npt.NDArray[np.int64]
    arrived_ms: npt.NDArray[np.int64]
    sampled_ms: npt.NDArray[np.int64]
    codec: npt.NDArray[np.uint8]
    cursors: Mapping[str, Place]

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.bounds) - 1

    @property
    def lengths(self) -> Rows:
        """Bytes of each payload, int64 [n]."""
        return self.bounds[1:] - self.bounds[:-1]

    @property
    def memory_bytes(self) -> int:
        """About: of the columns, and of all objects."""
        return len(self.payload) + _ROW_BYTES * (len(self) + 1) + _COLUMNS_BYTES + _CURSOR_BYTES * len(self.cursors)

    def sample(self, row: int) -> Sample:
        """The sample of `row`, as an object."""
        device, incarnation = self.device.at(row), self.incarnation.at(row)
        assert device is not None
        assert incarnation is not None
        sampled_ms = int(self.sampled_ms[row])
        return Sample(
            device,
            int(self.partition[row]),
            int(self.offset[row]),
            int(self.arrived_ms[row]),
            self.label.at(row),
            CODECS[self.codec[row]],
            self.payload[self.bounds[row] : self.bounds[row + 1]].tobytes(),
            None if sampled_ms == UNKNOWN_MS else sampled_ms,
            incarnation,
        )

    def payloads(self, rows: Rows) -> list[Bytes]:
        """The payloads of `rows`, one after the other: views of `payload`, or one copy of many small ones."""
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of runs of neighbours
        length = len(self.payload) // len(self) if len(self) else 0
        if len(starts) > _MAX_RUNS and (self.lengths == length).all():
            return [self.payload.reshape(len(self), length)[rows].reshape(-1)]
        first, last = rows[starts], rows[[*(starts[1:] - 1).tolist(), len(rows) - 1]] if len(rows) else rows
        bounds = zip(self.bounds[first].tolist(), self.bounds[last + 1].tolist(), strict=True)
        return [self.payload[start:end] for start, end in bounds]


def texts(column: Sequence[str | None]) -> Texts:
    """The column of these texts."""
    values = sorted({text for text in column if text is not None})
    numbers: dict[str | None, int] = {text: i for i, text in enumerate(values)} | {None: -1}
    return Texts(tuple(values), np.array([numbers[text] for text in column], np.int32))


def renumbered(values: Sequence[str], numbers: npt.NDArray[Any]) -> Texts:
    """The column of texts `values[numbers]`, -1 for none. `values` may be in any order, repeated or not used."""
    used = np.bincount(numbers + 1, minlength=len(values) + 1)[1:].nonzero()[0].tolist()
    kept = sorted({values[i] for i in used})
    place = {value: i for i, value in enumerate(kept)}
    places = [-1] * (len(values) + 1)  # the last is that of none
    for i in used:
        places[i] = place[values[i]]
    return Texts(tuple(kept), np.array(places, np.int32)[numbers])


def of_samples(stream: str, samples: Sequence[Sample], cursors: Mapping[str, Place]) -> PackColumns:
    """These samples by their columns."""
    payloads = [sample.payload for sample in samples]
    return PackColumns(
        stream,
        np.frombuffer(b"".join(payloads), np.uint8),
        np.cumsum([0, *map(len, payloads)], dtype=np.int64),
        texts([sample.label for sample in samples]),
        texts([sample.device for sample in samples]),
        np.array([sample.partition for sample in samples], np.int32),
        texts([sample.incarnation for sample in samples]),
        np.array([sample.offset for sample in samples], np.int64),
        np.array([sample.arrived_ms for sample in samples], np.int64),
        np.array([UNKNOWN_MS if each.sampled_ms is None else each.sampled_ms for each in samples], np.int64),
        np.array([CODECS.index(sample.codec) for sample in samples], np.uint8),
        cursors,
    )


def samples_of(columns: PackColumns) -> Iterable[Sample]:
    """The samples, as objects."""
    data, bounds = columns.payload.data, columns.bounds.tolist()  # what is cut out of it is copied once
    label, device, incarnation = (
        [*map((*each.values, None).__getitem__, each.numbers.tolist())]
        for each in (columns.label, columns.device, columns.incarnation)
    )
    return map(
        Sample,
        device,
        columns.partition.tolist(),
        columns.offset.tolist(),
        columns.arrived_ms.tolist(),
        label,
        map(CODECS.__getitem__, columns.codec.tolist()),
        (bytes(data[start:end]) for start, end in pairwise(bounds)),
        (None if time_ms == UNKNOWN_MS else time_ms for time_ms in columns.sampled_ms.tolist()),
        incarnation,
    )
