"""The training job: one visible loop from restore to the last epoch.

Covers the order of things. See also: `services.epochs.loader` and `services.batches.live` for where samples come from,
`checkpointing` for how state is kept, `domain.training.learner` for what a step does.
"""

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edged.aio import run_in_worker
from edged.domain.archive.snapshot import with_newest_quarantine
from edged.domain.epochs.plan import CachePlan
from edged.domain.nn.model import Map, Model
from edged.domain.topology import Training
from edged.domain.training.learner import MAX_SLOWDOWNS, DivergedError, Learner, are_finite
from edged.domain.training.state import LaneTime, Tally, TrainState
from edged.log import bind, logger
from edged.ports import LaneClock, Progress, Statistics
from edged.services.batches.batcher import MiniBatch
from edged.services.batches.live import Cursor, LiveBatches
from edged.services.epochs.loader import EpochLoader
from edged.services.epochs.plans import EMPTY_RETRY_S
from edged.services.epochs.sample_scores import SampleScores
from edged.services.training.checkpointing import Checkpointing
from edged.services.training.evaluation import end_epoch, evaluate
from edged.services.training.resume import begin_state
from edged.services.training.step_loop import LiveBatch, StepLoop
from edged.services.training.stopwatch import Stopwatch


class Trainer:
    """Trains one model. `epochs` is for the sources archive and both, `live` for live and both.

    `scores`: those by which `epochs` are planned, if any.

    With `executor` the parts of a mini-batch are computed on its threads, whose times `lanes` tells; the caller limits
    those of BLAS. With the source archive, a run that is killed and restarted, any number of times, ends with the same
    bits as one that is not.
    """

    def __init__(
        self,
        training: Training,
        model: Model,
        checkpointing: Checkpointing,
        *,
        job: str,
        epochs: EpochLoader | None = None,
        scores: SampleScores | None = None,
        live: LiveBatches | None = None,
        executor: Executor | None = None,
        lanes: LaneClock,
    ) -> None:
        self._training = training
        self._learner = Learner(training, model)
        self._checkpointing = checkpointing
        self._job = job
        self._epochs = epochs
        self._scores = scores
        self._live = live
        self._executor = executor
        self._steps = StepLoop(
            self._update,
            None if epochs is None else epochs.batcher,
            view=lambda x, ids: self._learner.views(x, ids, self._state.position.epoch),
            is_due=checkpointing.is_due,
            executor=executor,
        )
        self._read_wait_s = 0.0
        self._reading_since_s: float | None = None
        self._state = TrainState({}, {}, job, model.division)
        self._trained_samples = 0
        self._num_batches = 0
        self._slowdowns_in_a_row = 0
        self._is_rolling_back = False
        self._useless_ends: Mapping[str, int] | None = None  # of the archive, when it had nothing to train on
        self._suspect: _Suspect | None = None
        self._epoch_samples = training.live_epoch
        self._is_idle = False
        self._stopwatch = Stopwatch(self._wait_s, self._decode_s, lanes)

    async def run(self) -> None:
        """Train to the end, then wait idly to be cancelled.

        Cancelled: finishes the current step and saves a checkpoint, unless training has just diverged; any other
        exception leaves the last one as it is.
        Raises TopologyMismatch when the saved state is another job's. When training diverges, it is rolled back to the
        last checkpoint and continues with half the learning rate; after MAX_SLOWDOWNS of that without an epoch between
        them training stops, while the rest of the daemon continues.
        """
        if self._training.name:
            bind(job=self._training.name)
        await self._restore()
        self._stopwatch.start()
        try:
            await self._train()
        except asyncio.CancelledError:
            if not self._is_rolling_back and self._state.is_finite():
                self._stopwatch.measure(self._state)
                self._take_scores()
                await self._checkpointing.save(self._state)
            raise
        except DivergedError:
            pass  # logged by _roll_back
        finally:
            if self._epochs is not None:
                self._epochs.leave()
        self._is_idle = True
        await asyncio.Event().wait()

    def progress(self) -> Progress:
        """Batches and samples, for a batch may take minutes; idle while it waits for data and after the last epoch."""
        sources = [source for source in (self._epochs, self._live) if source is not None]
        steps = self._num_batches + self._learner.num_computed + sum(source.num_decoded for source in sources)
        return Progress(steps, self._is_idle or any(source.is_waiting for source in sources))

    def statistics(self) -> Statistics:
        return Statistics(
            trained_samples=self._trained_samples,
            refused_samples=sum(source.num_left_out for source in (self._epochs, self._live) if source is not None),
            wait_s=self._wait_s(),
            queue_bytes=sum(source.num_bytes for source in (self._epochs, self._live) if source is not None),
            cache_bytes=0 if self._epochs is None else self._epochs.cache_bytes,
        )

    @property
    def state(self) -> TrainState:
        """The state after the last step; read only."""
        return self._state

    async def _restore(self) -> None:
        self._state, is_restored = await begin_state(
            self._checkpointing, self._learner, job=self._job, source=self._training.source
        )
        if is_restored and self._state.position.sample == 0:
            await self._checkpointing.deploy(self._state)  # a crash may have come between saving and deploying

    async def _train(self) -> None:
        self._start_live()
        if self._epochs is None:
            await self._train_live()
            return
        if self._state.position.epoch < self._training.epochs:
            async with self._epochs.open():
                await self._train_epochs(self._epochs)
        logger().info("train.finished", epochs=self._training.epochs, step=self._state.position.step)

    def _start_live(self) -> None:
        if self._live is not None:
            position = self._state.position
            self._move(self._live.start(Cursor(position.live_offset, position.live_row, position.live_log)))

    async def _train_epochs(self, epochs: EpochLoader) -> None:
        while self._state.position.epoch < self._training.epochs:
            self._stopwatch.start()
            try:
                await self._train_epoch(epochs)
            except DivergedError:
                await self._roll_back()

    async def _train_epoch(self, epochs: EpochLoader) -> None:
        """One that had nothing to train on does not count, and is drawn again once the archive has other samples."""
        begun_s = asyncio.get_running_loop().time()
        plan = await self._draw(epochs)
        if plan.snapshot.ends != self._useless_ends:
            await epochs.begin(plan, self._state.position.sample)
            with self._reading(epochs):
                await self._make_steps(epochs)
            await epochs.end()
            if self._state.tally.num_samples:
                await self._end_epoch(epochs)
                return
            logger().warning("epoch.useless", epoch=plan.epoch, samples=epochs.num_samples)
            self._useless_ends = plan.snapshot.ends
        self._state.position = replace(self._state.position, sample=0)
        self._state.ends, self._state.plan = None, ""
        await epochs.pause(max(asyncio.get_running_loop().time() - begun_s, EMPTY_RETRY_S))

    async def _make_steps(self, epochs: EpochLoader) -> None:
        async with self._steps.open(self._state.position.sample):
            while not self._steps.is_done:
                if not self._steps.has_work:
                    await self._put_next(epochs)  # however long the archive takes: all steps are made and saved
                async with self._steps.turn(await self._next_live()):
                    while await self._steps.has_room() and await epochs.is_here():
                        await self._put_next(epochs)
                await self._after_turn()

    @contextmanager
    def _reading(self, epochs: EpochLoader) -> Iterator[None]:
        """Inside, the steps know how long they stand by for samples: the loader may wait beside them."""
        self._reading_since_s = epochs.wait_s
        try:
            yield
        finally:
            self._read_wait_s += epochs.wait_s - self._reading_since_s
            self._reading_since_s = None

    async def _put_next(self, epochs: EpochLoader) -> None:
        samples = await epochs.read(self._steps.num_wanted)
        if samples is None:
            self._steps.end()
        else:
            self._steps.put(samples)

    async def _next_live(self) -> LiveBatch | None:
        """A mini-batch of live samples if one is here."""
        found = None if self._live is None else await self._live.next_nowait()
        return None if found is None else LiveBatch(*found)

    async def _after_turn(self) -> None:
        """Name what was left out, and save when that is due."""
        for each in self._steps.take_left_out():
            if (source := self._live if each.is_live else self._epochs) is not None:
                source.leave_out(each.id, each.reason, each.detail)
        await self._save_if_due()

    async def _train_live(self) -> None:
        assert self._live is not None, "a job has a source"
        while True:
            try:
                await self._train_next_live(self._live)
            except DivergedError:
                await self._roll_back()

    async def _train_next_live(self, live: LiveBatches) -> None:
        self._choose_backend()
        sample, found = self._state.position.sample, None
        async with self._steps.open():
            while sample < self._training.live_epoch:
                batch, cursor = found or await live.next()
                sample += len(batch)
                async with self._steps.turn(LiveBatch(batch, cursor, sample)):
                    found = await live.next_nowait() if sample < self._training.live_epoch else None
                await self._after_turn()
        await self._end_epoch(live)
        self._stopwatch.start()

    async def _draw(self, epochs: EpochLoader) -> CachePlan:
        """The epoch's plan: in the middle of an epoch that of the checkpoint, otherwise a new one; and its backend."""
        state = self._state
        begun, epoch = state.ends is not None, state.position.epoch
        plan = await epochs.draw(epoch, state.ends)
        digest = await run_in_worker(lambda: plan.digest)
        if begun and digest != state.plan:
            logger().warning("epoch.redrawn", epoch=epoch)
            state.position, state.tally = replace(state.position, sample=0), Tally()
            state.lane_time = LaneTime()
        elif begun and self._scores is not None:
            self._scores.load(plan, state.learnt)
        self._choose_backend()
        state.ends, state.plan = plan.snapshot.ends, digest
        self._suspect = None  # ids are those of the plan
        self._epoch_samples = epochs.num_samples
        return plan

    def _choose_backend(self) -> None:
        """Between epochs this process's own; within one that of the state, as long as it is here: its bits decide."""
        state, learner = self._state, self._learner
        former, is_between = state.division.backend, not state.position.sample
        if not learner.use(state, learner.backend if is_between else former):
            learner.use(state, learner.backend)
        if state.division.backend != former:
            write = logger().info if is_between else logger().warning
            epoch, step = state.position.epoch, state.position.step
            write("train.backend", epoch=epoch, step=step, backend=state.division.backend, former=former)

    def _update(self, batch: MiniBatch, sample: int | None, cursor: Cursor | None, map_: Map) -> list[int]:
        """Update the weights, the position after them, and the scores; the ids of the samples that were left out."""
        state = self._state
        progress = state.position.epoch + min(state.position.sample / max(self._epoch_samples, 1), 1.0)
        is_live = cursor is not None
        try:
            x = self._learner.views(batch.x, batch.ids, state.position.epoch) if is_live else batch.x
            learnt = self._learner.step(state, x, batch.y, batch.weights, progress=progress, map=map_)
        except DivergedError as error:
            self._suspect = _more_suspect(self._suspect, batch, error.losses, is_live=is_live)
            raise
        self._suspect = _more_suspect(self._suspect, batch, learnt.losses, is_live=is_live)
        if sample is not None:
            state.position = replace(state.position, sample=sample)
        if cursor is not None:
            self._move(cursor)
        elif self._scores is not None:
            self._scores.learn(batch.ids, learnt)
        left_out: list[int] = []
        if not are_finite(learnt.losses):
            left_out = batch.ids[~np.isfinite(learnt.losses)].tolist()
        self._trained_samples += len(batch) - len(left_out)
        self._num_batches += 1
        return left_out

    def _move(self, cursor: Cursor) -> None:
        self._state.position = replace(
            self._state.position, live_offset=cursor.offset, live_row=cursor.row, live_log=cursor.log
        )

    async def _save_if_due(self) -> None:
        if self._checkpointing.is_due(asyncio.get_running_loop().time()):
            await self._save()

    async def _save(self) -> None:
        if not self._state.is_finite():
            raise DivergedError
        self._stopwatch.measure(self._state)
        self._take_scores()
        await self._checkpointing.save(self._state)
        self._suspect = None

    def _take_scores(self) -> None:
        """Between epochs it is in the next one's sampler state."""
        if self._scores is None or not self._state.position.sample:
            self._state.learnt = b""
        elif (learnt := self._scores.encode()) is not None:
            self._state.learnt = learnt

    async def _end_epoch(self, source: EpochLoader | LiveBatches) -> None:
        """Evaluate, log, save, deploy. A cancellation finds the state before or after its change, never between."""
        self._stopwatch.measure(self._state)
        if not self._state.is_finite():
            raise DivergedError
        tested = await evaluate(
            self._learner,
            self._state,
            self._training,
            source.held_out(),
            self._count_batch,
            source.leave_out,
            self._executor,
        )
        ended = end_epoch(self._training, self._state, tested)
        self._slowdowns_in_a_row = 0
        ended.log()
        await self._save()
        await self._checkpointing.deploy(self._state, tested.calibration)

    def _count_batch(self) -> None:
        self._num_batches += 1

    async def _roll_back(self) -> None:
        """Restore the last checkpoint, and halve the learning rate: the same steps would diverge again.

        What has been put into quarantine since the epoch began is in effect then: it may be why training diverged.
        Raises DivergedError when that has not helped MAX_SLOWDOWNS times.
        """
        position, slowdowns = self._state.position, self._state.slowdowns
        self._is_rolling_back = True
        restored = await self._checkpointing.restore()
        self._state = await run_in_worker(self._learner.initial, self._job) if restored is None else restored
        self._is_rolling_back = False
        if self._state.ends is not None:
            self._state.ends = with_newest_quarantine(self._state.ends)
        resumes = self._slowdowns_in_a_row < MAX_SLOWDOWNS
        self._slowdowns_in_a_row += 1
        self._state.slowdowns = slowdowns + resumes
        logger().error(
            "train.diverged",
            epoch=position.epoch,
            step=position.step,
            restored_step=self._state.position.step,
            slowdowns=self._state.slowdowns,
            goes_on=resumes,
            **self._suspect_field(),
        )
        self._suspect = None
        if not resumes:
            raise DivergedError
        self._start_live()

    def _suspect_field(self) -> dict[str, str]:
        if self._suspect is None:
            return {}
        source = self._live if self._suspect.is_live else self._epochs
        return {} if source is None else {"suspect": str(source.address(self._suspect.id))}

    def _wait_s(self) -> float:
        """Seconds spent waiting for data since start: while steps are made by their count, else by the loader's."""
        if self._epochs is None:
            return self._steps.wait_s
        now_s = self._epochs.wait_s if self._reading_since_s is None else self._reading_since_s
        return self._steps.wait_s + now_s - self._read_wait_s

    def _decode_s(self) -> float:
        """Seconds that training stood by for the decoding of samples into mini-batches, since start."""
        return self._steps.assembly_s


class _Suspect(NamedTuple):
    """The sample with the largest loss since the last checkpoint."""

    loss: float
    id: int
    is_live: bool


def _more_suspect(
    before: _Suspect | None, batch: MiniBatch, losses: npt.NDArray[np.float32] | None, *, is_live: bool
) -> _Suspect | None:
    """`before`, or the sample with the largest finite loss of the mini-batch, if that is larger."""
    if losses is None:
        return before
    if not are_finite(losses):
        if not np.isfinite(losses).any():
            return before
        losses = np.where(np.isfinite(losses), losses, -np.inf)
    at = int(losses.argmax())
    if before is not None and before.loss >= float(losses[at]):
        return before
    return _Suspect(float(losses[at]), int(batch.ids[at]), is_live)
