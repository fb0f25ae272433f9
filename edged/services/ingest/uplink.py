"""Turns the devices' records into acknowledged packs, each sample exactly once.

Covers packing, the order of durable steps, and where a restart resumes. See also: `ingest` (checks the records),
`live_window` (hands the packs to the trainer), `services.archive` (stores them).

Steps, for each pack:
1. dead letters of the records read are acknowledged (within `Ingest.batch`)
2. the pack, with its cursors, is acknowledged in the edge's own archive topic: now the samples are safe, and counted
   (in smaller packs where that topic takes only those)
3. the live window has it
4. the devices' offsets are committed, for lag tools and for when the archive topic has expired
A crash before 2 reads the records again. After a crash past 2 the start finds the cursors in the last pack of the
archive topic, whose only writer is this edge.

An archive topic that is another log than before has lost its packs, perhaps before they were archived. Then neither its
cursors nor the commits of the devices' offsets count: the devices' topics are read from their beginnings, and the
archive leaves out what it has. The edge notices when a pack's offset, or the topic's end, which it looks up now and
then, is below the end that it knows, or at a start by the end that each pack and each commit was written with.
"""

import asyncio
import contextlib
import math
import secrets
from collections.abc import Mapping, Sequence

from edged.domain.place import Place
from edged.domain.samples import pack as packs
from edged.domain.samples.cursors import device_of
from edged.domain.samples.halves import halves
from edged.domain.samples.pack import Pack
from edged.domain.samples.packer import Packer
from edged.domain.samples.written_to import WrittenTo, written_to
from edged.domain.topology import Topology
from edged.errors import AnotherVersion, FormatError, RecordTooLarge
from edged.log import Throttle, logger
from edged.ports import Log, Message, Progress, Record, Statistics, TopicPartition
from edged.reading import newest
from edged.services.ingest.dead_letters import DeadLetter
from edged.services.ingest.ingest import Ingest
from edged.services.ingest.live_window import LiveWindow
from edged.settings import Timing

_CHECK_ENDS_S = 30.0
"""How often it is checked whether the archive topics are still the same."""

_RECOMMIT_S = 3600.0
"""How often unchanged offsets are committed: brokers forget those of a silent group (after 7 days, by default)."""


_NAME_BYTES = 6


class _AnotherLog(Exception):  # noqa: N818 - named for what it tells
    """The archive topic has become another log."""


