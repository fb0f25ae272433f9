"""What one epoch leaves to the next: the snapshot, the epoch's start and the scores.

Together with the job's settings it determines the next epoch's plan, in this process or in another one. Covers its form
as a safetensors blob. See also: `ports.CheckpointStore` for where it is kept.
"""

from dataclasses import dataclass, field

import numpy as np

from edged.domain import format_version, tensors
from edged.domain.archive import protocol
from edged.domain.archive.protocol import SnapshotPart
from edged.domain.archive.snapshot import Snapshot
from edged.domain.epochs.epoch_start import EpochStart, decode_epoch_start
from edged.domain.epochs.importance import Gate
from edged.domain.epochs.scores import ScoreTable
from edged.errors import FormatError

_VERSION = "epoch_memo/3"


@dataclass(frozen=True, eq=False)
class SamplerState:
    """The state for `epoch`. `start` and `scores` are numbered by `snapshot`, which is that of the epoch before.

    `gate`: as that epoch left it; what it decided for this one is in `start`.
    """

    epoch: int
    snapshot: Snapshot
    start: EpochStart
    scores: ScoreTable
    gate: Gate = field(default_factory=Gate)


def encode(state: SamplerState) -> bytes:
    """The state as a blob."""
    snapshot = protocol.encode_part(SnapshotPart("memo", state.epoch, last=True, snapshot=state.snapshot))
    parts = {"snapshot": snapshot, "boundary": state.start.encode(), "scores": state.scores.encode()}
    metadata = {"edged": _VERSION, "gate": state.gate.encode()}
    return tensors.encode({name: np.frombuffer(part, np.uint8) for name, part in parts.items()}, metadata)


def decode(blob: bytes, *, score_bytes: int) -> SamplerState:
    """The state in `blob`; `score_bytes`: the budget of its ScoreTable. Raises FormatError.

    What it holds follows from the archive and the cache: whoever cannot read it draws the epoch again.
    """
    arrays, metadata = tensors.decode(blob)
    format_version.check(metadata.get("edged"), _VERSION)

    def blob_of(name: str) -> bytes:
        return tensors.require(arrays, name, "uint8").tobytes()

    part = protocol.decode_part(blob_of("snapshot"))
    if not isinstance(part, SnapshotPart):
        raise FormatError("the sampler state holds no snapshot")
    _check_order(part.snapshot)
    scores = ScoreTable(part.snapshot, score_bytes)
    scores.load(blob_of("scores"))
    start = decode_epoch_start(blob_of("boundary"), part.snapshot)
    return SamplerState(part.part, part.snapshot, start, scores, Gate.decode(metadata.get("gate", "")))


def _check_order(snapshot: Snapshot) -> None:
    """Blocks rise by source and offset; a repeated block would give its samples two ids each."""
    source_step, offset_step = np.diff(snapshot.source), np.diff(snapshot.offset)
    if not ((source_step > 0) | (source_step == 0) & (offset_step > 0)).all():
        raise FormatError("the sampler state's blocks are out of order")
