"""A bounded queue of files: a device's samples on its disk, in order, from `publish` until their receipts.

Samples are synced before `append` returns, and so outlast a power cut on a disk that honours it. Reading runs ahead of
the receipts; after a restart it begins again at the first sample without one. Synchronous, for worker threads, several
at once. See also: `domain.device` (frames, names and bounds) and `buffer_folder` (the files).
"""

import errno
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edged.access import why_refused
from edged.adapters.disk.buffer_folder import HEADER_BYTES, BufferFolder, Cursor, Found, SegmentFile, this_boot
from edged.domain.counted import counted
from edged.domain.device import frames
from edged.domain.device.frames import MAX_FRAME_BYTES, Scan, salt_of
from edged.domain.device.sample import Buffered, Draft, Kept, Passed, Position, sample_id
from edged.domain.device.segments import Bounds, Segment, SegmentName, age_s, num_from
from edged.errors import BufferFull, DiskFull, StateFolderRefused, StorageError
from edged.log import ThrottledLog, logger

_CURSOR_EVERY_S = 1.0
"""Between two writes of the cursor: after a crash, samples with later receipts are sent once more."""

_READ_BYTES = 128 * 1024

MAX_APPEND_BYTES = 1 << 20
"""Of frames in one write, all of which go into one file."""

_MAX_FAILURES = 3
"""Failed reads in a row before a piece of a file counts as damaged."""

_FULL = {errno.ENOSPC, errno.EDQUOT}


