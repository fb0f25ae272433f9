"""What one epoch leaves to the next: the snapshot, the boundary and the scores.

Together with the job's settings it determines the next epoch's plan, in this process or in another one. Covers its form
as a safetensors blob; where it is kept is the checkpoint store's subject.
"""

from dataclasses import dataclass, field

import numpy as np

from edged.domain import tensors
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SnapshotPart
from edged.domain.archive.snapshot import Snapshot
from edged.domain.epochs.epoch_start import EpochStart, decode_epoch_start
from edged.domain.epochs.importance import Gate
from edged.domain.epochs.scores import ScoreTable
from edged.errors import FormatError

_VERSION = "epoch_memo/2"


@dataclass(frozen=True, eq=False)
class SamplerState:
    """For `epoch`. `boundary` and `scores` are numbered by `snapshot`, which is that of the epoch before.

    `gate`: as that epoch left it; what it decided for this one stands in `boundary`.
    """

    epoch: int
    snapshot: Snapshot
    boundary: EpochStart
    scores: ScoreTable
    gate: Gate = field(default_factory=Gate)


def encode(memo: SamplerState) -> bytes:
    """The memo as a blob."""
    snapshot = protocol.encode_part(SnapshotPart("memo", memo.epoch, last=True, snapshot=memo.snapshot))
    parts = {"snapshot": snapshot, "boundary": memo.boundary.encode(), "scores": memo.scores.encode()}
    metadata = {"edged": _VERSION, "gate": memo.gate.encode()}
    return tensors.encode({name: np.frombuffer(part, np.uint8) for name, part in parts.items()}, metadata)


def decode(blob: bytes, *, score_bytes: int) -> SamplerState:
    """The memo in `blob`; `score_bytes`: see ScoreTable. Raises FormatError."""
    arrays, metadata = tensors.decode(blob)
    if metadata.get("edged") != _VERSION:
        raise FormatError(f"not a {_VERSION} but {metadata.get('edged')!r:.40}")

    def blob_of(name: str) -> bytes:
        return tensors.require(arrays, name, "uint8").tobytes()

    part = protocol.decode_part(blob_of("snapshot"))
    if not isinstance(part, SnapshotPart):
        raise FormatError("the memo's snapshot is none")
    _check_order(part.snapshot)
    scores = ScoreTable(part.snapshot, score_bytes)
    scores.load(blob_of("scores"))
    bounds = decode_epoch_start(blob_of("boundary"), part.snapshot)
    return SamplerState(part.part, part.snapshot, bounds, scores, Gate.decode(metadata.get("gate", "")))


def _check_order(snapshot: Snapshot) -> None:
    """Blocks rise by source and offset; a block that came twice would give a sample two ids."""
    source_step, offset_step = np.diff(snapshot.source), np.diff(snapshot.offset)
    if not ((source_step > 0) | (source_step == 0) & (offset_step > 0)).all():
        raise FormatError("the memo's blocks are out of order")
