"""Serves the edges' requests to the archive: snapshots, and exactly the samples that an epoch lacks.

Covers the order of serving and bad requests. A request that cannot be served gets no reply: edges repeat requests after
some silence, so a request may be served twice and none has to be stored.
"""

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from edged.aio import prefetch_in_worker
from edged.domain import place as places
from edged.domain.archive import protocol, reply_builder
from edged.domain.archive.protocol import Request, SnapshotRequest
from edged.domain.archive.reply_builder import BlockRead
from edged.domain.place import Place
from edged.domain.samples.border import Border
from edged.domain.samples.pack import Pack
from edged.errors import ArchiveUnavailable, FormatError, StorageError
from edged.log import logger
from edged.ports import ArchiveStore, Health, Log, LogReader, Message, Progress, Record, Statistics, TopicPartition
from edged.services.archive.refusals import RefusalLog

PART = "archive_read"
"""For `ports.Health`; writing may fail, on a full disk, while reading works."""
_REQUESTS_PER_POLL = 16
_MAX_QUEUED = 8
"""Queued requests of one edge; more are dropped, and repeated by the edge."""
_PARTS_PER_TURN = 8
"""About 4 MiB; then it is the next edge's turn."""
_MAX_OLD_REQUESTS = 256
"""Requests served at a start without a commit: some may have been sent before the first start."""


class ReplyPart(NamedTuple):
    """One encoded message of a reply, with its numbers of samples and of missing ones."""

    message: bytes
    samples: int
    missing: int


@dataclass
class _Reply:
    """A request being served: its place in the log, its messages, made lazily, and totals of those sent."""

    request: Request
    place: Place
    messages: Iterator[ReplyPart]
    serve_s: float = 0.0
    parts: int = 0
    samples: int = 0
    missing: int = 0
    num_bytes: int = 0
    done: bool = False

    def sent(self, part: ReplyPart) -> None:
        self.parts += 1
        self.samples += part.samples
        self.missing += part.missing
        self.num_bytes += len(part.message)


