"""Collects samples into packs, each with the cursors after it.

Covers one stream's open pack. Knows no clock: the caller decides when a pack is closed before it is full.
"""

from collections.abc import Mapping

from edged.domain.place import Place
from edged.domain.samples.cursors import cursor_key
from edged.domain.samples.pack import MAX_SAMPLES, Pack
from edged.domain.samples.sample import MAX_BYTES, Sample


class Packer:
    """Packs of one stream, in the order of arrival.

    Invariant: the cursors of each pack are just after its last sample and whatever was skipped before the next one,
    so reading that resumes from the last pack's cursors misses nothing and repeats nothing.
    """

    def __init__(self, stream: str, cursors: Mapping[str, Place]) -> None:
        self._stream = stream
        self._cursors = dict(cursors)
        self._closed: list[Pack] = []
        self._open: list[Sample] = []
        self._open_bytes = 0
        self._moved = False

    @property
    def cursors(self) -> Mapping[str, Place]:
        """The next place to read of each device's partition."""
        return self._cursors

    @property
    def pending(self) -> bool:
        """Whether samples or cursors are left to take."""
        return self._moved or bool(self._closed)

    @property
    def num_bytes(self) -> int:
        """Payload bytes not yet taken."""
        return self._open_bytes + sum(pack.num_bytes for pack in self._closed)

    def add(self, sample: Sample, place: Place) -> None:
        """Add the next sample of its partition; `place`: after it."""
        if self._open_bytes + len(sample.payload) > MAX_BYTES:
            self._close()
        self._open.append(sample)
        self._open_bytes += len(sample.payload)
        self._move(sample.device, sample.partition, place)
        if len(self._open) == MAX_SAMPLES:
            self._close()

    def seek(self, cursors: Mapping[str, Place]) -> None:
        """Set these cursors: the next records come from there."""
        self._cursors |= cursors

    def skip(self, device: str, partition: int, place: Place) -> None:
        """Advance the cursor past a record that is no sample; `place`: after it."""
        self._move(device, partition, place)

    def take_full(self) -> list[Pack]:
        """Take the packs that are full."""
        packs, self._closed = self._closed, []
        return packs

    def take_all(self) -> list[Pack]:
        """Take all packs, the open one too. Empty when only cursors moved."""
        self._close()
        self._moved = False
        return self.take_full()

    def _move(self, device: str, partition: int, place: Place) -> None:
        # The offset may go backwards: a recreated topic begins at 0 again.
        self._cursors[cursor_key(device, partition)] = place
        self._moved = True

    def _close(self) -> None:
        if self._open:
            self._closed.append(Pack(self._stream, tuple(self._open), dict(self._cursors)))
            self._open, self._open_bytes = [], 0
            self._moved = False
