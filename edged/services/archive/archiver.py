"""Writes the edges' archive topics into the archive's files, each sample once.

Covers what is buffered and when it becomes a file. The position to resume from comes from the archive itself; offsets
are committed for lag tools only. See also: `ports.ArchiveWriter` (durability, waiting for a storage that refuses).
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edged.aio import run_in_worker, sleep_until
from edged.domain.archive.source_log import SourceLog
from edged.domain.place import Place, is_continued
from edged.domain.samples import cursors as cursor_rules
from edged.domain.samples import pack as packs
from edged.domain.samples.address import ArchivedAddress, DeviceAddress
from edged.domain.samples.border import Border, Sifted
from edged.domain.samples.codec import class_index, class_number
from edged.domain.samples.pack import Pack
from edged.domain.samples.written_to import written_to
from edged.errors import AnotherVersion, FormatError, SourceRefused
from edged.log import ThrottledLog, logger
from edged.ports import MAX_KEPT_RECORDS, ArchiveWriter, Log, LogReader, Progress, Record, Statistics, TopicPartition
from edged.services.archive.flush_log import FlushLog
from edged.services.archive.refusals import RefusalLog
from edged.services.archive.sharing import Share

_RECORDS_PER_POLL = 16
"""At most 1 MiB each; in addition to the buffers' budget."""
_FULL_BUFFERS = 2
"""All buffers together hold this many files' bytes at most; then the largest is flushed."""


class Source(NamedTuple):
    """One edge's packs of one stream and the topic that carries them."""

    stream: str
    edge: str
    topic: str


class Durable(NamedTuple):
    """What of a source's log has been archived: the offset of the newest file's `first` record, the `place` after it.

    `packs`, `num_bytes`: packs and their payload bytes in all.
    """

    first: int
    place: Place
    packs: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ArchiverSettings:
    flush_s: float = 10.0
    """Age of the oldest buffered pack at which a file is written; a crash reads that much again."""

    flush_bytes: int = 32 << 20
    """Bytes in memory at which a file is written; any file system reads files of this size well."""

    poll_s: float = 1.0
    """Maximum wait for records."""

    log_s: float = 1.0
    """Minimum time between two lines about a source's files."""

    stop_s: float = 10.0
    """Maximum time for the last files after a stop; what is not written is read again at the next start."""


@dataclass(eq=False)
class _Buffer:
    """One source's packs that are not durable yet, and the position and cursors after them.

    Offsets are the archive's; a record's is `log.base` less. Records from `cursors_end` to the first `next_offset` are
    archived already, and only tell their cursors.
    """

    source: Source
    next_offset: int
    cursors: dict[str, int]
    cursors_end: int
    log: SourceLog
    packs: list[tuple[int, Pack]] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    empty: list[tuple[int, int]] = field(default_factory=list)
    """The parts of `gaps` that never held a record."""

    num_bytes: int = 0
    since_s: float = 0.0
    first_read: int = 0
    """The offset in the log of the first of `packs`."""

    @property
    def partition(self) -> TopicPartition:
        return TopicPartition(self.source.topic)

    @property
    def place(self) -> Place:
        """The next place to read."""
        position = min(self.cursors_end, self.next_offset) - self.log.base
        place = self.log.place
        return place if place.offset == position else Place(position, place.incarnation, place.topic_id)

    def is_of(self, record: Record) -> bool:
        """Whether the record is of the log that the buffer is of."""
        place = self.log.place
        return place.incarnation in {"", record.incarnation} and record.offset >= self.place.offset

    def offset_of(self, record: Record) -> int:
        """The record's offset in the archive."""
        return record.offset + (self.log.base if self.is_of(record) else self.next_offset)

    def begin(self, record: Record) -> None:
        """Continue with another log, whose first record this is; nothing may be buffered."""
        assert not self.packs
        place = Place(0, record.incarnation, record.topic_id)
        self.log = SourceLog(written_to(record.headers).log, self.next_offset, place)
        self.cursors_end = self.next_offset

    def learn(self, record: Record, pack: Pack) -> None:
        """Take the cursors of an archived pack, whose file is damaged."""
        self.cursors = cursor_rules.advance(self.cursors, pack)
        self.cursors_end = self.log.base + record.offset + 1

    def add(self, record: Record, pack: Pack, lost_end: int) -> None:
        """Append the record's pack; skipped offsets before it become a gap. Those below `lost_end` were records."""
        if not self.packs:
            self.first_read = record.offset
        offset = self.log.base + record.offset
        if offset > self.next_offset:
            self.gaps.append((self.next_offset, offset))
            if lost_end < offset:
                self.empty.append((max(lost_end, self.next_offset), offset))
        self.packs.append((offset, pack))
        self.next_offset = self.cursors_end = offset + 1
        self.log = self.log._replace(name=written_to(record.headers).log, place=record.place_after())
        self.cursors = cursor_rules.advance(self.cursors, pack)
        self.num_bytes += pack.memory_bytes

    def clear(self) -> None:
        self.packs, self.gaps, self.empty, self.num_bytes = [], [], [], 0