class EpochServer:
    """Reads the requests topic and writes each edge's epochs topic; edges take turns.

    Memory: one block, the part being sent, the part being made, and the queued requests.
    """

    def __init__(
        self,
        log: Log,
        store: ArchiveStore,
        health: Health,
        *,
        border: Border,
        edges: Collection[str],
        requests_topic: str,
        epochs_topic: Callable[[str], str],
        group: str,
        poll_s: float = 1.0,
    ) -> None:
        self._log = log
        self._store = store
        self._health = health
        self._border = border
        self._edges = frozenset(edges)
        self._partition = TopicPartition(requests_topic)
        self._epochs_topic = epochs_topic
        self._group = group
        self._poll_s = poll_s
        self._queues: OrderedDict[str, deque[_Reply]] = OrderedDict()
        self._next = Place(0)
        self._turns = 0
        self._num_served = 0
        self._refusals = RefusalLog()
        self._is_idle = False

    async def run(self) -> None:
        """Serve until cancelled. Cancelled: the current reply stops; its request is served again after a restart."""
        self._next = await self._start()
        async with self._log.reader({self._partition: self._next}, group=self._group) as reader:
            while True:
                await self._receive(reader)
                if self._queues:
                    await self._serve_next()
                    await reader.commit({self._partition: self._unanswered()})
                self._turns += 1

    def progress(self) -> Progress:
        """Turns served and polls done."""
        return Progress(self._turns, self._is_idle)

    def statistics(self) -> Statistics:
        return Statistics(served_samples=self._num_served, refused_samples=self._refusals.num_samples)

    async def _start(self) -> Place:
        """Where to read: as committed, or, without a commit of this log, a little before its end."""
        committed = (await self._log.committed(self._group, [self._partition])).get(self._partition)
        if committed is not None:
            place = (await self._log.resume({self._partition: committed.place}))[self._partition]
            if places.is_continued(committed.place, place):
                return place
        low, high = (await self._log.watermarks([self._partition]))[self._partition]
        return Place(max(low, high - _MAX_OLD_REQUESTS))

    async def _receive(self, reader: LogReader) -> None:
        """Queue new requests; wait for one only when none is queued."""
        self._is_idle = not self._queues
        try:
            records = await reader.poll(
                max_records=_REQUESTS_PER_POLL, timeout_s=self._poll_s if self._is_idle else 0.0
            )
        finally:
            self._is_idle = False
        for record in records:
            is_next = self._next.incarnation == record.incarnation
            place = self._next if is_next else Place(record.offset, record.incarnation, record.topic_id)
            self._next = record.place_after()
            try:
                self._queue(record, place)
            except FormatError as error:
                logger().warning("archive.bad_request", offset=record.offset, reason=str(error))

    def _queue(self, record: Record, place: Place) -> None:
        request = protocol.decode_request(record.value)
        if request.edge not in self._edges:
            raise FormatError(f"{request.edge!r} is no edge of the topology")
        if request.stream not in self._border.streams:
            raise FormatError(f"{request.stream!r} is no stream of the topology")
        queue = self._queues.get(request.edge, deque())
        if any(reply.request.request == request.request for reply in queue):
            return  # repeated before its turn
        if len(queue) == _MAX_QUEUED:
            raise FormatError(f"{_MAX_QUEUED} requests of {request.edge} wait already")
        queue.append(_Reply(request, place, self._messages(request)))
        self._queues[request.edge] = queue

    def _unanswered(self) -> Place:
        """The place of the first queued request, or of the next one."""
        queued = [reply.place for queue in self._queues.values() for reply in queue]
        of_this_log = [place for place in queued if place.incarnation == self._next.incarnation]
        return min([self._next, *of_this_log], key=lambda place: place.offset)

    async def _serve_next(self) -> None:
        """One turn of the edge at the head of the queue; if it has requests left it goes to the end."""
        edge, queue = self._queues.popitem(last=False)
        reply = queue[0]
        try:
            await self._turn(reply)
        except (StorageError, ArchiveUnavailable) as error:
            self._health.degraded(PART, str(error))
            logger().warning("archive.unanswered", edge=edge, request=reply.request.request, reason=str(error))
            reply.done = True
        if reply.done:
            queue.popleft()
        if queue:
            self._queues[edge] = queue

    async def _turn(self, reply: _Reply) -> None:
        """Send up to _PARTS_PER_TURN parts, each while the next is made."""
        clock = asyncio.get_running_loop().time
        started_s, parts_before = clock(), reply.parts
        topic = self._epochs_topic(reply.request.edge)
        async with aclosing(prefetch_in_worker(itertools.islice(reply.messages, _PARTS_PER_TURN))) as messages:
            async for part in messages:
                await self._log.append([Message(topic, part.message)])
                reply.sent(part)
                self._num_served += part.samples
        self._health.recovered(PART)
        reply.serve_s += clock() - started_s
        if reply.parts - parts_before < _PARTS_PER_TURN:
            reply.done = True
            self._log_served(reply)

    def _log_served(self, reply: _Reply) -> None:
        logger().info(
            "archive.served",
            edge=reply.request.edge,
            request=reply.request.request,
            stream=reply.request.stream,
            samples=reply.samples,
            missing=reply.missing,
            parts=reply.parts,
            bytes=reply.num_bytes,
            serve_ms=reply.serve_s * 1000,
        )

    def _messages(self, request: Request) -> Iterator[ReplyPart]:
        """The reply, made lazily in a worker thread. Raises ArchiveUnavailable, StorageError."""
        if isinstance(request, SnapshotRequest):
            snapshot = self._store.snapshot(request.stream, request.ends)
            for snapshot_part in protocol.snapshot_parts(request.request, snapshot):
                yield ReplyPart(protocol.encode_part(snapshot_part), 0, 0)
            return
        builder = reply_builder.ReplyBuilder(request.request, self._border.streams[request.stream])
        for read, pack in self._blocks(request.stream, reply_builder.block_reads(request)):
            for part in builder.add(read, pack):
                yield ReplyPart(protocol.encode_part(part), len(part.position), len(part.missing))
            self._refusals.add(request.stream, *read.ref, builder.take_refused())
        part = builder.close()
        yield ReplyPart(protocol.encode_part(part), len(part.position), len(part.missing))

    def _blocks(self, stream: str, reads: list[BlockRead]) -> Iterator[tuple[BlockRead, Pack | None]]:
        """Each read with its block; None for a block that cannot be read."""
        index = 0
        while index < len(reads):
            try:
                for _, pack in self._store.read(stream, [read.ref for read in reads[index:]]):
                    yield reads[index], pack
                    index += 1
            except StorageError as error:
                logger().error("archive.unreadable", stream=stream, reason=str(error))
                yield reads[index], None
                index += 1
