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
"""

import asyncio
import math
from collections.abc import Mapping, Sequence

from edged.domain.samples import pack as packs
from edged.domain.samples.cursors import device_of
from edged.domain.samples.halves import halves
from edged.domain.samples.pack import Pack
from edged.domain.samples.packer import Packer
from edged.domain.topology import Topology
from edged.errors import FormatError, RecordTooLarge
from edged.log import Throttle, logger
from edged.ports import Log, Message, Progress, Record, Statistics, TopicPartition
from edged.reading import newest
from edged.services.ingest.dead_letters import DeadLetter
from edged.services.ingest.ingest import Ingest
from edged.services.ingest.live_window import LiveWindow
from edged.settings import Timing

_REDISCOVER_S = 30.0
"""How often new partitions are looked for."""

_RECOMMIT_S = 3600.0
"""How often unchanged offsets are committed: brokers forget those of a silent group (after 7 days, by default)."""


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
        self._due_s: dict[str, float] = {}
        self._throttle = Throttle()
        self._num_packs = 0
        self._num_samples = 0

    async def run(self) -> None:
        """Read, pack and send until cancelled; returns at once when the edge has no device.

        Waits for missing topics and while the broker is away. Cancelled: what is not acknowledged is read again at
        the next start; nothing is lost or duplicated.
        """
        self._packers = {stream: Packer(stream, await self._resume(stream)) for stream in self._topic_of}
        while self._packers:
            partitions = await self._ingest.partitions()
            async with self._ingest.reading(partitions, self._cursors()) as start:
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

    async def _resume(self, stream: str) -> Mapping[str, int]:
        """The cursors of the stream's last pack; none when the topic holds no pack."""
        partition = TopicPartition(self._topic_of[stream])
        last = await newest(self._log, partition, lambda record: self._cursors_of(record, stream))
        end = (await self._log.watermarks([partition]))[partition].high
        logger().info("uplink.resumed", stream=stream, next_offset=end)
        for live in self._live.get(stream, ()):
            live.start(end)
        return last[-1] if last else {}

    def _cursors_of(self, record: Record, stream: str) -> Mapping[str, int] | None:
        """The cursors of a pack of `stream`; None, and a warning, when the record is something else."""
        try:
            pack = packs.decode(record.value)
        except FormatError as error:
            err = str(error)
        else:
            if pack.stream == stream:
                return pack.cursors
            err = f"a pack of stream {pack.stream!r}, not of {stream!r}"
        suppressed = self._throttle.pass_on(record.topic, asyncio.get_running_loop().time())
        if suppressed is not None:
            logger().warning(
                "uplink.malformed", topic=record.topic, offset=record.offset, err=err, suppressed=suppressed
            )
        return None

    async def _read(self, partitions: frozenset[TopicPartition]) -> None:
        """Read these partitions until the set of partitions changes."""
        loop = asyncio.get_running_loop()
        rediscover_s, recommit_s = loop.time() + _REDISCOVER_S, loop.time()
        while True:
            for each in await self._ingest.batch(self._timeout_s(loop.time())):
                packer = self._packers[self._ingest.stream_of(each.device)]
                if isinstance(each, DeadLetter):
                    packer.skip(each.device, each.partition, each.offset)
                else:
                    packer.add(each)
            for stream in self._packers:
                await self._send_due(stream, loop.time())
            if loop.time() >= recommit_s:
                recommit_s = loop.time() + _RECOMMIT_S
                await self._recommit()
            if loop.time() >= rediscover_s:
                rediscover_s = loop.time() + _REDISCOVER_S
                if await self._ingest.partitions() != partitions:
                    return

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

    async def _send(self, stream: str, full: Sequence[Pack], cursors: Mapping[str, int]) -> None:
        """Steps 2 to 4; step 4 alone without packs, when all records were dead letters."""
        if full:
            written = await self._write(stream, full)
            self._num_packs += len(written)
            self._num_samples += sum(len(pack.samples) for _offset, pack in written)
            for live in self._live.get(stream, ()):
                for offset, pack in written:
                    live.put(offset, pack)
        await self._ingest.commit(self._own(stream, cursors))

    async def _write(self, stream: str, full: Sequence[Pack]) -> list[tuple[int, Pack]]:
        """The packs as they were written, with their offsets.

        One that its topic does not take is split, and a sample that is too large even alone becomes a dead letter.
        """
        try:
            offsets = await self._log.append([Message(self._topic_of[stream], packs.encode(pack)) for pack in full])
        except RecordTooLarge as error:
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
        return list(zip(offsets, full, strict=True))

    async def _recommit(self) -> None:
        for stream, packer in self._packers.items():
            if not packer.pending:
                await self._ingest.commit(self._own(stream, packer.cursors))

    def _cursors(self) -> dict[str, int]:
        """Each partition's cursor; for a device that changed its stream, the highest of its streams."""
        cursors: dict[str, int] = {}
        for packer in self._packers.values():
            for key, offset in packer.cursors.items():
                cursors[key] = max(offset, cursors.get(key, 0))
        return cursors

    def _own(self, stream: str, cursors: Mapping[str, int]) -> dict[str, int]:
        """The cursors of the stream's devices; packs also hold those of former devices."""
        return {key: offset for key, offset in cursors.items() if self._ingest.stream_of(device_of(key)) == stream}
