"""A device's samples between `publish` and the link that sends them: in memory.

For one event loop. `Device` runs `work` in a task of its own. See also: `disk_outbox`.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Collection, Sequence
from typing import Literal, Protocol

from edged.domain.device.sample import Buffered, Draft, Kept, Position, sample_id
from edged.errors import EdgedError, RejectedRecord


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

    kind: Literal["memory"] = "memory"

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
