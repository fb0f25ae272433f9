"""The border's rule on columns: which samples of a block need a closer look, found without an object for each.

`border.check_sample` says what is wrong with those; all others it accepts.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edged.domain.samples import border
from edged.domain.samples.border import MAX_OFFSET, MAX_PARTITION, Refused
from edged.domain.samples.columns import PackColumns, Rows, Texts
from edged.domain.samples.rules import MAGIC, MAX_MAGNITUDE, MIN_MAGNITUDE, raw_bytes
from edged.domain.samples.sample import CODECS, MAX_BYTES
from edged.domain.samples.times import UNKNOWN_MS
from edged.domain.topology import Stream
from edged.errors import RejectedRecord

Flags = npt.NDArray[np.bool_]


def refused(columns: PackColumns, rows: Rows, stream: Stream) -> list[Refused]:
    """Which of `rows` the border refuses, and why."""
    found: list[Refused] = []
    for row in rows[_is_doubtful(columns, rows, stream)].tolist():
        sample = columns.sample(row)
        try:
            border.check_sample(sample, stream)
        except RejectedRecord as error:
            place = sample.device[:64], sample.partition, sample.offset
            found.append(Refused(row, *place, error.reason, error.detail))
    return found


def _is_doubtful(columns: PackColumns, rows: Rows, stream: Stream) -> Flags:
    """Of each of `rows`, whether the border may refuse it."""
    times = columns.arrived_ms[rows], columns.sampled_ms[rows]
    partition, offset = columns.partition[rows], columns.offset[rows]
    doubtful = (partition < 0) | (partition > MAX_PARTITION) | (offset < 0) | (offset > MAX_OFFSET)
    doubtful |= (times[0] < UNKNOWN_MS) | (times[1] < UNKNOWN_MS)  # no int64 is above MAX_TIME_MS
    doubtful |= ~_all_of(columns.device, border.is_device_name)[rows]
    doubtful |= ~_all_of(columns.label, border.is_storable)[rows]
    lengths = columns.lengths[rows]
    doubtful |= (lengths == 0) | (lengths > MAX_BYTES)
    for number in np.unique(columns.codec[rows]).tolist():
        of_codec = np.flatnonzero((columns.codec[rows] == number) & ~doubtful)
        if CODECS[number] == "raw":
            doubtful[of_codec] = ~_is_raw(columns, rows[of_codec], stream)
        else:
            doubtful[of_codec] = ~_begins(columns, rows[of_codec], MAGIC[CODECS[number]])
    return doubtful


def _all_of(column: Texts, is_good: Callable[[str], bool]) -> Flags:
    """Of each row, whether its text is good; none is."""
    good: Flags = np.array([*map(is_good, column.values), True], np.bool_)
    return good[column.numbers]


def _is_raw(columns: PackColumns, rows: Rows, stream: Stream) -> Flags:
    good: Flags = columns.lengths[rows] == raw_bytes(stream)
    if stream.dtype == "float32" and good.any():
        numbers = np.concatenate(columns.payloads(rows[good])).view("<f4").reshape(int(good.sum()), -1)
        magnitudes = np.abs(numbers)
        largest = magnitudes.max(axis=1)  # NaN, if there is one
        good[good] = (largest == 0) | ((largest >= MIN_MAGNITUDE) & (largest <= MAX_MAGNITUDE))
    return good


def _begins(columns: PackColumns, rows: Rows, magic: bytes) -> Flags:
    good: Flags = columns.lengths[rows] >= len(magic)
    first = columns.bounds[rows[good], np.newaxis] + np.arange(len(magic))
    good[good] = (columns.payload[first] == np.frombuffer(magic, np.uint8)).all(axis=1)
    return good
