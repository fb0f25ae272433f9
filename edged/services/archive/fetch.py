"""Requests of an edge under way: which samples or blocks have come, and which are missing."""

import numpy as np

from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart, SnapshotPart
from edged.domain.archive.snapshot import Ids, Snapshot
from edged.domain.epochs.window import SAMPLE_OVERHEAD, Window
from edged.errors import FormatError


class WindowFetch:
    """A window's samples as they come in, by position; None where nothing has come or the archive has none."""

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
        """Samples that have not come yet."""
        return self._num_open

    def open_positions(self) -> Ids:
        return np.flatnonzero(self._is_open)

    def accept(self, part: SamplesPart, positions: Ids) -> None:
        """Take what the part holds; `positions[i]`: where position i of its request lies in the window.

        What came before is ignored. Raises FormatError for positions that were not asked for.
        """
        for asked in (part.position, part.missing):
            if len(asked) and not 0 <= asked.min() <= asked.max() < len(positions):
                raise FormatError("a reply names samples that were not asked for")
        arrived = positions[part.position].tolist()
        for at, payload, label, codec in zip(arrived, part.payloads, part.labels, part.codecs, strict=True):
            if self._is_open[at]:
                self._is_open[at] = False
                self.payloads[at], self.labels[at], self.codecs[at] = payload, label, codec
                self.num_bytes += len(payload) + SAMPLE_OVERHEAD
        missing = np.unique(positions[part.missing])
        self.num_missing += int(self._is_open[missing].sum())
        self._is_open[missing] = False
        self._num_open = int(self._is_open.sum())


class SnapshotFetch:
    """A snapshot as its parts come in."""

    def __init__(self, ends: dict[str, int] | None) -> None:
        self.ends = ends
        self.num_bytes = 0
        self._parts: dict[int, SnapshotPart] = {}
        self._num_parts: int | None = None
        self._whole: Snapshot | None = None

    @property
    def is_complete(self) -> bool:
        return self._whole is not None

    @property
    def num_open(self) -> int:
        return 0

    def accept(self, part: SnapshotPart) -> None:
        """Take a part. Raises FormatError, and starts over, when the parts are not one snapshot's."""
        self._parts[part.part] = part
        if part.last:
            self._num_parts = part.part + 1
        if self._num_parts is not None and all(number in self._parts for number in range(self._num_parts)):
            parts = [self._parts[number] for number in range(self._num_parts)]
            self._parts, self._num_parts = {}, None
            self._whole = protocol.join_snapshot(parts)

    def snapshot(self) -> Snapshot:
        """The whole; only when it is complete."""
        assert self._whole is not None
        return self._whole


Fetch = WindowFetch | SnapshotFetch
