"""What an edge has requested of the archive: the samples or blocks received, missing and still open."""

import numpy as np

from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart, SnapshotPart
from edged.domain.archive.snapshot import Ids, Snapshot
from edged.domain.epochs.window import SAMPLE_OVERHEAD, Window
from edged.errors import FormatError


class WindowFetch:
    """A window's samples by position; None where none was received or the archive has none."""

    def __init__(self, window: Window) -> None:
        n = window.num_samples
        self.window = window
        self.payloads: list[bytes | None] = [None] * n
        self.labels: list[str | None] = [None] * n
        self.codecs: list[str] = [""] * n
        self.num_missing = 0
        self.num_bytes = 0
        self.num_users = 1
        self._is_open = np.ones(n, np.bool_)
        self._num_open = n

    @property
    def is_complete(self) -> bool:
        return self._num_open == 0

    @property
    def num_open(self) -> int:
        """Samples neither received nor missing yet."""
        return self._num_open

    def open_positions(self) -> Ids:
        return np.flatnonzero(self._is_open)

    def accept(self, part: SamplesPart, positions: Ids) -> None:
        """Accept a part; `positions[i]`: the window position of position i of its request.

        Samples received before are ignored. Raises FormatError for positions that were not requested.
        """
        for named in (part.position, part.missing):
            if len(named) and not 0 <= named.min() <= named.max() < len(positions):
                raise FormatError("a reply names samples that were not asked for")
        received = positions[part.position].tolist()
        for i, payload, label, codec in zip(received, part.payloads, part.labels, part.codecs, strict=True):
            if self._is_open[i]:
                self._is_open[i] = False
                self.payloads[i], self.labels[i], self.codecs[i] = payload, label, codec
                self.num_bytes += len(payload) + SAMPLE_OVERHEAD
        missing = np.unique(positions[part.missing])
        self.num_missing += int(self._is_open[missing].sum())
        self._is_open[missing] = False
        self._num_open = int(self._is_open.sum())


class SnapshotFetch:
    """A snapshot, collected from its parts."""

    def __init__(self, ends: dict[str, int] | None) -> None:
        self.ends = ends
        self.num_bytes = 0
        self._parts: dict[int, SnapshotPart] = {}
        self._num_parts: int | None = None
        self._snapshot: Snapshot | None = None

    @property
    def is_complete(self) -> bool:
        return self._snapshot is not None

    @property
    def num_open(self) -> int:
        return 0

    def accept(self, part: SnapshotPart) -> None:
        """Accept a part. Raises FormatError, and starts over, when the parts are not of one snapshot."""
        self._parts[part.part] = part
        if part.last:
            self._num_parts = part.part + 1
        if self._num_parts is not None and all(number in self._parts for number in range(self._num_parts)):
            parts = [self._parts[number] for number in range(self._num_parts)]
            self._parts, self._num_parts = {}, None
            self._snapshot = protocol.join_snapshot(parts)

    def snapshot(self) -> Snapshot:
        """The snapshot; only when complete."""
        assert self._snapshot is not None
        return self._snapshot


Fetch = WindowFetch | SnapshotFetch
