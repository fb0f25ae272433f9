"""Answers what the edges ask of the archive: snapshots, and exactly the samples that an epoch lacks.

Covers the order of serving and what becomes of bad requests. An answer that cannot be given is not given: an edge asks
again after some silence, so requests may be served twice and none has to be remembered.
"""

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from edged.aio import prefetch_in_worker
from edged.domain.archive import protocol, reply_builder
from edged.domain.archive.protocol import Request, SnapshotRequest
from edged.domain.archive.reply_builder import Want
from edged.domain.samples.pack import Pack
from edged.errors import ArchiveUnavailable, FormatError, StorageError
from edged.log import logger
from edged.ports import ArchiveStore, Health, Log, LogReader, Message, Progress, Record, Statistics, TopicPartition

PART = "archive_read"
"""For `ports.Health`; writing may fail, on a full disk, while reading works."""
_REQUESTS_PER_POLL = 16
_MAX_WAITING = 8
"""Requests of one edge that wait; more are dropped, to be asked again."""
_PARTS_PER_TURN = 8
"""Some 4 MiB; then it is the next edge's turn."""
_MAX_OLD_REQUESTS = 256
"""Without a commit, requests this far back are answered: some may have been made before the first start."""


class ReplyPart(NamedTuple):
    """One encoded message of an answer, with its numbers of samples and of missing ones."""

    message: bytes
    samples: int
    missing: int


@dataclass
class _Reply:
    """A request on its way: its messages as they are made, and what has been sent."""

    request: Request
    offset: int
    messages: Iterator[ReplyPart]
    serve_s: float = 0.0
    parts: int = 0
    samples: int = 0
    missing: int = 0
    num_bytes: int = 0
    done: bool = False

    def sent(self, served: ReplyPart) -> None:
        self.parts += 1
        self.samples += served.samples
        self.missing += served.missing
        self.num_bytes += len(served.message)


