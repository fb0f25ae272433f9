"""A training job that several edges do together, as one member does it: a loop from restore to the last epoch.

Covers the order of things. The weights are a fold over the group's log (domain.gradient_log); the hold on that log is
`exchange`'s subject, what a member contributes `round`'s, where samples come from `epoch`'s, checkpoints from member to
member `announcements`'. All state changes in a worker thread, a record after the other: whenever this is cancelled,
weights and place in the log belong together.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from typing import NamedTuple

from edged.aio import run_in_worker
from edged.domain import compress, exchange_advice, flat, gradient_log, group_plan, group_step, shard
from edged.domain.checkpoint import Tally, TrainState
from edged.domain.exchange_records import Begin
from edged.domain.gradient_log import Action, Begun, Closed, Fold, HeldOutSums, Rejected, Rules, State
from edged.domain.group_plan import GroupPlan
from edged.domain.learning import DivergedError, Learner
from edged.domain.nn.model import Model
from edged.domain.topology import Training
from edged.errors import EdgedError, FormatError, LogGap
from edged.log import bind, logger
from edged.ports import Health, Log, Progress, Statistics
from edged.services.announcements import Announcements
from edged.services.beginning import begin_state
from edged.services.checkpointing import Checkpointing
from edged.services.epoch import Epochs
from edged.services.evaluation import NOTHING, EndedEpoch, end_epoch, evaluate
from edged.services.exchange import FIRST_DEADLINE_S, Exchange, GroupAddress, Traffic, of_edge
from edged.services.group_choice import GroupChooser
from edged.services.lanes import lane_map
from edged.services.round import Contributed, Rounds
from edged.services.stopwatch import Stopwatch

LEAVE_S = 2.0
"""So long a stop waits for the log to take the last word; without it the others wait for two deadlines, no more."""

_POLL_S = 1.0
_BUSY_POLL_S = 0.02
"""While samples are on their way too."""

_SURVEY_POLL_S = 0.1

_TURN_S = 2.0
"""A member whose turn it is not to begin an epoch lets the first one have this advantage."""

_STEPS_BEHIND = 3
"""So many steps later it is of no use to compute the present one."""

_LEAST_TEST_S = 5.0
_TEST_FACTOR = 3.0
_SPEED_SMOOTHING = 0.3


class _OutOfStepError(EdgedError):
    """The weights here are not those that the group's epoch begins with."""

    def __init__(self, step: int) -> None:
        super().__init__("the weights differ from the group's")
        self.step = step


class _Ended(NamedTuple):
    """An epoch that is over, and what the exchange came to."""

    epoch: EndedEpoch
    members: tuple[str, ...]
    weights: str
    traffic: Traffic


