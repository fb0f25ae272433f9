"""The training job: one visible loop from restore to the last epoch.

Covers the order of things. Where samples come from is `epoch`'s and `fresh`'s subject, how state is kept
`checkpointing`'s, what a step does domain.learning's.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edged.aio import run_in_worker
from edged.domain import anomaly
from edged.domain.cache_plan import CachePlan
from edged.domain.checkpoint import MOST_HISTORY, EpochMetrics, Tally, TrainState
from edged.domain.learning import DivergedError, Learner
from edged.domain.nn.model import Model
from edged.domain.topology import Training
from edged.log import bind, logger
from edged.ports import Progress, Statistics
from edged.services.checkpointing import Checkpointing, Samples
from edged.services.epoch import Epochs
from edged.services.fresh import Cursor, FreshSamples
from edged.services.minibatch import MiniBatch

_T = TypeVar("_T")
_R = TypeVar("_R")

_CALIBRATION_SAMPLES = 256


MOST_SLOWDOWNS = 3
"""So often in a row, without an epoch between, training goes back and on with half the learning rate."""


class _Tested(NamedTuple):
    """What the held-out samples gave: the loss of each, and how many were right."""

    losses: npt.NDArray[np.float32]
    num_correct: int

    @property
    def num_samples(self) -> int:
        return len(self.losses)


class Trainer:
    """Trains one model. `epochs` serves source archive and both, `fresh` live and both.

    With `executor` the model's lanes are computed on its threads (its BLAS threads are the caller's matter).
    With the source archive, a run that is killed and started again, any number of times, ends with the same bits
    as one that is not.
    """

    def __init__(
        self,
        training: Training,
        model: Model,
        checkpointing: Checkpointing,
        *,
        job: str,
        epochs: Epochs | None = None,
        fresh: FreshSamples | None = None,
        executor: Executor | None = None,
    ) -> None:
        self._training = training
        self._learner = Learner(training, model)
        self._checkpointing = checkpointing
        self._job = job
        self._epochs = epochs
        self._fresh = fresh
        self._executor = executor
        self._state = TrainState({}, {}, job, model.division)
        self._trained_samples = 0
        self._num_batches = 0
        self._slowdowns_in_a_row = 0
        self._epoch_samples = training.live_epoch
        self._is_idle = False
        self._clock = (0.0, 0.0, 0.0)
        self._calibration: list[Samples] = []  # held-out samples of the last evaluation, where int8 models are wanted

    async def run(self) -> None:
        """Train to the end, then wait quietly to be cancelled.

        Cancelled, it finishes the step it is in and saves a checkpoint; any other exception leaves the last one
        alone. Raises TopologyMismatch when the saved state is another job's. When training diverges, it goes back to
        the last checkpoint and on from there with half the learning rate; after MOST_SLOWDOWNS of that without an
        epoch between it trains no more: the rest of the daemon goes on.
        """
        if self._training.name:
            bind(job=self._training.name)
        await self._restore()
        self._start_clock()
        try:
            await self._train()
        except asyncio.CancelledError:
            self._measure()
            self._take_learnt()
            await self._checkpointing.save(self._state)
            raise
        except DivergedError:
            pass  # said by _roll_back
        finally:
            if self._epochs is not None:
                self._epochs.leave()
        self._is_idle = True
        await asyncio.Event().wait()

    def progress(self) -> Progress:
        """Batches trained and tested; idle while it waits for data and when all is done."""
        waits = any(source is not None and source.is_waiting for source in (self._epochs, self._fresh))
        return Progress(self._num_batches, self._is_idle or waits)

    def statistics(self) -> Statistics:
        return Statistics(
            trained_samples=self._trained_samples,
            wait_s=self._wait_s(),
            queue_bytes=sum(source.num_bytes for source in (self._epochs, self._fresh) if source is not None),
            cache_bytes=0 if self._epochs is None else self._epochs.cache_bytes,
        )

    @property
    def state(self) -> TrainState:
        """The state after the last step. To be read only."""
        return self._state

    async def _restore(self) -> None:
        restored = await self._checkpointing.restore()
        if restored is not None:
            self._learner.go_on(restored)
        self._state = await run_in_worker(self._learner.initial, self._job) if restored is None else restored
        position = self._state.position
        logger().info(
            "train.started",
            lanes=self._state.division.lanes,
            micro_batch=self._state.division.micro_batch,
            source=self._training.source,
            epoch=position.epoch,
            step=position.step,
            resumed=restored is not None,
        )
        if restored is not None and position.sample == 0:
            await self._checkpointing.deploy(self._state)  # a crash may have come between saving and deploying

    async def _train(self) -> None:
        self._start_fresh()
        if self._epochs is None:
            await self._train_live()
            return
        if self._state.position.epoch < self._training.epochs:
            async with self._epochs.open():
                await self._train_epochs(self._epochs)
        logger().info("train.finished", epochs=self._training.epochs, step=self._state.position.step)

    def _start_fresh(self) -> None:
        if self._fresh is not None:
            position = self._state.position
            self._move(self._fresh.start(Cursor(position.live_offset, position.live_row)))

    async def _train_epochs(self, epochs: Epochs) -> None:
        while self._state.position.epoch < self._training.epochs:
            self._start_clock()
            try:
                await self._train_epoch(epochs)
            except DivergedError:
                await self._roll_back()

    async def _train_epoch(self, epochs: Epochs) -> None:
        plan = await self._draw(epochs)
        async with aclosing(epochs.train(plan, self._state.position.sample)) as batches:
            async for batch, sample in batches:
                await self._train_fresh()
                await self._step(batch, sample=sample)
                await self._save_if_due()
        await epochs.end()
        await self._end_epoch(epochs.held_out())

    async def _train_fresh(self) -> None:
        """Train a mini-batch of fresh samples if one is here. One between two of the archive's, so neither starves."""
        if self._fresh is not None and (found := await self._fresh.next_nowait()) is not None:
            batch, cursor = found
            await self._step(batch, cursor=cursor)

    async def _train_live(self) -> None:
        assert self._fresh is not None, "a job has a source"
        while True:
            try:
                await self._train_next(self._fresh)
            except DivergedError:
                await self._roll_back()

    async def _train_next(self, fresh: FreshSamples) -> None:
        batch, cursor = await fresh.next()
        sample = self._state.position.sample + len(batch)
        await self._step(batch, sample=sample, cursor=cursor)
        if sample >= self._training.live_epoch:
            await self._end_epoch(fresh.held_out())
            self._start_clock()
        else:
            await self._save_if_due()

    async def _draw(self, epochs: Epochs) -> CachePlan:
        """The epoch's plan: that of the checkpoint in the middle of an epoch, or else a new one."""
        state = self._state
        begun, epoch = state.ends is not None, state.position.epoch
        plan = await epochs.draw(epoch, state.ends)
        digest = await run_in_worker(lambda: plan.digest)
        if begun and digest != state.plan:
            logger().warning("epoch.redrawn", epoch=epoch)
            state.position, state.tally = replace(state.position, sample=0), Tally()
        elif begun:
            epochs.recall(state.learnt)
        state.ends, state.plan = plan.snapshot.ends, digest
        self._epoch_samples = epochs.num_samples
        return plan

    async def _step(self, batch: MiniBatch, *, sample: int | None = None, cursor: Cursor | None = None) -> None:
        """One update of the weights, with the position behind it and what it told. Cancellation waits for all."""
        await run_in_worker(self._update, batch, sample, cursor)
        self._trained_samples += len(batch)
        self._num_batches += 1

    def _update(self, batch: MiniBatch, sample: int | None, cursor: Cursor | None) -> None:
        state = self._state
        progress = state.position.epoch + min(state.position.sample / max(self._epoch_samples, 1), 1.0)
        learnt = self._learner.step(
            state, batch.x, batch.y, batch.ids, batch.weights, progress=progress, map=self._map_lanes
        )
        if sample is not None:
            state.position = replace(state.position, sample=sample)
        if cursor is not None:
            self._move(cursor)
        elif self._epochs is not None:
            self._epochs.learn(batch.ids, learnt)

    def _map_lanes(self, function: Callable[[_T], _R], arguments: Iterable[_T], /) -> Iterator[_R]:
        def quiet(argument: _T) -> _R:
            with np.errstate(
                all="ignore"
            ):  # an overflow is noticed by what it leads to; numpy's warning is no log line
                return function(argument)

        return map(quiet, arguments) if self._executor is None else self._executor.map(quiet, arguments)

    def _move(self, cursor: Cursor) -> None:
        self._state.position = replace(self._state.position, live_offset=cursor.offset, live_row=cursor.row)

    async def _save_if_due(self) -> None:
        if self._checkpointing.is_due():
            await self._save()

    async def _save(self) -> None:
        if not self._state.is_finite():
            raise DivergedError
        self._measure()
        self._take_learnt()
        await self._checkpointing.save(self._state)

    def _take_learnt(self) -> None:
        """Between epochs it is in the next one's memo."""
        if self._epochs is None or not self._state.position.sample:
            self._state.learnt = b""
        elif (learnt := self._epochs.learnt()) is not None:
            self._state.learnt = learnt

    async def _end_epoch(self, held_out: AsyncGenerator[MiniBatch, None]) -> None:
        """Evaluate, report, save, deploy. The state is changed in one go: a cancel finds it before or after."""
        self._measure()
        if not self._state.is_finite():
            raise DivergedError
        self._close_epoch(await self._evaluate(held_out))
        await self._save()
        calibration = np.concatenate(self._calibration) if self._calibration else None
        await self._checkpointing.deploy(self._state, calibration)

    async def _evaluate(self, held_out: AsyncGenerator[MiniBatch, None]) -> _Tested:
        """What the weights are worth on the held-out samples."""
        losses: list[Samples] = []
        num_correct = num_samples = 0
        self._calibration = []
        async with aclosing(held_out) as batches:
            async for batch in batches:
                if self._training.deploy.format == "int8" and num_samples < _CALIBRATION_SAMPLES:
                    self._calibration.append(batch.x[: _CALIBRATION_SAMPLES - num_samples].copy())
                batch_losses, batch_correct = await run_in_worker(self._learner.test, self._state, batch.x, batch.y)
                losses.append(batch_losses)
                num_correct, num_samples = num_correct + batch_correct, num_samples + len(batch)
                self._num_batches += 1
        return _Tested(np.concatenate([np.zeros(0, np.float32), *losses]), num_correct)

    def _close_epoch(self, tested: _Tested) -> None:
        state, position, tally = self._state, self._state.position, self._state.tally
        is_classifier = self._training.loss == "cross_entropy"
        metrics = EpochMetrics(
            position.epoch,
            position.step,
            tally.loss / max(tally.num_samples, 1),
            tally.num_correct / max(tally.num_samples, 1) if is_classifier else None,
            float(tested.losses.mean(dtype=np.float64)) if tested.num_samples else None,
            tested.num_correct / tested.num_samples if tested.num_samples and is_classifier else None,
            None if is_classifier else anomaly.threshold(tested.losses),
        )
        state.history = (*state.history, metrics)[-MOST_HISTORY:]
        state.position = replace(position, epoch=position.epoch + 1, sample=0)
        state.tally, state.ends, state.plan = Tally(), None, ""
        self._slowdowns_in_a_row = 0
        logger().info(
            "train.epoch",
            epoch=metrics.epoch,
            step=metrics.step,
            loss=round(metrics.loss, 6),
            **{
                name: round(value, 6)
                for name in ("train_accuracy", "test_loss", "test_accuracy", "anomaly_threshold")
                if (value := getattr(metrics, name)) is not None
            },
            test_samples=tested.num_samples,
            samples=tally.num_samples,
            samples_per_s=round(tally.num_samples / max(tally.seconds, 1e-9), 1),
            seconds=round(tally.seconds, 3),
            wait_s=round(tally.wait_s, 3),
            wait_fraction=round(tally.wait_s / max(tally.seconds, 1e-9), 4),
            decode_s=round(tally.decode_s, 3),
            decode_fraction=round(tally.decode_s / max(tally.seconds, 1e-9), 4),
        )

    async def _roll_back(self) -> None:
        """Go back to the last checkpoint, to go on with half the learning rate. Raises DivergedError for too often.

        The same steps would lead to the same end: hence the smaller ones.
        """
        position, slowdowns = self._state.position, self._state.slowdowns
        restored = await self._checkpointing.restore()
        self._state = await run_in_worker(self._learner.initial, self._job) if restored is None else restored
        goes_on = self._slowdowns_in_a_row < MOST_SLOWDOWNS
        self._slowdowns_in_a_row += 1
        self._state.slowdowns = slowdowns + goes_on
        logger().error(
            "train.diverged",
            epoch=position.epoch,
            step=position.step,
            restored_step=self._state.position.step,
            slowdowns=self._state.slowdowns,
            goes_on=goes_on,
        )
        if not goes_on:
            raise DivergedError
        self._start_fresh()

    def _wait_s(self) -> float:
        """Seconds spent waiting for data since start."""
        return sum(source.wait_s for source in (self._epochs, self._fresh) if source is not None)

    def _decode_s(self) -> float:
        """Seconds spent decoding samples into mini-batches since start."""
        return sum(source.decode_s for source in (self._epochs, self._fresh) if source is not None)

    def _start_clock(self) -> None:
        self._clock = (asyncio.get_running_loop().time(), self._wait_s(), self._decode_s())

    def _measure(self) -> None:
        """Add the time since the clock was started to the epoch's tally, and start it again."""
        before = self._clock
        self._start_clock()
        seconds, wait_s, decode_s = (now - then for now, then in zip(self._clock, before, strict=True))
        tally = self._state.tally
        self._state.tally = replace(
            tally, seconds=tally.seconds + seconds, wait_s=tally.wait_s + wait_s, decode_s=tally.decode_s + decode_s
        )