class EpochServer:
    """Reads the requests topic and writes each edge's epochs topic; edges take turns.

    Memory: a block, a part that is sent and one that is made, and the requests that wait.
    """

    def __init__(
        self,
        log: Log,
        store: ArchiveStore,
        health: Health,
        *,
        streams: Collection[str],
        edges: Collection[str],
        requests_topic: str,
        epochs_topic: Callable[[str], str],
        group: str,
        poll_s: float = 1.0,
    ) -> None:
        self._log = log
        self._store = store
        self._health = health
        self._streams = frozenset(streams)
        self._edges = frozenset(edges)
        self._partition = TopicPartition(requests_topic)
        self._epochs_topic = epochs_topic
        self._group = group
        self._poll_s = poll_s
        self._waiting: OrderedDict[str, deque[_Reply]] = OrderedDict()
        self._next_offset = 0
        self._turns = 0
        self._num_served = 0
        self._idle = False

    async def run(self) -> None:
        """Serve until cancelled. Cancelled: the answer under way ends where it is; its request is served again."""
        self._next_offset = await self._start()
        async with self._log.reader({self._partition: self._next_offset}, group=self._group) as reader:
            while True:
                await self._take(reader)
                if self._waiting:
                    await self._serve_next()
                    await reader.commit({self._partition: self._unanswered()})
                self._turns += 1

    def progress(self) -> Progress:
        """Turns served and polls done."""
        return Progress(self._turns, self._idle)

    def statistics(self) -> Statistics:
        return Statistics(served_samples=self._num_served)

    async def _start(self) -> int:
        low, high = (await self._log.watermarks([self._partition]))[self._partition]
        committed = (await self._log.committed(self._group, [self._partition])).get(self._partition)
        if committed is None or committed > high:  # the latter: the topic was made anew
            committed = high - _MAX_OLD_REQUESTS
        return max(low, committed)

    async def _take(self, reader: LogReader) -> None:
        """Queue new requests; wait for one only when none is there to be served."""
        self._idle = not self._waiting
        try:
            records = await reader.poll(max_records=_REQUESTS_PER_POLL, timeout_s=self._poll_s if self._idle else 0.0)
        finally:
            self._idle = False
        for record in records:
            self._next_offset = record.offset + 1
            try:
                self._queue(record)
            except FormatError as error:
                logger().warning("archive.bad_request", offset=record.offset, reason=str(error))

    def _queue(self, record: Record) -> None:
        request = protocol.decode_request(record.value)
        if request.edge not in self._edges:
            raise FormatError(f"{request.edge!r} is no edge of the topology")
        if request.stream not in self._streams:
            raise FormatError(f"{request.stream!r} is no stream of the topology")
        waiting = self._waiting.get(request.edge, deque())
        if any(answer.request.request == request.request for answer in waiting):
            return  # asked again before its turn
        if len(waiting) == _MAX_WAITING:
            raise FormatError(f"{_MAX_WAITING} requests of {request.edge} wait already")
        waiting.append(_Reply(request, record.offset, self._messages(request)))
        self._waiting[request.edge] = waiting

    def _unanswered(self) -> int:
        """The offset of the first request that waits, or of the next one."""
        return min([self._next_offset, *(answer.offset for queue in self._waiting.values() for answer in queue)])

    async def _serve_next(self) -> None:
        """One turn of the edge that has waited longest for one; what it has left goes behind the others."""
        edge, waiting = self._waiting.popitem(last=False)
        answer = waiting[0]
        try:
            await self._turn(answer)
        except (StorageError, ArchiveUnavailable) as error:
            self._health.degraded(PART, str(error))
            logger().warning("archive.unanswered", edge=edge, request=answer.request.request, reason=str(error))
            answer.done = True
        if answer.done:
            waiting.popleft()
        if waiting:
            self._waiting[edge] = waiting

    async def _turn(self, answer: _Reply) -> None:
        """Send some parts, each while the next is made."""
        clock = asyncio.get_running_loop().time
        started_s, parts_before = clock(), answer.parts
        topic = self._epochs_topic(answer.request.edge)
        async with aclosing(prefetch_in_worker(itertools.islice(answer.messages, _PARTS_PER_TURN))) as messages:
            async for served in messages:
                await self._log.append([Message(topic, served.message)])
                answer.sent(served)
                self._num_served += served.samples
        self._health.recovered(PART)
        answer.serve_s += clock() - started_s
        if answer.parts - parts_before < _PARTS_PER_TURN:
            answer.done = True
            self._log_served(answer)

    def _log_served(self, answer: _Reply) -> None:
        logger().info(
            "archive.served",
            edge=answer.request.edge,
            request=answer.request.request,
            stream=answer.request.stream,
            samples=answer.samples,
            missing=answer.missing,
            parts=answer.parts,
            bytes=answer.num_bytes,
            serve_ms=answer.serve_s * 1000,
        )

    def _messages(self, request: Request) -> Iterator[ReplyPart]:
        """The answer, made as it is consumed, in a worker thread. Raises ArchiveUnavailable, StorageError."""
        if isinstance(request, SnapshotRequest):
            snapshot = self._store.snapshot(request.stream, request.ends)
            for snapshot_part in protocol.snapshot_parts(request.request, snapshot):
                yield ReplyPart(protocol.encode_part(snapshot_part), 0, 0)
            return
        parts = reply_builder.Parts(request.request)
        for want, pack in self._blocks(request.stream, reply_builder.wants(request)):
            for part in parts.add(want, pack):
                yield ReplyPart(protocol.encode_part(part), len(part.position), len(part.missing))
        part = parts.close()
        yield ReplyPart(protocol.encode_part(part), len(part.position), len(part.missing))

    def _blocks(self, stream: str, wants: list[Want]) -> Iterator[tuple[Want, Pack | None]]:
        """Each want with its block, read once; None for a block that cannot be read."""
        at = 0
        while at < len(wants):
            try:
                for _, pack in self._store.read(stream, [want.ref for want in wants[at:]]):
                    yield wants[at], pack
                    at += 1
            except StorageError as error:
                logger().error("archive.unreadable", stream=stream, reason=str(error))
                yield wants[at], None
                at += 1
