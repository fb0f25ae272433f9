"""Serves the edges' requests to the archive: snapshots, and exactly the samples that an epoch lacks.

Covers the order of serving and bad requests. A request that cannot be served gets no reply: edges repeat requests after
some silence, so a request may be served twice and none has to be stored. Whatever one edge asks costs the others at
most one turn at a time, which ends by what was sent, by the blocks looked for, or by time.
"""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import aclosing

from edged.aio import Backoff, prefetch_in_worker, run_in_worker
from edged.domain import place as places
from edged.domain.archive import protocol, reply_builder
from edged.domain.archive.protocol import Request, SamplesRequest, SnapshotRequest
from edged.domain.archive.reply_builder import ReplyBuilder, ReplyPart
from edged.domain.archive.snapshot import BlockRef
from edged.domain.place import Place
from edged.domain.samples.border import Border
from edged.errors import ArchiveUnavailable, BlockAbsent, FormatError, RecordTooLarge, StorageError
from edged.hanging import degraded_while_hanging
from edged.log import Throttle, ThrottledLog
from edged.ports import ArchiveStore, Health, Log, LogReader, Message, Progress, Statistics, TopicPartition
from edged.services.archive.refusals import RefusalLog
from edged.services.archive.reply import Reply
from edged.services.archive.sharing import Share

PART = "archive_read"
"""For `ports.Health`; writing may fail, on a full disk, while reading works."""
_REQUESTS_PER_POLL = 16
_MAX_QUEUED = 8
"""Queued requests of one edge; more are dropped, and repeated by the edge."""
_SEND_S = 40.0
"""For one part; a link of 100 kbit/s takes as long. An edge whose topic takes none is set aside, if Kafka answers."""
_ANSWER_S = 5.0
_SET_ASIDE_S, _MAX_SET_ASIDE_S = 120.0, 600.0
"""For how long: several times what it costs the others to try again."""
_SERVED_LINES = 20
"""Of one edge in 10 s."""
_MAX_OLD_REQUESTS = 256
"""Requests served at a start without a commit: some may have been sent before the first start."""


class _NothingTakenError(Exception):
    """An edge's topic takes nothing, though Kafka answers."""