class Uplink:
    """Packs what the ingest accepts, per stream. `live`: each trained stream's live windows, one for each job."""

    def __init__(
        self,
        ingest: Ingest,
        log: Log,
        topology: Topology,
        edge: str,
        live: Mapping[str, Sequence[LiveWindow]],
        timing: Timing,
    ) -> None:
        self._ingest = ingest
        self._log = log
        self._topic_of = {stream: topology.archive_topic(stream, edge) for stream in ingest.streams}
        self._live = live
        self._timing = timing
        self._packers: dict[str, Packer] = {}
        self._written: dict[str, WrittenTo] = {}
        """Each stream's archive topic by this edge's name of it, and its end."""
        self._misplaced: dict[str, bool] = {}
        """Whether the last pack that a start found had been written for another log."""
        self._due_s: dict[str, float] = {}
        self._throttle = Throttle()
        self._num_packs = 0
        self._num_samples = 0

    async def run(self) -> None:
        """Read, pack and send until cancelled; returns at once when the edge has no device.

        Waits for missing topics and while the broker is away. Cancelled: what is not acknowledged is read again at
        the next start; nothing is lost or duplicated.
        """
        while True:
            self._due_s.clear()
            self._packers = {stream: Packer(stream, await self._resume(stream)) for stream in self._topic_of}
            if not self._packers:
                return
            with contextlib.suppress(_AnotherLog):
                await self._read_all()

    async def _read_all(self) -> None:
        """Read all partitions, those too that come later. Raises _AnotherLog."""
        while True:
            partitions = await self._ingest.partitions.look()
            async with self._ingest.reading(partitions, self._cursors(), self._is_trusted) as start:
                logger().info("ingest.reading", partitions=len(partitions))
                for stream, packer in self._packers.items():
                    packer.seek(self._own(stream, start))
                await self._read(partitions)

    def progress(self) -> Progress:
        """Steps are records checked and packs sent. Idle while it waits for records or for the broker."""
        return Progress(self._ingest.num_checked + self._num_packs, not self._ingest.busy)

    def statistics(self) -> Statistics:
        """Samples acknowledged, records dead-lettered, records waiting, bytes held here and in the live windows."""
        packing_bytes = sum(packer.num_bytes for packer in self._packers.values())
        return Statistics(
            ingested_samples=self._num_samples,
            dead_lettered=self._ingest.num_rejected,
            lag_by_topic=self._ingest.lag_by_topic(),
            queue_bytes=packing_bytes + sum(live.num_bytes for lives in self._live.values() for live in lives),
        )

    async def _resume(self, stream: str) -> Mapping[str, Place]:
        """The cursors of the stream's last pack; none when the topic holds no pack, or is another log than before."""
        partition = TopicPartition(self._topic_of[stream])
        last = await newest(self._log, partition, lambda record: self._pack_of(record, stream))
        end = (await self._log.watermarks([partition]))[partition].high
        logger().info("uplink.resumed", stream=stream, next_offset=end)
        record, cursors = last[-1] if last else (None, {})
        written = WrittenTo() if record is None else written_to(record.headers)
        is_misplaced = record is not None and written.is_misplaced(record.offset)
        is_new = not written.log or is_misplaced
        self._written[stream] = WrittenTo(secrets.token_hex(_NAME_BYTES) if is_new else written.log, end)
        self._misplaced[stream] = is_misplaced
        for live in self._live.get(stream, ()):
            live.start(end, self._written[stream].log)
        return {} if is_misplaced else cursors

    def _is_trusted(self, device: str, note: str) -> bool:
        """Whether a commit counts: the archive topic then ended at `note`, and what was before it is still there."""
        stream = self._ingest.stream_of(device)
        end = int(note) if note.isascii() and note.isdecimal() else 0
        return not self._misplaced[stream] and end <= self._written[stream].end

    def _pack_of(self, record: Record, stream: str) -> tuple[Record, Mapping[str, Place]] | None:
        """A pack's record and cursors; None, and a warning, when the record is something else than one of `stream`."""
        try:
            found, cursors = _stream_and_cursors(record.value)
        except FormatError as error:
            err = str(error)
        else:
            if found == stream:
                return record, cursors
            err = f"a pack of stream {found!r}, not of {stream!r}"
        suppressed = self._throttle.pass_on(record.topic, asyncio.get_running_loop().time())
        if suppressed is not None:
            logger().warning(
                "uplink.malformed", topic=record.topic, offset=record.offset, err=err, suppressed=suppressed
            )
        return None

    async def _read(self, partitions: frozenset[TopicPartition]) -> None:
        """Read these partitions until there are others. Raises _AnotherLog."""
        loop = asyncio.get_running_loop()
        check_ends_s, recommit_s = loop.time() + _CHECK_ENDS_S, loop.time()
        while await self._ingest.partitions.are_still(partitions):
            for result, place in await self._ingest.batch(self._timeout_s(loop.time())):
                packer = self._packers[self._ingest.stream_of(result.device)]
                if isinstance(result, DeadLetter):
                    packer.skip(result.device, result.partition, place)
                else:
                    packer.add(result, place)
            for stream in self._packers:
                await self._send_due(stream, loop.time())
            if loop.time() >= recommit_s:
                recommit_s = loop.time() + _RECOMMIT_S
                await self._recommit()
            if loop.time() >= check_ends_s:
                check_ends_s = loop.time() + _CHECK_ENDS_S
                await self._check_ends()

    def _timeout_s(self, now_s: float) -> float:
        """How long to wait for records: until an open pack is due, at most `poll_s`."""
        return max(0.0, min([self._timing.poll_s, *(due_s - now_s for due_s in self._due_s.values())]))

    async def _send_due(self, stream: str, now_s: float) -> None:
        """Send the stream's full packs, and the open one once it has lingered long enough."""
        packer = self._packers[stream]
        if now_s >= self._due_s.get(stream, math.inf):
            await self._send(stream, packer.take_all(), packer.cursors)
            del self._due_s[stream]
        elif full := packer.take_full():
            await self._send(stream, full, full[-1].cursors)
            self._due_s.pop(stream, None)
        if packer.pending:
            self._due_s.setdefault(stream, now_s + self._timing.linger_s)

    async def _send(self, stream: str, full: Sequence[Pack], cursors: Mapping[str, Place]) -> None:
        """Steps 2 to 4; step 4 alone without packs, when all records were dead letters. Raises _AnotherLog."""
        if full:
            written = await self._write(stream, full)
            self._num_packs += len(written)
            self._num_samples += sum(len(pack.samples) for _offset, pack in written)
            for live in self._live.get(stream, ()):
                for offset, pack in written:
                    live.put(offset, pack)
        await self._ingest.commit(self._own(stream, cursors), str(self._written[stream].end))

    async def _write(self, stream: str, full: Sequence[Pack]) -> list[tuple[int, Pack]]:
        """The packs as they were written, with their offsets.

        One that its topic does not take is split, and a sample that is too large even alone becomes a dead letter.
        Raises _AnotherLog.
        """
        topic, (log, end) = self._topic_of[stream], self._written[stream]
        headers = [(WrittenTo(log, end + i).header(),) for i in range(len(full))]
        try:
            offsets = await self._log.append(
                [
                    Message(topic, packs.encode(pack), headers=header)
                    for pack, header in zip(full, headers, strict=True)
                ],
                refuse_too_large=True,
            )
        except RecordTooLarge as error:
            self._advance(stream, error.written)
            num_written = len(error.written)
            written = list(zip(error.written, full, strict=False))
            refused, others = full[num_written], full[num_written + 1 :]
            parts: list[Sequence[Pack]] = [others]
            if not num_written and others:
                parts = [[refused], others]  # any of them may be the one
            elif len(refused.samples) > 1:
                parts = [halves(refused), others]
            else:
                await self._ingest.reject(refused.samples[0], "too_large_for_topic", str(error))
            for part in parts:
                written += await self._write(stream, part) if part else []
            return written
        self._advance(stream, offsets)
        return list(zip(offsets, full, strict=True))

    def _advance(self, stream: str, offsets: Sequence[int]) -> None:
        """Note the end of the stream's log after these writes. Raises _AnotherLog."""
        log, end = self._written[stream]
        if any(offset < end + i for i, offset in enumerate(offsets)):
            raise self._another_log(stream, offsets[0])
        if offsets:
            self._written[stream] = WrittenTo(log, offsets[-1] + 1)

    async def _check_ends(self) -> None:
        """See that no archive topic ends before what was written to it. Raises _AnotherLog."""
        partitions = {stream: TopicPartition(topic) for stream, topic in self._topic_of.items()}
        marks = await self._log.watermarks(partitions.values())
        for stream, partition in partitions.items():
            if (high := marks[partition].high) < self._written[stream].end:
                raise self._another_log(stream, high)

    def _another_log(self, stream: str, next_offset: int) -> _AnotherLog:
        topic, end = self._topic_of[stream], self._written[stream].end
        logger().warning("uplink.another_log", topic=topic, wanted_offset=end, next_offset=next_offset)
        return _AnotherLog()

    async def _recommit(self) -> None:
        for stream, packer in self._packers.items():
            if not packer.pending:
                await self._ingest.commit(self._own(stream, packer.cursors), str(self._written[stream].end))

    def _cursors(self) -> dict[str, list[Place]]:
        """Each partition's cursors; a device that changed its stream has one in each of its streams."""
        cursors: dict[str, list[Place]] = {}
        for packer in self._packers.values():
            for key, place in packer.cursors.items():
                cursors.setdefault(key, []).append(place)
        return cursors

    def _own(self, stream: str, cursors: Mapping[str, Place]) -> dict[str, Place]:
        """The cursors of the stream's devices; packs also hold those of former devices."""
        return {key: place for key, place in cursors.items() if self._ingest.stream_of(device_of(key)) == stream}


def _stream_and_cursors(blob: bytes) -> tuple[str, Mapping[str, Place]]:
    """Of a pack, also of one that was the last before an upgrade: a commit may be missing. Raises FormatError."""
    try:
        pack = packs.decode(blob)
    except AnotherVersion:
        return packs.cursors_of_former(blob)
    return pack.stream, pack.cursors