class GroupTrainer:
    """Trains one model together with the other members. `chooser` is the one that `epochs` draws its plans by.

    With `executor` the model's lanes are computed on its threads (its BLAS threads are the caller's matter). All
    members hold the same weights after the same step, bit for bit, whoever was killed, stopped or late meanwhile.
    """

    def __init__(
        self,
        training: Training,
        model: Model,
        checkpointing: Checkpointing,
        announcements: Announcements,
        log: Log,
        health: Health,
        address: GroupAddress,
        *,
        job: str,
        epochs: Epochs,
        chooser: GroupChooser,
        fold: Fold = gradient_log.fold,
        server: str = "",
        executor: Executor | None = None,
    ) -> None:
        self.training = training
        self._learner = Learner(training, model)
        self._checkpointing = checkpointing
        self._announcements = announcements
        self._health = health
        self._edge = address.edge
        self._edges = address.edges
        self._job = job
        self._epochs = epochs
        self._chooser = chooser
        n = model.num_parameters
        rules = Rules(frozenset(address.edges), job, n, lambda blob: compress.decompress(blob, n), server)
        self._exchange = Exchange(log, address, rules, fold, self._apply)
        self._rounds = Rounds(training, self._learner, n, lane_map(executor))
        self._state = TrainState({}, {}, job, model.division)
        self._stopwatch = Stopwatch(self._wait_s, lambda: self._epochs.decode_s)
        self._made: Contributed | None = None
        self._tested = NOTHING
        self._ended: list[_Ended] = []
        self._last: Closed | None = None
        self._speed = 0.0
        self._data_wait_s = 0.0
        self._trained_samples = 0
        self._num_batches = 0
        self._is_idle = False
        self._is_waiting = False
        self._joined_at = 0.0
        self._has_joined = False
        self._joined_in = -1
        self._is_following = False
        self._catches_up = False
        self._test_s = 0.0

    async def run(self) -> None:
        """Train to the end, then wait quietly to be cancelled.

        Cancelled, it finishes the arithmetic it is in, saves a checkpoint of the last step applied and tells the others
        that it leaves, if the log takes that within LEAVE_S. Any other exception leaves the last checkpoint alone.
        Raises TopologyMismatch when the saved state is another job's.
        """
        if self.training.name:
            bind(job=self.training.name)
        self._state, _ = await begin_state(
            self._checkpointing, self._learner, job=self._job, source=self.training.source
        )
        self._stopwatch.start()
        try:
            async with self._epochs.open():
                await self._train()
        except asyncio.CancelledError:
            await self._stop()
            raise
        finally:
            self._epochs.leave()
        self._is_idle = True
        await asyncio.Event().wait()

    def progress(self) -> Progress:
        """Batches trained and tested; idle while it waits for data or for the others, and when all is done."""
        return Progress(self._num_batches, self._is_idle or self._is_waiting or self._epochs.is_waiting)

    def statistics(self) -> Statistics:
        return Statistics(
            trained_samples=self._trained_samples,
            wait_s=self._wait_s(),
            queue_bytes=self._epochs.num_bytes,
            cache_bytes=self._epochs.cache_bytes,
        )

    @property
    def state(self) -> TrainState:
        """The state after the last step. To be read only."""
        return self._state

    # the beginning and the end

    async def _stop(self) -> None:
        self._stopwatch.measure(self._state)
        await self._save()
        if self._has_joined:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._leave()

    async def _leave(self) -> None:
        await self._exchange.leave()
        self._has_joined = False
        position = self._state.position
        logger().info("exchange.left", epoch=position.epoch, step=position.step)

    async def _train(self) -> None:
        if not self._state.exchange:
            await self._adopt_if_announced()
        while self._state.position.epoch < self.training.epochs:
            try:
                async with self._exchange.open(self._place()), self._following():
                    await self._catch_up()
                    await self._follow()
            except LogGap as gap:
                logger().error(
                    "exchange.log_lost",
                    topic=self._exchange.address.reads,
                    wanted_offset=gap.expected,
                    first_offset=gap.found,
                )
                await self._adopt(at_least=0)
            except _OutOfStepError as error:
                await self._adopt(at_least=error.step)
        logger().info("train.finished", epochs=self.training.epochs, step=self._state.position.step)

    @contextlib.asynccontextmanager
    async def _following(self) -> AsyncIterator[None]:
        """Weights and place in the log move on together meanwhile; behind it, the state names the place."""
        self._is_following = True
        try:
            yield
        finally:
            self._name_place()
            self._is_following = self._catches_up = False

    def _name_place(self) -> None:
        if self._is_following:
            self._state.exchange = gradient_log.to_json(self._exchange.boundary)

    def _place(self) -> State:
        """Where in the log the weights stand. Raises LogGap when that cannot be read."""
        if not self._state.exchange:
            return State()
        try:
            return gradient_log.from_json(self._state.exchange)
        except FormatError as error:
            raise LogGap(0, 0) from error

    async def _catch_up(self) -> None:
        """Make the steps that the group has made meanwhile, up to the log's present end; then join."""
        first, step = self._exchange.state.next_offset, self._state.position.step
        begun_at = self._now()
        end = await self._exchange.end_offset()
        self._catches_up = True
        with self._waiting():
            while self._exchange.state.next_offset < end:
                await self._poll(_POLL_S)
        self._catches_up = False
        if self._state.position.step > step:
            logger().info(
                "exchange.caught_up",
                epoch=self._state.position.epoch,
                step=self._state.position.step,
                steps=self._state.position.step - step,
                first_offset=first,
                next_offset=self._exchange.state.next_offset,
                seconds=round(self._now() - begun_at, 3),
            )
        if not self._is_over:
            await self._join()

    async def _join(self) -> None:
        await self._exchange.join()
        self._joined_at, self._has_joined, self._joined_in = self._now(), True, self._running
        state = self._exchange.state
        logger().info(
            "exchange.joined",
            epoch=self._state.position.epoch,
            step=state.step,
            offset=state.next_offset,
            members=sorted(edge for edge, member in state.members.items() if member.joined),
        )

    # epochs

    async def _follow(self) -> None:
        """Epoch after epoch, to the last."""
        while not self._is_over:
            self._stopwatch.start()
            if self._exchange.state.is_open:
                await self._train_epoch()
            if self._has_to_test:
                await self._test()
            if not self._exchange.state.is_open and not await self._begin_next():
                await self._finish()

    @property
    def _is_over(self) -> bool:
        return self._state.position.epoch >= self.training.epochs

    @property
    def _has_to_test(self) -> bool:
        """Whether the running epoch's steps are done, and this member has a part in its test."""
        state = self._exchange.state
        if state.begin is None or state.is_open or state.begin.epoch != self._state.position.epoch:
            return False
        return self._edge in state.begin.members and self._edge not in state.tested

    async def _train_epoch(self) -> None:
        begin = self._begin
        plan: GroupPlan | None = None
        self._tested = NOTHING
        if self._edge in begin.members:
            plan = await self._draw(begin)
        elif self._joined_in != begin.epoch:
            await self._join()  # left out of this one, it asks to be in the next
        while self._exchange.state.is_open and self._begin.epoch == begin.epoch:
            begun_at, step = self._now(), self._exchange.state.step
            contributed = plan is not None and await self._contribute(plan, step)
            await self._wait_closed(plan, step, is_heard=contributed)
            if contributed:
                self._exchange.deadline.timed(self._now() - begun_at)
            await self._drain()
            if self._checkpointing.is_due():
                self._stopwatch.measure(self._state)
                await self._save()

    @property
    def _begin(self) -> Begin:
        begin = self._exchange.state.begin
        assert begin is not None, "an epoch runs"
        return begin

    async def _draw(self, begin: Begin) -> GroupPlan:
        self._chooser.begin(begin.members)
        plan = await self._epochs.draw(begin.epoch, begin.ends)
        assert isinstance(plan, GroupPlan)
        steps = self._exchange.state.step - self._exchange.state.first_step
        self._epochs.begin(plan, plan.first_sample(min(steps * self.training.exchange.sync_every, plan.num_steps)))
        return plan

    async def _contribute(self, plan: GroupPlan, step: int) -> bool:
        """Make and send the member's part of the step; False when the step was closed before."""
        begun_at, decoded_s = self._now(), self._epochs.decode_s
        self._rounds.begin(self._state)
        computed_s = 0.0
        made = Contributed(step, b"", 0, 0.0, 0)
        try:
            for batch in self._batches(plan, step):
                if not await self._prepared(plan, batch, step):
                    return False
                mini_batch = self._epochs.take()
                computing_at = self._now()
                if self.training.exchange.sync_every == 1:
                    made = await run_in_worker(self._rounds.gradient, self._state, mini_batch)
                else:
                    progress = self._begin.epoch + batch / plan.num_steps
                    await run_in_worker(self._rounds.walk, mini_batch, progress)
                computed_s += self._now() - computing_at
                self._num_batches += 1
                self._trained_samples += len(mini_batch)
            if self.training.exchange.sync_every > 1:
                made = await run_in_worker(self._rounds.way, self._state)
        except DivergedError:
            logger().error(
                "exchange.withheld", epoch=self._begin.epoch, step=step, reason="the loss or the gradient is not finite"
            )
        self._exchange.traffic.step_s += self._now() - begun_at
        self._exchange.traffic.computed += 1
        self._measure_speed(made.count, computed_s + self._epochs.decode_s - decoded_s)
        await self._drain()
        if self._exchange.state.step != step:
            await run_in_worker(lambda: self._rounds.settle(made, is_counted=False))
            made = Contributed(step, b"", 0, 0.0, 0)  # which is late, too, but tells how fast this member is
        self._made = made
        sent_at = self._now()
        with self._waiting():
            await self._exchange.gradient(step, made.count, made.loss, made.num_correct, self._speed, made.blob)
        self._exchange.traffic.waited_s += self._now() - sent_at
        return self._exchange.state.step == step

    def _batches(self, plan: GroupPlan, step: int) -> range:
        """The epoch's global batches that belong to the group's `step`."""
        every = self.training.exchange.sync_every
        first = (step - self._exchange.state.first_step) * every
        return range(first, min(first + every, plan.num_steps))

    async def _prepared(self, plan: GroupPlan, batch: int, step: int) -> bool:
        """Have the member's part of the global batch ready; False when the step is closed before it is here."""
        waits_since = self._now()
        try:
            while not await self._prepare(plan, batch):
                with self._waiting():
                    await self._poll(_BUSY_POLL_S)
                if self._exchange.state.step != step:
                    return False
        finally:
            self._data_wait_s += self._now() - waits_since
        return True

    async def _prepare(self, plan: GroupPlan, batch: int) -> bool:
        return await self._epochs.prepare(plan.first_sample(batch), plan.first_sample(batch + 1))

    async def _wait_closed(self, plan: GroupPlan | None, step: int, *, is_heard: bool) -> None:
        """Until the step is closed; meanwhile the next part is fetched and decoded. Past the deadline, close it."""
        begun_at = self._now()
        deadline_s = self._exchange.deadline.seconds(self._exchange.state)
        closes_at = begun_at + deadline_s
        following = self._batches(plan, step + 1) if plan is not None else range(0)
        is_ready = not following
        with self._waiting():
            while self._exchange.state.step == step:
                if not is_ready and plan is not None:
                    is_ready = await self._prepare(plan, following.start)
                left = closes_at - self._now()
                if left <= 0 and is_heard:
                    await self._exchange.close(step)
                    closes_at, left = self._now() + deadline_s, deadline_s
                await self._poll(min(max(left, 0.0) if is_heard else _POLL_S, _POLL_S if is_ready else _BUSY_POLL_S))
        self._say_closed(step, self._now() - begun_at, deadline_s)

    def _say_closed(self, step: int, waited_s: float, deadline_s: float) -> None:
        traffic = self._exchange.traffic
        traffic.waited_s += waited_s
        closed = self._last
        if closed is None or closed.step != step or not closed.missing:
            return
        if (suppressed := self._exchange.throttle.pass_on("closed", self._now())) is not None:
            logger().warning(
                "exchange.closed",
                epoch=self._begin.epoch,
                step=step,
                contributions=len(closed.contributions),
                missing=list(closed.missing),
                waited_s=round(waited_s, 3),
                deadline_s=round(deadline_s, 3),
                suppressed=suppressed,
            )

    async def _test(self) -> None:
        """Test the member's part of the held-out samples, and tell the others."""
        begin = self._begin
        self._stopwatch.measure(self._state)
        if self._epochs.has_drawn(begin.epoch):
            await self._epochs.end()
        else:
            await self._draw(begin)
        begun_at = self._now()
        tested = NOTHING
        try:
            tested = await evaluate(
                self._learner, self._state, self.training, self._epochs.held_out(), self._count_batch
            )
        except DivergedError:
            logger().error("exchange.withheld", epoch=begin.epoch, step=self._state.position.step, reason="test")
        self._tested, self._test_s = tested, self._now() - begun_at
        with self._waiting():
            await self._exchange.tested(begin.epoch, tested.num_samples, tested.num_correct, tested.loss)

    async def _begin_next(self) -> bool:
        """Wait until the next epoch begins, and see to it that it does; False behind the last."""
        epoch = self._running + 1
        began_at = self._now()
        proposed_at: float | None = None
        ready_at: float | None = None
        with self._waiting():
            while self._running < epoch:
                timeout_s = _POLL_S
                if ready_at is None and self._may_begin(began_at):
                    ready_at = self._now()
                if ready_at is not None:
                    if epoch >= self.training.epochs:
                        return False
                    if proposed_at is None and (self._is_first or self._now() - ready_at >= _TURN_S):
                        timeout_s = _SURVEY_POLL_S
                        if await self._propose(epoch):
                            proposed_at = self._now()
                    elif proposed_at is not None and self._now() - proposed_at >= FIRST_DEADLINE_S:
                        proposed_at = None
                await self._poll(timeout_s)
        return True

    @property
    def _running(self) -> int:
        """The epoch that the group has begun last; -1 before the first."""
        begin = self._exchange.state.begin
        return -1 if begin is None else begin.epoch

    def _may_begin(self, since: float) -> bool:
        """Whether nobody else need be waited for before the next epoch, or it took too long."""
        state = self._exchange.state
        if state.begin is None:
            joined = {edge for edge, member in state.members.items() if member.joined}
            return self._edge in joined and (
                joined >= set(self._edges) or self._now() - self._joined_at >= FIRST_DEADLINE_S
            )
        waited_s = self._now() - since
        if waited_s >= max(_TEST_FACTOR * self._test_s, _LEAST_TEST_S):
            return True
        return all(edge in state.tested for edge in state.awaited)

    @property
    def _is_first(self) -> bool:
        candidates = self._exchange.state.candidates
        return bool(candidates) and candidates[0] == self._edge

    async def _propose(self, epoch: int) -> bool:
        """Propose the epoch over the archive as it is now; False when that is not known yet."""
        snapshot = await self._epochs.survey()
        state = self._exchange.state
        if snapshot is None or self._edge not in state.candidates:
            return False
        training = self.training
        batches = await run_in_worker(group_plan.num_steps, snapshot, training.test_fraction, training.global_batch)
        speeds = {edge: state.members[edge].samples_per_s for edge in state.candidates}
        shares = shard.next_shares(speeds, {} if state.begin is None else state.begin.members)
        weights = await run_in_worker(flat.digest, self._state.params)
        steps = -(-batches // training.exchange.sync_every)
        await self._exchange.begin(epoch, shares, snapshot.ends, steps, weights)
        return True

    async def _finish(self) -> None:
        """Behind the last epoch nothing begins: its end is when all have tested, or need not be waited for."""
        sums = self._exchange.state.held_out_sums
        self._end_epoch(sums)
        await self._settle()
        with self._waiting():
            await self._leave()

    # the log

    async def _poll(self, timeout_s: float) -> None:
        if await self._exchange.poll(timeout_s):
            self._num_batches += 1
            await self._settle()

    async def _drain(self) -> None:
        """Take what is here already; when this member is far behind, all of it."""
        while (lag := self._exchange.lag) > 0:
            is_behind = lag > _STEPS_BEHIND * len(self._edges) * self._exchange.parts_a_step
            if not await self._exchange.poll(_POLL_S if is_behind else 0.0):
                break
            self._num_batches += 1
        await self._settle()

    def _apply(self, group: State, action: Action) -> None:
        """What the log says becomes of the weights. Runs in a worker thread."""
        match action:
            case Closed():
                self._close_step(group, action)
            case Begun():
                self._begin_epoch(action)
            case Rejected(edge) if edge == self._edge:
                self._rounds.forget()  # what was refused would be refused again as part of the next gradient
                self._made = None
            case _:
                pass

    def _close_step(self, group: State, closed: Closed) -> None:
        state, made = self._state, self._made
        is_counted = of_edge(closed.contributions, self._edge)
        if made is not None and made.step == closed.step:
            if made.slots is not None:
                state.slots |= made.slots
            self._rounds.settle(made, is_counted=is_counted)
            self._made = None
        group_step.take_step(self.training, state, group, closed)
        for each in closed.contributions:
            state.tally = _added(state.tally, each.count, each.num_correct, each.loss)
        self._last = replace(closed, mean=None)
        traffic = self._exchange.traffic
        traffic.steps += 1
        traffic.contributions += len(closed.contributions)
        traffic.missed += len(closed.missing)

    def _begin_epoch(self, begun: Begun) -> None:
        begin = begun.begin
        weights = flat.digest(self._state.params)
        if weights != begin.weights:
            logger().error(
                "exchange.diverged",
                epoch=begin.epoch,
                step=self._state.position.step,
                weights=weights,
                expected_weights=begin.weights,
                edge=begin.edge,
            )
            raise _OutOfStepError(self._state.position.step)
        if begin.epoch > self._state.position.epoch:
            self._end_epoch(begun.tested)
        group_step.take_begin(self._state, begin)
        logger().info(
            "exchange.begun",
            epoch=begin.epoch,
            step=self._state.position.step,
            steps=begin.num_steps,
            shares=dict(begin.members),
            edge=begin.edge,
            weights=weights,
        )

    def _end_epoch(self, sums: HeldOutSums) -> None:
        members = tuple(each.edge for each in self._last.contributions) if self._last is not None else ()
        ended = end_epoch(
            self.training,
            self._state,
            self._tested,
            num_samples=sums.num_samples,
            num_correct=sums.num_correct,
            loss=sums.loss,
        )
        traffic, self._exchange.traffic = self._exchange.traffic, Traffic()
        self._ended.append(_Ended(ended, members, flat.digest(self._state.params), traffic))

    async def _settle(self) -> None:
        """Say, save and deploy what epochs ended; of several only the last is saved."""
        if not self._ended:
            return
        ended, self._ended = self._ended, []
        for each in ended:
            each.epoch.say()
            self._say_exchange(each)
        await self._save()
        await self._checkpointing.deploy(self._state, self._tested.calibration)
        if ended[-1].members[:1] == (self._edge,) and not self._catches_up:
            await self._announcements.announce(self._state)

    def _say_exchange(self, ended: _Ended) -> None:
        traffic = ended.traffic
        logger().info(
            "exchange.epoch",
            epoch=ended.epoch.metrics.epoch,
            step=ended.epoch.metrics.step,
            steps=traffic.steps,
            members=list(ended.members),
            weights=ended.weights,
            contributions=traffic.contributions,
            missed=traffic.missed,
            late=traffic.late,
            bytes_per_step=round(traffic.num_bytes / max(traffic.steps, 1), 1),
            **(_timing(traffic) if traffic.computed else {}),
        )

    # checkpoints

    async def _save(self) -> None:
        self._name_place()
        await self._checkpointing.save(self._state)

    async def _adopt_if_announced(self) -> None:
        """A member without a past begins with the group's newest checkpoint, if there is one."""
        with self._waiting():
            found = await self._announcements.newest(like=self._state)
        if found is not None:
            self._take_over(found)

    async def _adopt(self, at_least: int) -> None:
        """Go on from a checkpoint of another member, made at step `at_least` or later; waits until there is one."""
        self._health.degraded("exchange", "the group's log does not reach back; a member's checkpoint is waited for")
        with self._waiting():
            self._take_over(await self._announcements.wait(like=self._state, at_least=at_least))
        self._health.recovered("exchange")

    def _take_over(self, found: TrainState) -> None:
        found.division = self._state.division
        self._state, self._made, self._last = found, None, None
        self._exchange.traffic = Traffic()
        self._rounds.forget()

    # small things

    def _measure_speed(self, count: int, seconds: float) -> None:
        """Smooth the times, not the speeds: of a throttled core most batches are fast, and a few take all the time."""
        if count and seconds > 0:
            smoothed_s = 1 / self._speed if self._speed else seconds / count
            self._speed = 1 / (smoothed_s + (seconds / count - smoothed_s) * _SPEED_SMOOTHING)

    def _wait_s(self) -> float:
        return self._epochs.wait_s + self._data_wait_s

    def _count_batch(self) -> None:
        self._num_batches += 1

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        before, self._is_waiting = self._is_waiting, True
        try:
            yield
        finally:
            self._is_waiting = before

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _timing(traffic: Traffic) -> dict[str, float | str]:
    whole_s = traffic.step_s + traffic.waited_s
    return {
        "step_ms": round(1e3 * whole_s / traffic.computed, 3),
        "comm_fraction": round(traffic.waited_s / whole_s, 4) if whole_s else 0.0,
        "advice": exchange_advice.advice(traffic.waited_s, traffic.step_s),
    }


def _added(tally: Tally, count: int, num_correct: int, loss: float) -> Tally:
    return Tally(
        tally.num_samples + count,
        tally.num_correct + num_correct,
        tally.loss + loss,
        tally.seconds,
        tally.wait_s,
        tally.decode_s,
    )
