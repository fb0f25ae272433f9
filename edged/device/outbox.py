"""A device's samples between `publish` and the link that sends them: on its disk, or in memory.

For one event loop. `Device` runs `work` in a task of its own.
"""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from edged.adapters.disk.sample_buffer import MAX_APPEND_BYTES, SampleBuffer
from edged.aio import Backoff, run_in_worker
from edged.domain.device import frames
from edged.domain.device.sample import Buffered, Draft, Kept, Position, sample_id, series_of
from edged.errors import BufferFull, EdgedError, RejectedRecord, StorageError
from edged.log import ThrottledLog

_KEEP_EVERY_S = 0.05
"""Between two moves of the buffer's cursor."""


class Outbox(Protocol):
    """Samples to be sent, in order. `series`: of their ids. `num_refused`: samples that were refused for good."""

    series: set[str]
    num_refused: int

    async def add(self, drafts: Sequence[Draft]) -> list[str]:
        """Add the samples; return their ids once they are safe."""

    async def take(self, max_samples: int, max_bytes: int) -> list[Buffered]:
        """Wait for the next samples to be sent, at least one."""

    def settled(self, buffered: Buffered, refusal: str = "") -> None:
        """The sample has its receipt. `refusal`: why edge or broker refuse it for good; empty if they do not."""

    def passed(self, position: Position) -> None:
        """All samples up to this position are settled."""

    def failed(self, error: EdgedError, buffered: Buffered | None = None) -> bool:
        """Nothing can be sent any more, or not this sample. Returns whether it is given up, rather than retried."""

    async def work(self) -> None:
        """Work in the background until cancelled; calls of `add` that still wait are cancelled then, too."""

    async def empty(self) -> None:
        """Wait until all samples are settled."""


class MemoryOutbox:
    """`add` returns once the samples have their receipts. Samples without one are lost with the process."""

    def __init__(self) -> None:
        self.num_refused = 0
        self._series = secrets.token_hex(6)
        self.series = {self._series}
        self._next = 1
        self._waiting: deque[Buffered] = deque()
        self._answers: dict[str, asyncio.Future[None]] = {}
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failure: EdgedError | None = None

    async def add(self, drafts: Sequence[Draft]) -> list[str]:
        if self._failure is not None:
            raise self._failure
        added = [self._take_in(draft) for draft in drafts]
        self._some.set()
        try:
            answers = await asyncio.gather(*(self._answers[each.id] for each in added), return_exceptions=True)
        except asyncio.CancelledError:
            self._give_up({each.id for each in added})
            raise
        for each in answers:
            if isinstance(each, BaseException):
                raise each
        return [each.id for each in added]

    async def take(self, max_samples: int, max_bytes: int) -> list[Buffered]:
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        found = [self._waiting.popleft()]
        while (
            self._waiting and len(found) < max_samples and sum(len(each.sample.payload) for each in found) < max_bytes
        ):
            found.append(self._waiting.popleft())
        return found

    def settled(self, buffered: Buffered, refusal: str = "") -> None:
        self.num_refused += bool(refusal)
        self._answer(buffered.id, RejectedRecord(refusal) if refusal else None)

    def passed(self, position: Position) -> None:
        """Do nothing: the sample is forgotten with its receipt."""

    def failed(self, error: EdgedError, buffered: Buffered | None = None) -> bool:
        if buffered is None:
            self._failure = error
        for name in list(self._answers) if buffered is None else [buffered.id]:
            self._answer(name, error)
        return True

    async def work(self) -> None:
        """Do nothing; at the end, cancel calls of `add` that still wait."""
        try:
            await asyncio.Event().wait()
        finally:
            for answer in self._answers.values():
                answer.cancel()

    async def empty(self) -> None:
        await self._idle.wait()

    def _take_in(self, draft: Draft) -> Buffered:
        name = sample_id(self._series, self._next)
        kept = Kept(self._next, draft.sampled_ms, 0, 0, draft.label, draft.payload)
        buffered = Buffered(Position(0, self._next), name, kept)
        self._next += 1
        self._waiting.append(buffered)
        self._answers[name] = asyncio.get_running_loop().create_future()
        self._idle.clear()
        return buffered

    def _give_up(self, names: Collection[str]) -> None:
        """Forget samples that nobody waits for and that are not being sent: the broker may be away for long."""
        for each in [each for each in self._waiting if each.id in names]:
            self._waiting.remove(each)
            self._answer(each.id, None)

    def _answer(self, name: str, error: EdgedError | None) -> None:
        answer = self._answers.pop(name, None)
        if answer is not None and not answer.done():
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)
        if not self._answers:
            self._idle.set()


