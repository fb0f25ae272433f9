"""Steps of training in a lane's thread, while the event loop fetches what comes next: many steps for one hop.

Covers handing samples over, assembling the next mini-batch while one is computed, and stopping between two steps. See
also: `trainer` for what a step does and for saving between turns, `services.batches.batcher` for mini-batches.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from time import perf_counter
from typing import NamedTuple, Protocol

from edged.aio import in_worker, run_in_worker
from edged.domain.nn.model import Map
from edged.services.batches.batcher import Batcher, Encoded, Filling, MiniBatch, View
from edged.services.batches.left_out import LOSS_NOT_FINITE
from edged.services.batches.live import Cursor
from edged.services.training.worker_map import worker_map
from edged.shared_work import SharedWork, spread

_AHEAD_S = 0.05
"""Samples for so long are put at once: the event loop is needed no more often."""

_SMOOTHING = 0.2
"""Of the measured time of a step."""

_TURN_S = 0.25
"""After so long the lane's thread is another job's, if one waits for it."""


class Update(Protocol):
    """One step; returns the ids of samples that were left out. In a worker thread."""

    def __call__(self, batch: MiniBatch, sample: int | None, cursor: Cursor | None, map_: Map, /) -> Sequence[int]: ...


class LeftOutSample(NamedTuple):
    """A sample that was left out of a step, of the live ones or of the archive's."""

    is_live: bool
    id: int
    reason: str
    detail: str = ""


class LiveBatch(NamedTuple):
    """A mini-batch of live samples, the cursor after it, and the epoch's samples after it where they are counted."""

    batch: MiniBatch
    cursor: Cursor
    sample: int | None = None


