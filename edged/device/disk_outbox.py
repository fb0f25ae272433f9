"""A device's samples between `publish` and the link that sends them: on its disk.

Loaded for a device with a buffer alone. For one event loop. `Device` runs `work` in a task of its own.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from edged.adapters.disk.sample_buffer import MAX_APPEND_BYTES, SampleBuffer
from edged.aio import Backoff, run_in_worker
from edged.domain.device import frames
from edged.domain.device.sample import Buffered, Draft, Position, series_of
from edged.domain.device.segments import Bounds
from edged.errors import BufferFull, EdgedError, StorageError
from edged.log import ThrottledLog

_KEEP_EVERY_S = 0.05
"""Between two moves of the buffer's cursor."""


class _Request(NamedTuple):
    """Drafts that one caller publishes together; `answer` gets their ids."""

    drafts: Sequence[Draft]
    num_bytes: int
    answer: "asyncio.Future[list[str]]"


class DiskOutbox:
    """`add` returns once the samples are durable. Those that come while the disk is busy are written together."""

    kind: Literal["disk"] = "disk"

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


@asynccontextmanager
async def opened(folder: Path, owner: Mapping[str, str], bounds: Bounds) -> AsyncIterator[DiskOutbox]:
    """The buffer in `folder`, see `SampleBuffer`; inside, nobody else has it."""
    outbox = DiskOutbox(await run_in_worker(SampleBuffer, folder, owner, bounds))
    try:
        yield outbox
    finally:
        await run_in_worker(outbox.close)