class _Misplaced(FormatError):  # noqa: N818
    """The record was written for another log of this name: its edge sends it again."""


class Archiver:
    """Reads every source's topic and writes files of contiguous offsets.

    An edge's topic that was recreated continues the edge's source: its blocks get the next numbers.

    `settings` are read when they are needed, as they are then.

    A source that cannot be archived waits, without what it had buffered, and is resumed from the archive's end; the
    others go on. So does one at a pack of another version, or with a sample that another topology might accept: what is
    archived may be deleted from the log, and would be lost. It goes on once that block is in quarantine. A record that
    is no pack is passed: an empty block takes its place, and the record is kept aside.

    Of the sources only those are archived that are in the node's share. What is buffered of one that is another node's
    by now is dropped, as the log has it; no offset of it is committed any more. A file that is being written then may
    be the other node's, or meet that one's: whoever comes second has a conflict, and goes on behind what is there.
    """

    def __init__(
        self,
        log: Log,
        archive: ArchiveWriter,
        sources: Sequence[Source],
        group: str,
        settings: Callable[[], ArchiverSettings] = ArchiverSettings,
        *,
        border: Border,
        share: Share | None = None,
    ) -> None:
        """`share`: what of the sources is this node's; None: all, always."""
        self._log = log
        self._archive = archive
        self._source_of = {TopicPartition(source.topic): source for source in sources}
        self._share = share or Share(self._source_of)
        self._held: frozenset[TopicPartition] = frozenset()
        self._border = border
        self._refusals = RefusalLog()
        self._group = group
        self._settings = settings
        self._buffers: dict[str, _Buffer] = {}
        self._waiting: dict[Source, float] = {}
        """Sources that are not read, and when to try them again."""
        self._lines = ThrottledLog()
        self._flushed = FlushLog()
        self._keeps_no_more: set[Source] = set()
        """Sources of which enough damaged records are kept: one that sends nothing else costs no look each time."""
        self._durable: dict[TopicPartition, Durable] = {}
        self._reader: LogReader | None = None
        self._num_polls = 0
        self._is_idle = False
        self._samples = 0

    async def run(self) -> None:
        """Archive until cancelled; then write what is buffered, within `stop_s`, and raise the cancellation."""
        with self._share.work():
            try:
                while True:
                    await self._resume_due()
                    if self._buffers:
                        await self._read()
                    else:
                        await self._wait()
            finally:
                self._flushed.write()

    def progress(self) -> Progress:
        """Steps are polls and the archive's tries, so it progresses while the storage refuses too."""
        return Progress(self._num_polls + self._archive.tries, self._is_idle)

    def statistics(self) -> Statistics:
        return Statistics(
            archived_samples=self._samples,
            refused_samples=self._refusals.num_samples,
            lag_by_topic=self._reader.lag_by_topic() if self._reader else {},
            queue_bytes=sum(buffer.num_bytes for buffer in self._buffers.values()),
        )

    def durable(self) -> Mapping[TopicPartition, Durable]:
        """What of each source's topic this has read and made durable since the start; nothing of a refused source."""
        return dict(self._durable)

    async def _read(self) -> None:
        """Archive the sources that have a buffer, until there are other buffers: each begins at a place of its own."""
        reading = list(self._buffers.values())
        positions = {buffer.partition: buffer.place for buffer in self._buffers.values()}
        async with self._log.reader(positions, group=self._group) as reader:
            self._reader = reader
            try:
                while reading == list(self._buffers.values()):
                    await self._take(await self._poll(reader), reader)
                    while (buffer := self._due()) is not None:
                        await self._flush(buffer, reader)
                    self._flushed.write_if_due(asyncio.get_running_loop().time(), self._settings().log_s)
                    self._num_polls += 1
                    await self._resume_due()
            except asyncio.CancelledError:
                await self._finish(reader)
                raise
            finally:
                self._reader = None

    async def _wait(self) -> None:
        """Wait until a source may be tried again, as all are refused, or until the share is another one."""
        due_s = min(self._waiting.values(), default=None)
        self._is_idle = True
        try:
            async with asyncio.timeout_at(due_s):
                await self._share.other_than(self._held)
        except TimeoutError:
            assert due_s is not None
            await sleep_until(due_s)
        finally:
            self._is_idle = False

    def _follow_share(self) -> None:
        """Begin with the sources that are this node's now, and forget those that are not any more."""
        if self._held is self._share.held:
            return
        before, self._held = self._held, self._share.held
        for partition, source in self._source_of.items():
            if partition in self._held and partition.topic not in self._buffers:
                self._waiting.setdefault(source, -math.inf)
            elif partition in before - self._held:
                self._buffers.pop(partition.topic, None)
                self._durable.pop(partition, None)
                self._waiting.pop(source, None)
                self._archive.release(source.stream, source.edge)

    async def _resume_due(self) -> None:
        """Give a buffer to each waiting source whose time has come, if the archive lets it."""
        self._follow_share()
        now_s = asyncio.get_running_loop().time()
        for source in [source for source, due_s in self._waiting.items() if now_s >= due_s]:
            try:
                self._buffers[source.topic] = await self._resume(source)
            except SourceRefused as refused:
                self._refused(source, refused)
            else:
                del self._waiting[source]
        self._follow_share()

    def _refused(self, source: Source, refused: SourceRefused) -> None:
        """Stop reading the source; what is buffered will be read again."""
        self._buffers.pop(source.topic, None)
        self._durable.pop(TopicPartition(source.topic), None)
        self._waiting[source] = asyncio.get_running_loop().time() + refused.retry_s

    async def _resume(self, source: Source) -> _Buffer:
        """Where the source continues. Damaged newest files are archived again if the log still holds what they held.

        If it does not, the source continues behind them; then what the log has of their range tells the cursors.
        """
        stream, edge, topic = source
        end = await self._archive.resume(stream, edge)
        cursors = dict(end.cursors)
        if not end.damage:
            return _Buffer(source, end.next_offset, cursors, end.next_offset, end.log)
        partition, base = TopicPartition(topic), end.log.base
        low, _stable, high = (await self._log.watermarks([partition]))[partition]
        is_same = is_continued(end.log.place, (await self._log.resume({partition: end.log.place}))[partition])
        is_kept = is_same and low <= end.cursors_end - base and end.next_offset - base <= high
        logger().error(
            "archive.damaged",
            stream=stream,
            source=edge,
            first_offset=end.cursors_end,
            next_offset=end.next_offset,
            reason=end.damage,
            archived_again=is_kept,
        )
        if is_kept:
            await self._archive.set_aside(stream, edge, end.cursors_end)
            return _Buffer(source, end.cursors_end, cursors, end.cursors_end, end.log)
        cursors_end = max(end.cursors_end, min(low + base, end.next_offset))
        return _Buffer(source, end.next_offset, cursors, cursors_end, end.log)

    async def _poll(self, reader: LogReader) -> list[Record]:
        now_s = asyncio.get_running_loop().time()
        due_s = [buffer.since_s + self._settings().flush_s - now_s for buffer in self._buffers.values() if buffer.packs]
        self._is_idle = True
        try:
            return await reader.poll(
                max_records=_RECORDS_PER_POLL, timeout_s=max(0.0, min([self._settings().poll_s, *due_s]))
            )
        finally:
            self._is_idle = False

    async def _take(self, records: Sequence[Record], reader: LogReader) -> None:
        """Decode the records, leave out what the border refuses, and buffer the rest."""
        sifted = await run_in_worker(self._sift_all, records) if records else []
        kept_from = await self._kept_from(records)
        for record, pack in zip(records, sifted, strict=True):
            buffer = self._buffers.get(record.topic)
            if buffer is not None and buffer.packs and not self._fits(buffer, record):
                await self._flush(buffer, reader)
                buffer = self._buffers.get(record.topic)
            checked = None if buffer is None else await self._checked(buffer, record, pack, reader)
            if buffer is None or checked is None:
                continue  # refused: by its file, by a record before or by this one
            if not buffer.is_of(record):
                buffer.begin(record)
            if buffer.log.base + record.offset < buffer.next_offset:
                buffer.learn(record, checked.pack)
            else:
                if not buffer.packs:
                    buffer.since_s = asyncio.get_running_loop().time()
                self._buffer(buffer, record, checked, kept_from.get(record.topic, 0))

    async def _checked(
        self, buffer: _Buffer, record: Record, sifted: Sifted | FormatError, reader: LogReader
    ) -> Sifted | None:
        """What of the record is archived: an empty pack when it is none of the source; None when the source waits."""
        stream, edge, topic = buffer.source
        block = ArchivedAddress(stream, edge, buffer.offset_of(record))
        try:
            if reason := self._why_to_wait(buffer, record, sifted):
                if reason := await self._pass(block, record, reason):
                    await self._wait_for(reason, buffer.source, reader)
                    return None
            elif isinstance(sifted, FormatError):
                where = await self._keep_damaged(buffer.source, block.offset, record, sifted)
                self._lines.error(
                    "archive.rejected", topic, topic=topic, offset=record.offset, reason=str(sifted), kept_as=where
                )
        except SourceRefused as refused:
            await self._wait_for(refused, buffer.source, reader)
            return None
        return sifted if isinstance(sifted, Sifted) else Sifted(Pack(stream, ()), ())

    async def _keep_damaged(self, source: Source, offset: int, record: Record, error: FormatError) -> str:
        """Where the record is kept; "" when it is not."""
        if source in self._keeps_no_more or isinstance(error, _Misplaced):
            return ""
        where = await self._archive.keep_record(source.stream, source.edge, offset, record.value, "damaged")
        if not where:
            self._keeps_no_more.add(source)
        return where

    async def _pass(self, block: ArchivedAddress, record: Record, reason: str) -> str:
        """Keep the record aside if its block is in quarantine; else why to wait, by default `reason`."""
        stream, source, offset, _ = block
        if not await self._archive.is_quarantined(stream, source, offset):
            return reason
        where = await self._archive.keep_record(stream, source, offset, record.value, "passed")
        if not where:
            return f"{MAX_KEPT_RECORDS} passed records of {stream}/{source} are kept: move them away to pass more"
        logger().warning("archive.passed", address=str(block), reason=reason, kept_as=where)
        return ""

    @staticmethod
    def _why_to_wait(buffer: _Buffer, record: Record, sifted: Sifted | FormatError) -> str:
        """Why to archive the source no further; "" when it goes on. What another node could archive is not passed."""
        stream, edge, topic = buffer.source
        offset = buffer.offset_of(record)
        block = ArchivedAddress(stream, edge, offset)
        if isinstance(sifted, AnotherVersion):
            return (
                f"offset {record.offset} of {topic} holds a pack of another version of edged ({sifted}); it and what "
                "follows stay in Kafka: that version can archive them, "
                f"`edged archive quarantine {block}` passes this one"
            )
        if isinstance(sifted, FormatError) or sifted.wanted is None or offset < buffer.next_offset:
            return ""
        row, device, partition, device_offset, reason, detail, _ = sifted.wanted
        return (
            f"{ArchivedAddress(stream, edge, offset, row)} ({DeviceAddress(stream, device, partition, device_offset)}) "
            f"does not fit this node's topology: {reason}, {detail}; it and what follows stay in Kafka, from offset "
            f"{record.offset} of {topic} on: correct the topology and restart this node, or go on without what "
            f"does not fit: `edged archive quarantine {block}`"
        )

    async def _wait_for(self, reason: str | SourceRefused, source: Source, reader: LogReader) -> None:
        """Archive what is buffered, and the source no further."""
        stream, edge, topic = source
        if self._buffers[topic].packs:
            await self._flush(self._buffers[topic], reader)
        if topic in self._buffers:
            refused = reason if isinstance(reason, SourceRefused) else self._archive.refuse(stream, edge, reason)
            self._refused(source, refused)

    async def _kept_from(self, records: Sequence[Record]) -> Mapping[str, int]:
        """The first offset that the log still has, of those topics in which these leave a gap."""
        next_offsets: dict[str, int] = {}
        gapped = set()
        for record in records:
            buffer = self._buffers.get(record.topic)
            if buffer is not None:
                next_offset = buffer.next_offset - buffer.log.base if buffer.is_of(record) else 0
                if record.offset > next_offsets.get(record.topic, next_offset):
                    gapped.add(TopicPartition(record.topic))
            next_offsets[record.topic] = record.offset + 1
        marks = await self._log.watermarks(gapped) if gapped else {}
        return {partition.topic: each.low for partition, each in marks.items()}

    @staticmethod
    def _fits(buffer: _Buffer, record: Record) -> bool:
        """Whether the record may be in the same file as what is buffered."""
        return buffer.is_of(record) and buffer.log.name == written_to(record.headers).log

    def _buffer(self, buffer: _Buffer, record: Record, sifted: Sifted, kept_from: int) -> None:
        stream, edge, _ = buffer.source
        offset = buffer.log.base + record.offset
        self._refusals.add(stream, edge, offset, sifted.refused)
        lost_end = min(offset, buffer.log.base + kept_from)  # what is missing from there on is no record
        if buffer.next_offset < lost_end:
            self._lines.error(
                "archive.gap",
                (stream, edge),
                stream=stream,
                source=edge,
                first_offset=buffer.next_offset,
                next_offset=lost_end,
            )
        unique = cursor_rules.without_duplicates(sifted.pack, buffer.cursors)
        if unique is not sifted.pack:
            self._lines.info(
                "archive.duplicates",
                (stream, edge),
                stream=stream,
                source=edge,
                offset=offset,
                samples=len(sifted.pack.samples) - len(unique.samples),
            )
        self._tell_unknown_labels(stream, edge, offset, unique)
        buffer.add(record, unique, lost_end)

    def _tell_unknown_labels(self, stream: str, edge: str, offset: int, pack: Pack) -> None:
        known = class_index(self._border.streams[stream])
        labels = {each.label for each in pack.samples if each.label is not None}
        strange = {label for label in labels if class_number(known, label) < 0}
        unknown = [row for row, each in enumerate(pack.samples) if each.label in strange]
        if unknown:
            self._lines.warning(
                "archive.unknown_label",
                (stream, edge),
                address=str(ArchivedAddress(stream, edge, offset, unknown[0])),
                label=pack.samples[unknown[0]].label,
                samples=len(unknown),
            )

    def _sift_all(self, records: Sequence[Record]) -> list[Sifted | FormatError]:
        return [self._sift(record) for record in records]

    def _sift(self, record: Record) -> Sifted | FormatError:
        buffer = self._buffers[record.topic]
        written = written_to(record.headers)
        if written.is_misplaced(record.offset):
            return _Misplaced(f"written for a log of this name whose end was {written.end}; the edge sends it again")
        try:
            pack = packs.decode(record.value)
            if pack.stream != buffer.source.stream:
                return FormatError(f"a pack of stream {pack.stream!r:.80}")
            return self._border.sift(pack, buffer.source.edge, buffer.cursors)
        except FormatError as error:
            return error
        except Exception as error:  # noqa: BLE001 - one source's record must not end the others
            return FormatError(f"{type(error).__name__}: {error}")

    def _due(self) -> _Buffer | None:
        """A buffer to flush now: too large, too old, or the largest when all together exceed the budget."""
        self._follow_share()
        filled = [buffer for buffer in self._buffers.values() if buffer.packs]
        if not filled:
            return None
        largest = max(filled, key=lambda buffer: buffer.num_bytes)
        oldest = min(filled, key=lambda buffer: buffer.since_s)
        total = sum(buffer.num_bytes for buffer in filled)
        if largest.num_bytes >= self._settings().flush_bytes or total >= _FULL_BUFFERS * self._settings().flush_bytes:
            return largest
        now_s = asyncio.get_running_loop().time()
        return oldest if now_s >= oldest.since_s + self._settings().flush_s else None

    async def _finish(self, reader: LogReader) -> None:
        """Write what all buffers hold; then commit, if Kafka answers in time."""
        self._follow_share()
        filled = [buffer for buffer in self._buffers.values() if buffer.packs]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings().stop_s):
                for buffer in filled:
                    with contextlib.suppress(SourceRefused):
                        await self._write(buffer)
        if written := {each.partition: each.log.place for each in filled if not each.packs}:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings().poll_s):
                    await reader.commit(written)

    async def _flush(self, buffer: _Buffer, reader: LogReader) -> None:
        try:
            await self._write(buffer)
        except SourceRefused as refused:
            self._refused(buffer.source, refused)
            return
        if buffer.partition in self._share.held:
            await reader.commit({buffer.partition: buffer.log.place})

    async def _write(self, buffer: _Buffer) -> None:
        """1. the file becomes durable; 2. the buffer is emptied.

        Cancelled in step 1: the buffer is unchanged and may be written again; the same range makes the same file.
        """
        stream, edge, _ = buffer.source
        started_s = asyncio.get_running_loop().time()
        await self._archive.append(stream, edge, buffer.packs, buffer.gaps, buffer.log, empty=buffer.empty)
        samples = sum(len(pack.samples) for _, pack in buffer.packs)
        num_bytes = sum(pack.num_bytes for _, pack in buffer.packs)
        before = self._durable.get(buffer.partition, Durable(0, Place(0), 0, 0))
        self._durable[buffer.partition] = Durable(
            buffer.first_read, buffer.log.place, before.packs + len(buffer.packs), before.num_bytes + num_bytes
        )
        first = min(offset for offset, _ in [*buffer.packs[:1], *buffer.gaps[:1]])
        write_s = asyncio.get_running_loop().time() - started_s
        self._flushed.add((stream, edge), (first, buffer.next_offset), samples, num_bytes, write_s)
        self._samples += samples
        buffer.clear()