class StepLoop:
    """Makes a step of each full mini-batch of the samples put, in their order, in turns.

    Used by one task: inside `open`, it takes one `turn` after the other, in which a lane's thread makes steps while the
    task puts what comes next. Between two turns no step is under way. Without `batcher`, live batches alone.

    Position: the sample after a step is the one that another process resumes at exactly; samples that are put and not
    yet trained are not counted anywhere. Memory: the batcher's two mini-batches, and twice what is put at once.
    """

    def __init__(
        self,
        update: Update,
        batcher: Batcher | None,
        *,
        view: View,
        is_due: Callable[[float], bool],
        executor: Executor | None = None,
    ) -> None:
        self._update = update
        self._batcher = batcher
        self._view = view
        self._is_due = is_due
        self._executor = executor
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()  # of `_put` and `_is_over`, by the lane's thread
        self._put: Sequence[Encoded] | None = None
        self._is_ended = False
        self._is_over = True
        self._is_stopping = False
        self._has_work = False
        self._left_out: deque[LeftOutSample] = deque()
        self._starving_since_s: float | None = None
        self._starved_s = 0.0
        # the lane's thread's own
        self._samples: Sequence[Encoded] = ()
        self._at = 0
        self._sample = 0
        self._ahead: SharedWork[Filling | None] | None = None
        self._step_s = _AHEAD_S
        self.assembly_s = 0.0
        """Seconds that the steps stood by for the assembly of mini-batches, since start."""

    @contextlib.asynccontextmanager
    async def open(self, sample: int = 0) -> AsyncIterator[None]:
        """Inside, there are turns; `sample` is the first one's index. What was put and not trained is forgotten."""
        self._event_loop = asyncio.get_running_loop()
        self._left_out.clear()
        self._sample, self._put, self._is_ended, self._has_work = sample, None, False, False
        self._starving_since_s = self._event_loop.time()
        try:
            yield
        finally:
            self._end_starving()
            self._put = None
            await run_in_worker(self._drop)

    @property
    def num_wanted(self) -> int:
        """Samples that are best put at once: one mini-batch, or several short steps' samples."""
        size = 1 if self._batcher is None else self._batcher.size
        return max(int(_AHEAD_S / max(self._step_s, 1e-6)), 1) * size

    @property
    def has_work(self) -> bool:
        """Whether a turn may have anything to do."""
        return self._has_work

    @property
    def is_done(self) -> bool:
        """Whether all steps are made of what was put, after `end`."""
        return self._is_ended and not self._has_work

    @property
    def wait_s(self) -> float:
        """Seconds since start in which it was open and had no samples to go on with."""
        if self._starving_since_s is None:
            return self._starved_s
        return self._starved_s + self._now_s() - self._starving_since_s

    def put(self, samples: Sequence[Encoded]) -> None:
        """Train on these next. There must be room: nothing was put before, or `has_room` has said so."""
        assert self._put is None, "there is no room"
        self._end_starving()
        self._put, self._has_work = samples, True

    def end(self) -> None:
        """No more samples come: the last mini-batch may be smaller."""
        self._end_starving()
        self._is_ended = self._has_work = True

    @contextlib.asynccontextmanager
    async def turn(self, live: LiveBatch | None = None) -> AsyncIterator[None]:
        """Inside, a lane's thread makes steps of what is put. Raises what a step raised.

        It ends when there is nothing to make them of, when `is_due`, so that another job has its turn, and after the
        step on `live`, which comes after the first one. Leaving waits for its end; by an error or when cancelled, for
        that of the step under way.
        """
        if live is not None:
            self._end_starving()
        if self._put is not None or self._is_ended:
            self._starving_since_s = None  # it ran out just when this was put
        self._is_over = self._is_stopping = self._has_work = False
        async with in_worker(self._make_steps, live, executor=self._executor) as more:
            try:
                yield
                self._has_work |= await more
            finally:
                self._is_stopping = True

    async def has_room(self) -> bool:
        """Wait until samples can be put; False when the turn is over, or all samples are put."""
        while self._put is not None and not self._is_over:
            self._changed.clear()
            await self._changed.wait()
        return not (self._is_over or self._is_ended)

    def take_left_out(self) -> list[LeftOutSample]:
        """Samples left out since the last call."""
        return [self._left_out.popleft() for _ in range(len(self._left_out))]

    def _end_starving(self) -> None:
        self._starved_s, self._starving_since_s = self.wait_s, None

    def _begin_starving(self) -> None:
        if self._starving_since_s is None and not self._is_ended:
            self._starving_since_s = self._now_s()

    # in the lane's thread

    def _make_steps(self, live: LiveBatch | None) -> bool:
        """Steps until nothing is left to do, or the turn is over; whether there may be more to do."""
        until_s = perf_counter() + _TURN_S
        try:
            while True:
                has_stepped = self._step_on_samples()
                if live is not None:
                    self._step(live.batch, live.sample, live.cursor)
                if not has_stepped:
                    self._begin_starving()
                    return False
                if live is not None or self._is_stopping or self._is_due(self._now_s()) or perf_counter() > until_s:
                    return True
        finally:
            self._is_over = True
            self._tell()

    def _step_on_samples(self) -> bool:
        """A step on the next mini-batch; False when there are too few samples."""
        begun_s = perf_counter()
        batch = self._next()
        self.assembly_s += perf_counter() - begun_s
        if batch is None:
            return False
        self._step(batch, self._sample, None)
        self._step_s += (perf_counter() - begun_s - self._step_s) * _SMOOTHING
        return True

    def _step(self, batch: MiniBatch, sample: int | None, cursor: Cursor | None) -> None:
        if self._ahead is None:
            self._ahead = SharedWork(lambda _: self._begin(), [None])
        left_out = self._update(batch, sample, cursor, worker_map(self._executor, partial(_help, self._ahead)))
        self._left_out.extend(LeftOutSample(cursor is not None, each, LOSS_NOT_FINITE) for each in left_out)

    def _next(self) -> MiniBatch | None:
        """The next full mini-batch, or the last one; None while there are too few samples."""
        batcher = self._batcher
        if batcher is None:
            return None
        while batcher.num_free and (filling := self._begun()) is not None:
            batcher.finish()
            self._sample += filling.num_drawn
            self._left_out.extend(LeftOutSample(False, *each) for each in batcher.take_unusable())
        if not batcher.num_free or (self._is_ended and batcher.num_filled):
            return batcher.take()
        return None

    def _begun(self) -> Filling | None:
        """What was begun ahead, or is now."""
        ahead, self._ahead = self._ahead, None
        [filling] = [None] if ahead is None else ahead.results()
        if filling is None and (filling := self._begin()) is not None and self._executor is not None:
            spread(filling.work, self._executor)
        return filling

    def _begin(self) -> Filling | None:
        """Begin to assemble what comes next, if it is here."""
        if self._batcher is None:
            return None
        if self._at == len(self._samples):
            if self._put is None:
                return None
            self._samples, self._at, self._put = self._put, 0, None
            self._tell()
        part = self._samples[self._at : self._at + self._batcher.num_free]
        self._at += len(part)
        return self._batcher.begin(part, self._view)

    def _drop(self) -> None:
        """Forget what was not trained."""
        if self._ahead is not None:
            self._ahead.results()
        self._samples, self._at, self._ahead = (), 0, None
        if self._batcher is not None:
            self._batcher.drop()

    def _tell(self) -> None:
        assert self._event_loop is not None, "open() first"
        self._event_loop.call_soon_threadsafe(self._changed.set)

    def _now_s(self) -> float:
        assert self._event_loop is not None, "open() first"
        return self._event_loop.time()


def _help(ahead: SharedWork[Filling | None]) -> None:
    """Assemble the next mini-batch, with whoever else does."""
    [filling] = ahead.results()
    if filling is not None:
        filling.work.help()
