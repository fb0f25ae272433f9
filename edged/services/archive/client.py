"""The edge's client of the archive: sends requests through Kafka, receives replies, detects silence.

Covers matching replies to requests, repeating requests, and reporting an archive that does not answer. Runs no task of
its own: waiting and draining process the replies. See also: `fetch` (a request's progress), `services.epochs` (what is
requested).
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from edged.domain.archive import protocol
from edged.domain.archive.protocol import SamplesPart, SamplesRequest, SnapshotPart, SnapshotRequest
from edged.domain.archive.snapshot import Ids
from edged.errors import AnotherVersion, FormatError
from edged.log import ThrottledLog, logger
from edged.ports import Health, Log, LogReader, Message, Record, TopicPartition
from edged.services.archive.fetch import Fetch, SnapshotFetch, WindowFetch
from edged.settings import Timing

DEGRADED_AFTER_S = 8.0
"""Silence of the archive after which it is degraded: below the promised 10 s, above the time of a cold read."""

RECORDS_PER_POLL = 4
"""Reply parts per poll; 2 MiB, so that handling them does not block the event loop."""


@dataclass(frozen=True, slots=True)
class ArchiveAddress:
    """Which edge asks, for which stream, through which topics."""

    edge: str
    stream: str
    requests_topic: str
    epochs_topic: str
    requests_partition: int = 0
    """If the topic has as many; else one of those that it has: whoever reads a partition answers all that is in it."""


@dataclass(slots=True)
class _Pending:
    """A fetch in progress. `requests`: request id → the window positions that it asked for."""

    fetch: Fetch
    client: "ArchiveClient"
    sent_at: float = 0.0
    is_sent: bool = False
    requests: dict[str, Ids] = field(default_factory=dict)


class _ReplyMux:
    """Shared by the clients of a process: the pending fetches, and the one reader of all replies.

    A client that polls processes the replies of all.
    """

    def __init__(self, log: Log, health: Health, replies: TopicPartition, timing: Timing) -> None:
        self.pending: list[_Pending] = []
        self._log = log
        self._health = health
        self._replies = replies
        self._timing = timing
        self._requests: TopicPartition | None = None
        self._reader: LogReader | None = None
        self._reader_stack = contextlib.AsyncExitStack()
        self._num_users = 0
        self._open_lock, self._poll_lock = asyncio.Lock(), asyncio.Lock()
        self._process = secrets.token_hex(6)
        self._num_requests = 0
        self._received_at = 0.0
        self._lines = ThrottledLog()

    @contextlib.asynccontextmanager
    async def open(self, client: "ArchiveClient") -> AsyncIterator[None]:
        async with self._open_lock:
            if self._reader is None:
                self._requests = await self._partition_of(client.address)
                end = (await self._log.watermarks([self._replies]))[self._replies].high
                self._reader = await self._reader_stack.enter_async_context(self._log.reader({self._replies: end}))
            self._num_users += 1
        try:
            yield
        finally:
            self.pending = [  # window readers forget their windows, which other clients may use
                each for each in self.pending if each.client is not client or isinstance(each.fetch, WindowFetch)
            ]
            async with self._open_lock:
                self._num_users -= 1
                if not self._num_users:
                    self._reader = None
                    self.pending.clear()
                    await self._reader_stack.aclose()

    async def _partition_of(self, address: ArchiveAddress) -> TopicPartition:
        topic, partition = address.requests_topic, address.requests_partition
        there = (await self._log.partitions([topic])).get(topic, 1) if partition else 1
        return TopicPartition(topic, partition % there)

    def forget(self, fetch: Fetch) -> None:
        """Remove one user; replies to a fetch without users are ignored."""
        if isinstance(fetch, WindowFetch):
            fetch.num_users -= 1
            if fetch.num_users > 0:
                return
        self.pending = [pending for pending in self.pending if pending.fetch is not fetch]

    async def drain(self) -> None:
        if self.pending and not self._poll_lock.locked():
            await self.poll(0)

    async def poll(self, timeout_s: float, unless: Callable[[], bool] = lambda: False) -> None:
        """Process replies that arrive within `timeout_s`, one client at a time; none when `unless` is true by then."""
        async with self._poll_lock:
            if unless():
                return
            assert self._reader is not None, "open() the client first"
            records = await self._reader.poll(max_records=RECORDS_PER_POLL, timeout_s=timeout_s)
            if records:
                self._received_at = asyncio.get_running_loop().time()
            understood = [self._take(record) for record in records]
            if any(understood):
                self._health.recovered("archive")
            await self._check_silence()

    def _take(self, record: Record) -> bool:
        """Take a part of a reply; False when it is of another version, which the archive then is, too."""
        try:
            part = protocol.decode_part(record.value)
            pending = next((each for each in self.pending if part.request in each.requests), None)
            if pending is None:
                return True  # of an earlier process, or forgotten
            self._accept(pending, part)
        except AnotherVersion as error:
            self._health.degraded("archive", f"it answers in another version, {error}: upgrade this node or that one")
            return False
        except FormatError as error:
            self._lines.warning("epoch.malformed", None, err=str(error))
            return True
        if pending.fetch.is_complete:
            self.pending.remove(pending)
            pending.client.time_fetches()
        return True

    @staticmethod
    def _accept(pending: _Pending, part: protocol.Part) -> None:
        fetch = pending.fetch
        if isinstance(fetch, WindowFetch) and isinstance(part, SamplesPart):
            num_open = fetch.num_open
            fetch.accept(part, pending.requests[part.request])
            pending.client.num_fetched += num_open - fetch.num_open
        elif isinstance(fetch, SnapshotFetch) and isinstance(part, SnapshotPart):
            fetch.accept(part)
        else:
            raise FormatError("a reply is not of its request's kind")

    async def _check_silence(self) -> None:
        """Report a silent archive and repeat unanswered requests."""
        now = asyncio.get_running_loop().time()
        for pending in list(self.pending):
            silent_s = now - max(pending.sent_at, self._received_at)
            if silent_s >= DEGRADED_AFTER_S:
                self._health.degraded("archive", f"no answer for {silent_s:.0f} s")
            if not pending.is_sent and silent_s >= self._timing.kafka_deadline_s:
                await self.send(pending)
            elif silent_s >= self._timing.archive_deadline_s:
                logger().warning("epoch.asked_again", silent_s=round(silent_s, 1), samples=pending.fetch.num_open)
                await self.send(pending)

    async def send(self, pending: _Pending) -> None:
        """Request what the fetch still lacks. Replies to its earlier requests are still accepted."""
        address = pending.client.address
        request = self._request(pending, address)
        topic, partition = self._requests or TopicPartition(address.requests_topic)
        message = Message(topic, protocol.encode_request(request), key=address.edge.encode(), partition=partition)
        pending.is_sent = False
        with contextlib.suppress(TimeoutError):
            # The log would wait until the broker is back; the trainer has a window in memory and should continue.
            async with asyncio.timeout(self._timing.poll_s):
                await self._log.append([message])
                pending.is_sent = True
        pending.sent_at = asyncio.get_running_loop().time()

    def _request(self, pending: _Pending, address: ArchiveAddress) -> protocol.Request:
        self._num_requests += 1
        name = f"{self._process}-{self._num_requests}"
        fetch = pending.fetch
        if isinstance(fetch, SnapshotFetch):
            pending.requests[name] = np.zeros(0, np.int64)
            return SnapshotRequest(name, address.edge, address.stream, fetch.ends)
        positions = fetch.open_positions()
        pending.requests[name] = positions
        return SamplesRequest(name, address.edge, address.stream, *fetch.window.part(positions))


class ArchiveClient:
    """Requests of one job to the archive. Used by one task; `open()` it first."""

    def __init__(
        self, log: Log, health: Health, address: ArchiveAddress, timing: Timing, peer: "ArchiveClient | None" = None
    ) -> None:
        """`peer`: another job's client, with which this one shares the reader of replies."""
        replies = TopicPartition(address.epochs_topic)
        self.address = address
        self._mux: _ReplyMux = _ReplyMux(log, health, replies, timing) if peer is None else peer._mux  # noqa: SLF001 - same class
        self._timing = timing
        self._waited_s = 0.0
        self._waiting_since: float | None = None
        self._fetched_s = 0.0
        self._fetching_since: float | None = None
        self.num_fetched = 0
        """Samples received, of those requested."""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Read replies from now on; those to an earlier process are not read. Waits for the log."""
        async with contextlib.AsyncExitStack() as stack:
            with self._waiting():
                await stack.enter_async_context(self._mux.open(self))
            try:
                yield
            finally:
                await stack.aclose()
                self.time_fetches()

    @property
    def is_waiting(self) -> bool:
        """Whether it is waiting for Kafka or the archive now."""
        return self._waiting_since is not None

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting in total, up to now."""
        now = asyncio.get_running_loop().time()
        return self._waited_s + (0.0 if self._waiting_since is None else now - self._waiting_since)

    @property
    def fetching_s(self) -> float:
        """Seconds in total in which samples were requested and not complete, up to now."""
        now = asyncio.get_running_loop().time()
        return self._fetched_s + (0.0 if self._fetching_since is None else now - self._fetching_since)

    @property
    def num_bytes(self) -> int:
        """Bytes that the pending fetches hold."""
        return sum(pending.fetch.num_bytes for pending in self._mux.pending if pending.client is self)

    async def ask(self, fetch: Fetch) -> None:
        """Send the fetch's request. Waits for Kafka at most `poll_s`: an unsent request is sent again later."""
        pending = _Pending(fetch, self)
        self._mux.pending.append(pending)
        self.time_fetches()
        await self._mux.send(pending)

    def join(self, fetch: WindowFetch) -> None:
        """Use a fetch of a peer, until `forget`: it completes even if the peer forgets it."""
        fetch.num_users += 1

    def forget(self, fetch: Fetch) -> None:
        """Stop using the fetch; once no client uses it, its replies are ignored."""
        self._mux.forget(fetch)
        self.time_fetches()

    async def drain(self) -> None:
        """Process the replies that have arrived, without waiting."""
        await self._mux.drain()

    async def wait(self, fetch: Fetch) -> None:
        """Return when the fetch is complete, however long the archive takes."""
        if fetch.is_complete:
            return
        with self._waiting():
            while not fetch.is_complete:
                await self._mux.poll(self._timing.poll_s, unless=lambda: fetch.is_complete)

    async def pause(self, seconds: float) -> None:
        """Wait `seconds`, processing replies."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        with self._waiting():
            while (left := until - loop.time()) > 0:
                await self._mux.poll(min(left, self._timing.poll_s))

    def time_fetches(self) -> None:
        """Start or stop the clock of `fetching_s`: it runs while a window fetch is pending."""
        is_fetching = any(
            pending.client is self and isinstance(pending.fetch, WindowFetch) for pending in self._mux.pending
        )
        if is_fetching and self._fetching_since is None:
            self._fetching_since = asyncio.get_running_loop().time()
        elif not is_fetching:
            self._fetched_s, self._fetching_since = self.fetching_s, None

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._waiting_since = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._waited_s, self._waiting_since = self.wait_s, None