class SampleBuffer:
    """The buffer in `folder`, which is created if missing, of the device that `owner` describes; until `close`.

    `dropped`: samples removed before their receipt, because they were too old or there was no room; some may have been
    sent already. `damaged`: samples that could not be read. Raises AlreadyRunning when another process has the folder,
    StateFolderRefused when it cannot be used. What a crash left of the last write is cut off, counted and logged.
    """

    def __init__(
        self,
        folder: Path,
        owner: Mapping[str, str],
        bounds: Bounds,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        steady_s: Callable[[], float] = time.monotonic,
        boot: Callable[[], str] = this_boot,
    ) -> None:
        self._bounds, self._now_ms, self._steady_s = bounds, now_ms, steady_s
        self._boot, self._boot_file = boot(), 0
        self.folder = folder
        self._lock = threading.Lock()
        self._lines = ThrottledLog()
        self._segments: list[Segment] = []
        self._cursor = self._read = Position(0, 0)
        self._passed: list[Passed] = []
        """Samples after the cursor, in order, that were dropped or are damaged, and have been counted."""
        self._read_at = 0
        self._file: SegmentFile | None = None
        self._next_file = 0
        self._cursor_written_s = -_CURSOR_EVERY_S
        self._failures = 0
        self.dropped = 0
        self.damaged = 0
        try:
            self._folder = BufferFolder(folder, owner)
            try:
                self._open()
            except BaseException:
                self._folder.close()
                raise
        except OSError as error:
            raise StateFolderRefused(f"the buffer {folder} cannot be used: {why_refused(folder, error)}") from error

    @property
    def series(self) -> str:
        """The series of the next samples' ids."""
        return self._series

    @property
    def num_samples(self) -> int:
        """Samples that wait for their receipt."""
        return num_from(self._segments, self._cursor) - sum(each.num_samples for each in self._passed)

    @property
    def num_bytes(self) -> int:
        """Bytes of its files, at most `max_bytes`."""
        return sum(each.num_bytes for each in self._segments)

    def append(self, drafts: Sequence[Draft]) -> list[str]:
        """Write the samples, all or none. Returns their ids once they are durable.

        They are at most MAX_APPEND_BYTES of frames, or one sample. Raises BufferFull when there is no room and the
        oldest may not be dropped, DiskFull or StorageError when the disk refuses; they may be delivered even so.
        """
        with self._lock:
            self._drop_expired()
            incoming = sum(frames.num_bytes(each.label, each.payload) for each in drafts)
            self._make_room(incoming + HEADER_BYTES, len(drafts))
            while True:
                try:
                    return self._write(drafts, incoming)
                except OSError as error:
                    is_full = error.errno in _FULL
                    if is_full and self._bounds.on_full == "drop_oldest" and self._drop_oldest("disk_full"):
                        continue
                    kind = DiskFull if is_full else StorageError
                    raise kind(
                        f"the buffer {self.folder} takes no sample: {why_refused(self.folder, error)}"
                    ) from error

    def read(self, max_samples: int, max_bytes: int) -> list[Buffered]:
        """The next samples: at least one, whatever the limits, or [] at the end."""
        with self._lock:
            self._drop_expired()
            found: list[Buffered] = []
            left = max_bytes
            while len(found) < max_samples and (left > 0 or not found):
                segment = self._segment_to_read()
                if segment is None:
                    break
                left -= self._read_some(segment, found, max_samples, left)
            self._advance(self._cursor)
            return found

    def received(self, position: Position) -> None:
        """All samples up to this position have their receipts. A file is deleted once all of its samples have."""
        with self._lock:
            self._advance(_after(position))
            now_s = self._steady_s()
            if now_s - self._cursor_written_s >= _CURSOR_EVERY_S:
                self._cursor_written_s = now_s
                self._write_cursor()

    def close(self) -> None:
        """Keep the place. Numbers go on in the next run, unless the machine starts again: it may have another card."""
        with self._lock:
            self._close_file()
            self._advance(self._cursor)
            self._write_cursor(self._series, self._next)
            self._folder.close()

    def _open(self) -> None:
        found = self._folder.segments()
        for each in found:
            self._folder.check(each.name)
        cursor = self._folder.cursor()
        torn_bytes = self._take_over(found)
        known = cursor or Cursor()
        self._cursor = known.first
        self._go_to(self._cursor)
        self._advance(self._cursor)
        self._next_file = 1 + max([known.first.file, *(each.name.file for each in found)])
        is_same_boot = self._boot != "" and known.boot == self._boot
        self._boot_file = known.boot_file if is_same_boot else self._next_file
        self._series, self._next = _new_series()
        try:
            self._folder.set_cursor(self._place())  # from here on the numbers are those of a run that may crash
        except OSError as error:
            if error.errno not in _FULL:
                raise
        else:
            if known.series and is_same_boot:
                self._series, self._next = known.series, known.next
        if torn_bytes or cursor is None:
            logger().warning("buffer.torn", folder=str(self.folder), torn_bytes=torn_bytes, cursor_lost=cursor is None)
        logger().info(
            "buffer.opened", folder=str(self.folder), samples=self.num_samples, num_bytes=self.num_bytes,
            foreign=self._folder.num_foreign,
        )  # fmt: skip

    def _take_over(self, found: Sequence[Found]) -> int:
        """Take over the files of earlier runs. Returns the bytes of torn frames that were cut off."""
        torn_bytes = 0
        for each, following in itertools.zip_longest(found, found[1:]):
            if following is not None and following.name.series == each.name.series:
                self._segments.append(Segment(each.name, following.name.first, each.num_bytes, each.written_ms))
                continue
            end = self._folder.end(each.name)
            torn_bytes += each.num_bytes - end.at
            if not end.next:
                self._folder.delete(each.name)
                continue
            if end.at < each.num_bytes:
                self._folder.cut(each.name, end.at)
            self._segments.append(Segment(each.name, end.next, end.at, each.written_ms))
        return torn_bytes

    def _make_room(self, incoming: int, count: int) -> None:
        while self.num_bytes + incoming > self._bounds.max_bytes:
            if self._bounds.on_full == "reject" or not self._drop_oldest("full"):
                raise BufferFull(
                    f"the buffer {self.folder} is full: {counted(self.num_samples, 'sample')} without a receipt take"
                    f" {self.num_bytes} of its {self._bounds.max_bytes} bytes, and {count} more need {incoming}: give"
                    ' it more bytes, or choose on_full="drop_oldest"'
                )

    def _write(self, drafts: Sequence[Draft], incoming: int) -> list[str]:
        """Write to the present file, or to a new one. Raises OSError: nothing is kept then."""
        if self._file is None or self._bounds.is_over(self._segments[-1], incoming, self._steady_s()):
            self._begin_file()
        assert self._file is not None
        segment = self._segments[-1]
        salt, now_ms, steady_ms = salt_of(str(segment.name)), self._now_ms(), int(self._steady_s() * 1000)
        numbers = range(self._next, self._next + len(drafts))
        try:
            self._file.append(
                b"".join(
                    frames.encode(Kept(number, each.sampled_ms, now_ms, steady_ms, each.label, each.payload), salt)
                    for number, each in zip(numbers, drafts, strict=True)
                )
            )
        except OSError:
            self._abandon_file()
            raise
        self._next = segment.next = numbers.stop
        segment.num_bytes, segment.last_ms, segment.last_s = self._file.num_bytes, now_ms, self._steady_s()
        return [sample_id(segment.name.series, number) for number in numbers]

    def _begin_file(self) -> None:
        self._close_file()
        name = SegmentName(self._next_file, self._series, self._next)
        self._file = self._folder.create(name)
        self._next_file += 1
        self._segments.append(Segment(name, self._next, self._file.num_bytes, self._now_ms(), self._steady_s()))

    def _abandon_file(self) -> None:
        """After a failed write, parts of which may be on the disk: its numbers are not used again."""
        self._close_file()
        if self._segments[-1].next == self._segments[-1].name.first:
            self._remove(self._segments.pop())
        self._series, self._next = _new_series()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _segment_to_read(self) -> Segment | None:
        """The segment with the next durable sample, if any. Samples that are missing before it count as damaged."""
        for segment in self._segments:
            if segment.name.file > self._read.file:
                self._go_to(segment.first)
            if segment.name.file == self._read.file:
                if self._read_at < segment.num_bytes and self._read.number < segment.next:
                    return segment
                self._pass_over(segment.next)
        return None

    def _read_some(self, segment: Segment, found: list[Buffered], max_samples: int, max_bytes: int) -> int:
        """Read on in the segment, up to these limits. Returns the bytes of payloads read."""
        num_bytes = 0
        scanned = self._scan(segment)
        for kept, end in scanned.frames:
            if not self._read.number <= kept.number < segment.next:
                continue
            self._pass_over(kept.number)
            position = self._read
            self._read = _after(position)
            if self._bounds.is_expired(self._age_s(segment, kept)):
                self._drop(1, "age")
                self._note_passed(Passed(position, 1))
                continue
            found.append(Buffered(position, sample_id(segment.name.series, kept.number), kept))
            num_bytes += len(kept.payload)
            if len(found) == max_samples or num_bytes >= max_bytes:
                self._read_at += end
                return num_bytes
        self._read_at += scanned.consumed
        return num_bytes

    def _scan(self, segment: Segment) -> Scan:
        """Scan the next piece of the file; if no frame ends in it, as much as the largest frame has."""
        left = segment.num_bytes - self._read_at
        try:
            for size in (min(left, _READ_BYTES), min(left, MAX_FRAME_BYTES)):
                data = self._folder.read(segment.name, self._read_at, size)
                scanned = frames.scan(data, salt_of(str(segment.name)), is_all=size == left)
                if scanned.consumed:
                    break
        except OSError as error:
            self._failures += 1
            if self._failures < _MAX_FAILURES:
                reason = why_refused(self.folder, error, reads=True)
                raise StorageError(f"the buffer {self.folder} cannot be read: {reason}") from error
            scanned = Scan([], left)
        self._failures = 0
        return scanned

    def _pass_over(self, number: int) -> None:
        """The next sample in the file has this number: those before it are damaged."""
        missing = number - self._read.number
        if missing > 0:
            self.damaged += missing
            self._note_passed(Passed(self._read, missing))
            self._lines.warning("buffer.damaged", None, folder=str(self.folder), samples=missing, total=self.damaged)
        self._read = Position(self._read.file, max(number, self._read.number))

    def _note_passed(self, passed: Passed) -> None:
        """These samples wait for no receipt."""
        if self._passed and self._passed[-1].end == passed.first:
            before = self._passed.pop()
            passed = Passed(before.first, before.num_samples + passed.num_samples)
        self._passed.append(passed)

    def _age_s(self, segment: Segment, kept: Kept) -> float | None:
        if segment.name.file >= self._boot_file:
            return self._steady_s() - kept.steady_ms / 1000
        return age_s(kept.written_ms, self._now_ms())

    def _drop_expired(self) -> None:
        """Delete files whose last sample is too old."""
        while self._segments and self._bounds.is_expired(self._age_of(self._segments[0])):
            if not self._drop_oldest("age"):
                return

    def _age_of(self, segment: Segment) -> float | None:
        if segment.last_s is None and segment.name.file >= self._boot_file and self._bounds.max_age_s is not None:
            segment.last_s = self._last_s(segment)
        if segment.last_s is not None:
            return self._steady_s() - segment.last_s
        return age_s(segment.last_ms, self._now_ms())

    def _last_s(self, segment: Segment) -> float:
        """When an earlier process of this boot wrote the segment's last sample, by the monotonic clock."""
        try:
            return self._folder.end(segment.name).steady_ms / 1000
        except OSError:
            return self._steady_s()  # its samples tell, once they can be read

    def _drop_oldest(self, reason: str) -> bool:
        """Delete the oldest file. Returns False if there is only the one that is being written."""
        if not self._segments or (len(self._segments) == 1 and self._file is not None):
            return False
        oldest = self._segments.pop(0)
        counted_already = sum(each.num_samples for each in self._passed if each.first.file == oldest.name.file)
        self._drop(num_from([oldest], self._cursor) - counted_already, reason)
        self._remove(oldest)
        ahead = self._segments[0].first if self._segments else Position(oldest.name.file + 1, 0)
        if self._read < ahead:
            self._go_to(ahead)
        self._advance(ahead)
        return True

    def _drop(self, count: int, reason: str) -> None:
        if count:
            self.dropped += count
            self._lines.warning(
                "buffer.dropped", reason, folder=str(self.folder), samples=count, total=self.dropped, reason=reason
            )

    def _advance(self, cursor: Position) -> None:
        """Move the cursor, on past samples that need no receipt, and delete the files before it."""
        self._cursor = max(self._cursor, cursor)
        while self._segments:
            self._cursor = max(self._cursor, self._segments[0].first)
            while self._passed and self._passed[0].first <= self._cursor:
                self._cursor = max(self._cursor, self._passed.pop(0).end)
            if self._cursor < self._segments[0].end or (self._file is not None and len(self._segments) == 1):
                return
            self._remove(self._segments.pop(0))

    def _remove(self, segment: Segment) -> None:
        try:
            self._folder.delete(segment.name)
        except OSError as error:
            self._lines.warning("buffer.stuck", None, folder=str(self.folder), file=str(segment.name), err=str(error))

    def _go_to(self, position: Position) -> None:
        self._read, self._read_at = position, 0

    def _place(self, series: str = "", following: int = 0) -> Cursor:
        return Cursor(self._cursor, series, following, self._boot, self._boot_file)

    def _write_cursor(self, series: str = "", following: int = 0) -> None:
        try:
            self._folder.set_cursor(self._place(series, following))
        except OSError as error:  # samples are sent once more after a crash
            self._lines.warning("buffer.stuck", None, folder=str(self.folder), file="cursor", err=str(error))


def _new_series() -> tuple[str, int]:
    return secrets.token_hex(6), 1


def _after(position: Position) -> Position:
    return Position(position.file, position.number + 1)