class _Request(NamedTuple):
    """Drafts that one caller publishes together; `answer` gets their ids."""

    drafts: Sequence[Draft]
    num_bytes: int
    answer: "asyncio.Future[list[str]]"


class DiskOutbox:
    """`add` returns once the samples are durable. Those that come while the disk is busy are written together."""

    def __init__(self, buffer: SampleBuffer) -> None:
        self.num_refused = 0
        self.buffer = buffer
        self.series = {buffer.series}
        self._requests: deque[_Request] = deque()
        self._asked = asyncio.Event()
        self._some = asyncio.Event()
        self._moved = asyncio.Event()
        self._position: Position | None = None
        self._kept = asyncio.Condition()
        self._failure: EdgedError | None = None
        self._lines = ThrottledLog()

    async def add(self, drafts: Sequence[Draft]) -> list[str]:
        ids: list[str] = []
        for part in _parts(drafts):
            if self._failure is not None:
                raise self._failure
            answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
            request = _Request(part, _num_bytes(part), answer)
            self._requests.append(request)
            self._asked.set()
            try:
                ids += await answer
            except asyncio.CancelledError:
                with contextlib.suppress(ValueError):  # it is being written
                    self._requests.remove(request)
                raise
        return ids

    async def take(self, max_samples: int, max_bytes: int) -> list[Buffered]:
        backoff = Backoff()
        while True:
            self._some.clear()
            try:
                found = await run_in_worker(self.buffer.read, max_samples, max_bytes)
            except StorageError as error:
                self._lines.warning("buffer.stuck", None, folder=str(self.buffer.folder), file="", err=str(error))
                await backoff.wait()
                continue
            await self._notify()  # expired and damaged samples need no receipt
            if found:
                self.series |= {series_of(each.id) for each in found}
                return found
            await self._some.wait()

    def settled(self, buffered: Buffered, refusal: str = "") -> None:
        if refusal:
            self.num_refused += 1
            self._lines.warning(
                "buffer.refused", refusal, sample_id=buffered.id, reason=refusal, total=self.num_refused
            )

    def passed(self, position: Position) -> None:
        self._position = position
        self._moved.set()

    def failed(self, error: EdgedError, buffered: Buffered | None = None) -> bool:
        """The sample stays on the disk, and is retried."""
        if buffered is None:
            self._failure = error
        return False

    async def work(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            group.create_task(self._keep_place())

    async def empty(self) -> None:
        async with self._kept:
            await self._kept.wait_for(lambda: self.buffer.num_samples == 0)

    def close(self) -> None:
        """In a worker: write the cursor. Samples without a receipt stay for the next run."""
        if self._position is not None:
            self.buffer.received(self._position)
        self.buffer.close()

    async def _write(self) -> None:
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                while self._requests:
                    await self._append(self._next_group())
        finally:
            for request in self._requests:
                request.answer.cancel()

    def _next_group(self) -> list[_Request]:
        """The requests that are written together."""
        group = [self._requests.popleft()]
        size = group[0].num_bytes
        while self._requests and size + self._requests[0].num_bytes <= MAX_APPEND_BYTES:
            size += self._requests[0].num_bytes
            group.append(self._requests.popleft())
        return group

    async def _append(self, group: Sequence[_Request]) -> None:
        """Write the group; if it finds no room, each request alone."""
        try:
            ids = iter(await run_in_worker(self.buffer.append, [each for request in group for each in request.drafts]))
        except EdgedError as error:
            if isinstance(error, BufferFull) and len(group) > 1:
                for request in group:
                    await self._append([request])
                return
            for request in group:
                if not request.answer.done():
                    request.answer.set_exception(error)
        else:
            self._some.set()
            for request in group:
                given = [next(ids) for _ in request.drafts]
                if not request.answer.done():
                    request.answer.set_result(given)
        finally:
            for request in group:
                request.answer.cancel()  # unless it has its answer

    async def _keep_place(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            assert self._position is not None
            await run_in_worker(self.buffer.received, self._position)
            await self._notify()
            await asyncio.sleep(_KEEP_EVERY_S)

    async def _notify(self) -> None:
        """Wake `empty`."""
        async with self._kept:
            self._kept.notify_all()


def _parts(drafts: Sequence[Draft]) -> list[list[Draft]]:
    """Split the drafts into parts of one write each."""
    parts: list[list[Draft]] = []
    size = MAX_APPEND_BYTES
    for draft in drafts:
        size += frames.num_bytes(draft.label, draft.payload)
        if size > MAX_APPEND_BYTES:
            parts.append([])
            size = frames.num_bytes(draft.label, draft.payload)
        parts[-1].append(draft)
    return parts


def _num_bytes(drafts: Sequence[Draft]) -> int:
    return sum(frames.num_bytes(each.label, each.payload) for each in drafts)