class EpochServer:
    """Reads the requests topic and writes each edge's epochs topic; edges take turns.

    Only those requests are served whose partition is in the node's share: what was queued of one that is another node's
    by now is dropped, for that node reads from where all before was answered. The edge takes no part twice.

    Memory: the part being sent, one part of each reply, the queued requests, and the blocks that the store holds.
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
        share: Share | None = None,
        poll_s: float = 1.0,
    ) -> None:
        """`share`: what of the requests is this node's; None: their first partition, always."""
        self._log = log
        self._store = store
        self._health = health
        self._border = border
        self._edges = frozenset(edges)
        self._requests_topic = requests_topic
        self._share = share or Share([TopicPartition(requests_topic)])
        self._epochs_topic = epochs_topic
        self._group = group
        self._poll_s = poll_s
        self._queues: OrderedDict[str, deque[Reply]] = OrderedDict()
        self._next: dict[TopicPartition, Place] = {}
        self._turns = 0
        self._num_served = 0
        self._refusals = RefusalLog()
        self._lines, self._served_lines = ThrottledLog(), ThrottledLog(Throttle(limit=_SERVED_LINES))
        self._is_idle = False
        self._set_aside: dict[str, tuple[float, Backoff]] = {}
        """Edges to which nothing could be sent: until when, and what comes after that."""

    async def run(self) -> None:
        """Serve until cancelled. Cancelled: the current reply stops; its request is served again after a restart."""
        with self._share.work():
            while True:
                held = self._share.held
                await self._follow(held)
                if self._next:
                    await self._serve(held)
                else:
                    await self._wait(held)

    def progress(self) -> Progress:
        """Turns served and polls done."""
        return Progress(self._turns, self._is_idle)

    def statistics(self) -> Statistics:
        return Statistics(served_samples=self._num_served, refused_samples=self._refusals.num_samples)

    async def _follow(self, held: frozenset[TopicPartition]) -> None:
        """Begin with the partitions that are this node's now, and forget what was of others."""
        requests = {each for each in held if each.topic == self._requests_topic}
        kept = {edge: deque(r for r in queue if r.partition in requests) for edge, queue in self._queues.items()}
        self._queues = OrderedDict((edge, queue) for edge, queue in kept.items() if queue)
        if not self._next.keys() <= requests:  # whose edges may be those that took nothing
            for edge in self._set_aside:
                self._health.recovered(f"epochs/{edge}")
            self._set_aside.clear()
        begun = await self._start(requests - self._next.keys())
        self._next = {each: place for each, place in (self._next | begun).items() if each in requests}

    async def _serve(self, held: frozenset[TopicPartition]) -> None:
        """Receive and serve requests, as long as this is the node's share."""
        async with self._log.reader(self._next, group=self._group) as reader:
            while self._share.held is held:
                await self._receive(reader)
                if self._queues:
                    partition = await self._serve_next()
                    if partition in self._share.held:
                        await reader.commit({partition: self._unanswered(partition)})
                self._turns += 1

    async def _wait(self, held: frozenset[TopicPartition]) -> None:
        """Wait for another share: there are no requests in this one."""
        self._is_idle = True
        try:
            await self._share.other_than(held)
        finally:
            self._is_idle = False

    async def _start(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Place]:
        """Where to read: as committed, or, without a commit of this log, a little before its end."""
        if not partitions:
            return {}
        committed = {each: at.place for each, at in (await self._log.committed(self._group, partitions)).items()}
        resumed = await self._log.resume(committed)
        begin = {each: place for each, place in resumed.items() if places.is_continued(committed[each], place)}
        marks = await self._log.watermarks([each for each in partitions if each not in begin])
        return begin | {each: Place(max(low, high - _MAX_OLD_REQUESTS)) for each, (low, _, high) in marks.items()}

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
            partition = TopicPartition(record.topic, record.partition)
            is_next = self._next[partition].incarnation == record.incarnation
            place = self._next[partition] if is_next else Place(record.offset, record.incarnation, record.topic_id)
            self._next[partition] = record.place_after()
            decoded = await run_in_worker(_decode, record.value)
            edge = decoded.edge if isinstance(decoded, (SnapshotRequest, SamplesRequest)) else ""
            problem = (
                str(decoded)
                if isinstance(decoded, FormatError)
                else self._queue(decoded, record.value, partition, place)
            )
            if problem:
                known = {"edge": edge} if edge in self._edges else {}
                self._lines.warning(
                    "archive.bad_request", known.get("edge"), **known, offset=record.offset, reason=problem
                )

    def _queue(self, request: Request, encoded: bytes, partition: TopicPartition, place: Place) -> str:
        """Queue the request, encoded as it is smallest; or say what is wrong with it."""
        if request.edge not in self._edges:
            return f"{request.edge!r} is no edge of the topology"
        if request.stream not in self._border.streams:
            return f"{request.stream!r} is no stream of the topology"
        if asyncio.get_running_loop().time() < self._set_aside.get(request.edge, (0.0, None))[0]:
            return f"{self._epochs_topic(request.edge)} takes nothing; it is tried again later"
        queue = self._queues.get(request.edge, deque())
        if any(reply.request == request.request for reply in queue):
            return ""  # repeated before its turn
        if len(queue) == _MAX_QUEUED:
            return f"{_MAX_QUEUED} requests of {request.edge} wait already"
        reply = Reply(request.request, request.edge, request.stream, partition, place, iter(()))
        reply.messages = self._messages(reply, encoded)
        queue.append(reply)
        self._queues[request.edge] = queue
        return ""

    def _unanswered(self, partition: TopicPartition) -> Place:
        """The place of the partition's first queued request, or of its next one."""
        replies = [reply for queue in self._queues.values() for reply in queue if reply.partition == partition]
        next_ = self._next[partition]
        of_this_log = [reply.place for reply in replies if reply.place.incarnation == next_.incarnation]
        return min([next_, *of_this_log], key=lambda place: place.offset)

    async def _serve_next(self) -> TopicPartition:
        """One turn of the edge at the head of the queue; if it has requests left it goes to the end.

        Returns the partition of its request.
        """
        edge, queue = self._queues.popitem(last=False)
        reply = queue[0]
        try:
            await self._turn(reply)
        except (StorageError, ArchiveUnavailable) as error:
            self._health.degraded(PART, str(error))
            self._drop(reply, str(error))
        except _NothingTakenError as error:
            self._put_aside(reply, queue, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is in what this edge asked for
            self._drop(reply, f"{type(error).__name__}: {error}", exc_info=error)
        if reply.done and queue:
            queue.popleft()
        if queue:
            self._queues[edge] = queue
        return reply.partition

    def _drop(self, reply: Reply, reason: str, **traceback: Exception) -> None:
        reply.done = True
        self._lines.warning(
            "archive.unanswered", reply.edge, edge=reply.edge, request=reply.request, reason=reason, **traceback
        )

    async def _turn(self, reply: Reply) -> None:
        """Send the parts of one turn, each while the next is made."""
        clock = asyncio.get_running_loop().time
        started_s = clock()
        topic = self._epochs_topic(reply.edge)
        async with aclosing(prefetch_in_worker(reply.turn(clock))) as messages:
            while (part := await self._part_after(messages)) is not None:
                await self._send(Message(topic, part.message))
                reply.sent(part)
                self._num_served += part.samples
        self._health.recovered(PART)
        if self._set_aside.pop(reply.edge, None):
            self._health.recovered(f"epochs/{reply.edge}")
        reply.turns += 1
        reply.serve_s += clock() - started_s
        if reply.done:
            self._log_served(reply)

    async def _part_after(self, parts: AsyncIterator[ReplyPart]) -> ReplyPart | None:
        with degraded_while_hanging(self._health, PART):
            return await anext(parts, None)

    async def _send(self, message: Message) -> None:
        """Append the message, however long Kafka is away. Raises _NothingTakenError when its topic alone takes none."""
        while True:
            try:
                async with asyncio.timeout(_SEND_S):
                    await self._log.append([message], refuse_too_large=True)
            except RecordTooLarge as error:
                raise _NothingTakenError(str(error)) from error
            except TimeoutError:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ANSWER_S):
                        await self._log.watermarks([TopicPartition(self._requests_topic)])
                    nothing = f"{message.topic} takes nothing, and Kafka answers: is the topic there?"
                    raise _NothingTakenError(nothing) from None
            else:
                return

    def _put_aside(self, reply: Reply, queue: deque[Reply], reason: str) -> None:
        """Drop the edge's requests, and take none for a while: each would hold up the others for as long again."""
        _, backoff = self._set_aside.get(reply.edge, (0.0, Backoff(_SET_ASIDE_S, _MAX_SET_ASIDE_S)))
        self._set_aside[reply.edge] = asyncio.get_running_loop().time() + backoff.next_s(), backoff
        self._health.degraded(f"epochs/{reply.edge}", reason, awaited=False)
        self._drop(reply, reason)
        queue.clear()

    def _log_served(self, reply: Reply) -> None:
        edge, request, stream = reply.edge, reply.request, reply.stream
        self._served_lines.info(
            "archive.served",
            edge,
            edge=edge,
            request=request,
            stream=stream,
            samples=reply.samples,
            missing=reply.missing,
            parts=reply.parts,
            bytes=reply.num_bytes,
            turns=reply.turns,
            serve_ms=reply.serve_s * 1000,
        )
        if reply.first_absent is not None:
            source, offset = reply.first_absent
            self._lines.warning(
                "archive.absent",
                edge,
                edge=edge,
                request=request,
                stream=stream,
                source=source,
                offset=offset,
                blocks=reply.num_absent,
            )

    def _messages(self, reply: Reply, encoded: bytes) -> Iterator[ReplyPart | None]:
        """The reply, made in a worker thread; None where a turn ends. Raises ArchiveUnavailable, StorageError."""
        request = protocol.decode_request(encoded)
        if isinstance(request, SnapshotRequest):
            yield from self._snapshot(reply, request)
        else:
            yield from self._samples(reply, request)

    def _snapshot(self, reply: Reply, request: SnapshotRequest) -> Iterator[ReplyPart | None]:
        snapshot = self._store.snapshot(request.stream, request.ends)
        for part in protocol.snapshot_parts(request.request, snapshot):
            yield ReplyPart(protocol.encode_part(part), 0, 0)
            if reply.turn_is_over():
                yield None

    def _samples(self, reply: Reply, request: SamplesRequest) -> Iterator[ReplyPart | None]:
        """Between turns no block is held, nor read."""
        builder = ReplyBuilder(request.request, self._border.streams[request.stream])
        reads = reply_builder.block_reads(request)
        while reply.blocks < len(reads):
            coming = reads[reply.blocks : reply.blocks + reply.blocks_to_come()]
            with contextlib.closing(self._store.read_each(request.stream, [read.ref for read in coming])) as blocks:
                for read, (ref, block) in zip(coming, blocks, strict=True):
                    if isinstance(block, StorageError):
                        self._note(reply, ref, block)
                    yield from builder.add(read, None if isinstance(block, StorageError) else block)
                    self._refusals.add(request.stream, *read.ref, builder.take_refused())
                    reply.blocks += 1
                    if reply.turn_is_over():
                        break
            if reply.turn_is_over():
                yield None
        yield builder.close()

    def _note(self, reply: Reply, ref: BlockRef, error: StorageError) -> None:
        """Count an absent block, log a damaged one."""
        if isinstance(error, BlockAbsent):
            reply.num_absent += 1
            reply.first_absent = reply.first_absent or ref
        else:
            where = reply.stream, ref.source
            self._lines.error("archive.unreadable", where, stream=reply.stream, source=ref.source, reason=str(error))


def _decode(encoded: bytes) -> Request | FormatError:
    try:
        return protocol.decode_request(encoded)
    except FormatError as error:
        return error
    except Exception as error:  # noqa: BLE001 - one edge's request must not end the others
        return FormatError(f"{type(error).__name__}: {error}")
