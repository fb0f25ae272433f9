"""Quarantine: samples of the archive are taken out of training, and brought back, by records in a source of their own.

Covers the records, what is in effect after a prefix of them, and laying that over a snapshot's blocks. Blocks never
change: a sample in quarantine keeps its place, its id and its side of the train/test split. See also: `snapshot` (what
a plan makes of it), `services.archive.quarantine` (writing records).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from edged.domain import format_version
from edged.domain.archive.snapshot import BlockRef, Snapshot
from edged.domain.samples.pack import MAX_SAMPLES, Pack
from edged.domain.samples.sample import Sample
from edged.errors import AnotherVersion, FormatError

Action = Literal["quarantine", "release"]
ACTIONS: tuple[Action, ...] = ("quarantine", "release")

_VERSION = "quarantine/1"
_DEVICE = "operator"
_MAX_BY = 128

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class QuarantineRecord:
    """Row `row` of a block, or without a row the whole block, goes into quarantine or is released.

    `by`: who said so; `when_ms`: Unix time of their clock, for people.
    """

    action: Action
    ref: BlockRef
    row: int | None
    by: str
    when_ms: int


def to_pack(stream: str, records: Iterable[QuarantineRecord]) -> Pack:
    """The block that holds these records; at most MAX_SAMPLES."""
    return Pack(
        stream,
        tuple(
            Sample(_DEVICE, 0, number, record.when_ms, None, "raw", _to_json(record))
            for number, record in enumerate(records)
        ),
    )


def from_pack(pack: Pack) -> list[QuarantineRecord]:
    """The records of such a block. Raises FormatError."""
    return [_from_json(sample) for sample in pack.samples]


def in_effect(records: Iterable[QuarantineRecord]) -> dict[BlockRef, Mask]:
    """Which rows are in quarantine after these records, in their order: bool [MAX_SAMPLES] of each block with any."""
    masks: dict[BlockRef, Mask] = {}
    for record in records:
        mask = masks.setdefault(record.ref, np.zeros(MAX_SAMPLES, np.bool_))
        rows = slice(None) if record.row is None else record.row
        mask[rows] = record.action == "quarantine"
        if not mask.any():
            del masks[record.ref]
    return masks


def is_whole_block(records: Iterable[QuarantineRecord], ref: BlockRef) -> bool:
    """Whether all of this block is in quarantine after these records; it need not be archived yet."""
    mask = in_effect(each for each in records if each.ref == ref).get(ref)
    return mask is not None and bool(mask.all())


def laid_over(snapshot: Snapshot, masks: Mapping[BlockRef, Mask]) -> Snapshot:
    """The snapshot with these rows in quarantine, as far as it has them."""
    found = sorted((block, ref) for ref in masks if (block := snapshot.block_of(ref)) is not None)
    ranges = [
        (block, first, end) for block, ref in found for first, end in _ranges(masks[ref][: int(snapshot.rows[block])])
    ]
    return replace(snapshot, quarantined=np.array(ranges, np.int64).reshape(len(ranges), 3))


def _ranges(mask: Mask) -> list[tuple[int, int]]:
    """Where the mask is true: (first, end) of each run."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def _to_json(record: QuarantineRecord) -> bytes:
    fields = {
        "edged": _VERSION,
        "action": record.action,
        "source": record.ref.source,
        "offset": record.ref.offset,
        "row": record.row,
        "by": record.by[:_MAX_BY],
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _from_json(sample: Sample) -> QuarantineRecord:
    try:
        fields = json.loads(sample.payload)
        format_version.check(fields["edged"], _VERSION)
        action, source, offset, row, by = (fields[name] for name in ("action", "source", "offset", "row", "by"))
    except AnotherVersion as error:
        raise AnotherVersion(f"a record of the quarantine is {error}: whom it concerns is not known") from error
    except (FormatError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError("not a record of the quarantine") from error
    is_row = row is None or (type(row) is int and 0 <= row < MAX_SAMPLES)
    is_place = type(source) is str and type(offset) is int and 0 <= offset < 1 << 63
    if action not in ACTIONS or not is_row or not is_place or type(by) is not str:
        raise FormatError("a record of the quarantine names no sample and no block")
    return QuarantineRecord(action, BlockRef(source, offset), row, by, sample.arrived_ms)
