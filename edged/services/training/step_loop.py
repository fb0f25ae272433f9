"""Steps of training in a lane's thread, while the event loop fetches what comes next: many steps for one hop.

Covers handing samples over, assembling the next mini-batch while one is computed, and stopping between two steps. See
also: `trainer` for what a step does and for saving between steps, `services.batches.batcher` for mini-batches.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from time import perf_counter
from typing import NamedTuple, Protocol

from edged.aio import run_in_worker, settled, start_in_worker
from edged.domain.nn.model import Map
from edged.services.batches.batcher import Batcher, Encoded, Filling, MiniBatch, View
from edged.services.batches.left_out import LOSS_NOT_FINITE
from edged.services.batches.live import Cursor
from edged.services.training.worker_map import worker_map
from edged.shared_work import SharedWork, spread

_AHEAD_S = 0.05
"""Samples for so long are put at once: the event loop is needed no more often, and is heard of no later."""

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
    """Makes a step of each full mini-batch of the samples put, in their order, one live batch between two of them.

    Used by one task, inside `open`: `put` samples when there is room, `end` after the last, and `go_on` whenever `news`
    comes, until it is done. The loop stops between two steps when `is_due` says so, until `go_on`.

    Position: the sample after a step is the one that another process resumes at exactly; samples that are put and not
    yet trained are not counted anywhere. Memory: the batcher's two mini-batches, and twice what is put at once. Without
    `batcher`, live batches alone.
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
        self._driver: asyncio.Future[bool] | None = None
        self._news = asyncio.Event()
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Sequence[Encoded]] = deque(maxlen=1)
        self._live: LiveBatch | None = None
        self._left_out: deque[LeftOutSample] = deque()
        self._is_ended = False
        self._is_stopping = False
        self._has_work = False
        self._is_open = False
        self._idle_since_s = 0.0
        self._waited_s = 0.0
        # the driver's own
        self._samples: Sequence[Encoded] = ()
        self._at = 0
        self._sample = 0
        self._ahead: SharedWork[Filling | None] | None = None
        self._step_s = _AHEAD_S
        self.assembly_s = 0.0
        """Seconds that the steps stood by for the assembly of mini-batches, since start."""

    @contextlib.asynccontextmanager
    async def open(self, sample: int = 0) -> AsyncIterator[None]:
        """Inside, steps are made; `sample` is the first one's index. Left early, it stops after the present step."""
        self._event_loop = asyncio.get_running_loop()
        self._news.clear()
        self._left_out.clear()
        self._sample, self._is_ended, self._is_stopping, self._has_work = sample, False, False, False
        self._is_open, self._idle_since_s = True, self._event_loop.time()
        try:
            yield
        finally:
            self._is_stopping = True
            if self._driver is not None:
                await settled(self._driver)
            self._driver, self._live, self._is_open = None, None, False
            self._waiting.clear()
            await run_in_worker(self._drop)

    @property
    def has_room(self) -> bool:
        """Whether samples can be put."""
        return not self._waiting

    @property
    def num_wanted(self) -> int:
        """Samples that are best put at once: one mini-batch, or several short steps' samples."""
        size = 1 if self._batcher is None else self._batcher.size
        return max(int(_AHEAD_S / max(self._step_s, 1e-6)), 1) * size

    @property
    def has_room_for_live(self) -> bool:
        """Whether a live batch can be put, and the next one be filled: no more than one is in use then."""
        return self._live is None

    @property
    def is_idle(self) -> bool:
        """Whether no step is under way, nor will be before `go_on`."""
        return self._driver is None

    @property
    def is_settled(self) -> bool:
        """Whether no step is under way, nor could be."""
        return self._driver is None and not self._has_work

    @property
    def is_done(self) -> bool:
        """Whether all steps are made of what was put, after `end`."""
        return self._is_ended and self.is_settled

    @property
    def wait_s(self) -> float:
        """Seconds since start in which it was open and had no samples to go on with."""
        if self._event_loop is None or not self._is_starving:
            return self._waited_s
        return self._waited_s + self._event_loop.time() - self._idle_since_s

    @property
    def _is_starving(self) -> bool:
        if not self._is_open or self._is_ended or self._has_work:
            return False
        driver = self._driver
        return driver is None or (driver.done() and driver.exception() is None and not driver.result())

    def put(self, samples: Sequence[Encoded]) -> None:
        """Train on these next. There must be room."""
        assert not self._waiting, "there is no room"
        self._waiting.append(samples)
        self._give_work()

    def put_live(self, live: LiveBatch) -> None:
        """Train on this batch between two of the archive's. There must be room."""
        assert self._live is None, "there is no room"
        self._live = live
        self._give_work()

    def end(self) -> None:
        """No more samples come: the last mini-batch may be smaller."""
        self._is_ended = True
        self._give_work()

    def go_on(self) -> None:
        """Make steps, if there is anything to make them of."""
        if self._driver is None and self._has_work:
            self._has_work = False
            self._driver = start_in_worker(self._drive, executor=self._executor)
            self._driver.add_done_callback(self._drive_ended)

    def _drive_ended(self, driver: "asyncio.Future[bool]") -> None:
        """When only its turn is over, it gets the next one at once: the task may be waiting for samples."""
        if self._driver is not driver:
            return  # the task has seen that it ended, and may be saving
        is_over = driver.exception() is None and driver.result() and not self._is_stopping
        if is_over and not self._is_due(driver.get_loop().time()):
            self._driver = None
            self._has_work = True
            self.go_on()
        else:
            self._news.set()

    async def news(self) -> None:
        """Wait until there is room again, or no step is under way. Raises what a step raised."""
        await self._news.wait()
        self.take_news()

    def take_news(self) -> None:
        """Without waiting. Raises what a step raised."""
        self._news.clear()
        if self._driver is not None and self._driver.done():
            driver, self._driver = self._driver, None
            self._has_work |= driver.result()

    def take_left_out(self) -> list[LeftOutSample]:
        """Samples left out since the last call."""
        return [self._left_out.popleft() for _ in range(len(self._left_out))]

    def _give_work(self) -> None:
        assert self._event_loop is not None, "open() first"
        self._waited_s = self.wait_s
        self._has_work = True

    # in the driver's thread

    def _drive(self) -> bool:
        """Steps until nothing is left to do, or it is to stop; whether there may be more to do."""
        assert self._event_loop is not None, "open() first"
        until_s = perf_counter() + _TURN_S
        try:
            while self._turn():
                if self._is_stopping or self._is_due(self._event_loop.time()) or perf_counter() > until_s:
                    return True
            return False
        finally:
            self._idle_since_s = self._event_loop.time()

    def _turn(self) -> bool:
        """A step on the archive's samples and one on live ones, where there are any; whether there were."""
        begun_s = perf_counter()
        batch = self._next()
        self.assembly_s += perf_counter() - begun_s
        if batch is not None:
            self._step(batch, self._sample, None)
            self._step_s += (perf_counter() - begun_s - self._step_s) * _SMOOTHING
        if (live := self._live) is not None:
            self._live = None
            self._tell()
            self._step(live.batch, live.sample, live.cursor)
        return batch is not None or live is not None

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
            batcher.finish(filling)
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
            if not self._waiting:
                return None
            self._samples, self._at = self._waiting.popleft(), 0
            self._tell()
        part = self._samples[self._at : self._at + self._batcher.num_free]
        self._at += len(part)
        return self._batcher.begin(part, self._view)

    def _drop(self) -> None:
        """Forget what was not trained."""
        if self._ahead is not None and (filling := self._ahead.results()[0]) is not None:
            filling.work.results()
        self._samples, self._at, self._ahead = (), 0, None
        if self._batcher is not None:
            self._batcher.take()

    def _tell(self) -> None:
        assert self._event_loop is not None, "open() first"
        self._event_loop.call_soon_threadsafe(self._news.set)


def _help(ahead: SharedWork[Filling | None]) -> None:
    """Assemble the next mini-batch, with whoever else does."""
    [filling] = ahead.results()
    if filling is not None:
        filling.work.help()
