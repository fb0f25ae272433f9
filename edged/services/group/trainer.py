"""A training job that several edges do together, as one member does it: a loop from restore to the last epoch.

Covers the order of things: joining and leaving, epoch after epoch, and what is done when the log was lost. The weights
are a fold over the group's log (domain.gradient_log), which `following` moves on; an epoch's steps are `member_steps`'
subject, whose turn it is to begin one `next_epoch`'s, where samples come from `epoch`'s.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor

from edged.aio import run_in_worker
from edged.domain.group import gradient_log
from edged.domain.group.plan import GroupPlan
from edged.domain.group.records import MAX_LOSS, Begin
from edged.domain.group.state import Fold, Rules
from edged.domain.nn import param_vector
from edged.domain.nn.model import Model
from edged.domain.topology import Training
from edged.domain.training.learner import DivergedError, Learner
from edged.domain.training.state import TrainState
from edged.errors import EdgedError, LogGap
from edged.log import bind, logger
from edged.ports import Health, Log, Progress, Statistics
from edged.services.epochs.loader import EpochLoader
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.contribution import ContributionMaker
from edged.services.group.follower import POLL_S, Follower
from edged.services.group.liveness import Activity
from edged.services.group.log.group_log import GroupAddress
from edged.services.group.member import Member, OutOfStepError
from edged.services.group.planner import GroupPlanner
from edged.services.group.proposal import Turn, propose, shares
from edged.services.group.steps import StepRunner
from edged.services.training.checkpointing import Checkpointing
from edged.services.training.evaluation import NOTHING, Evaluation, evaluate
from edged.services.training.resume import begin_state
from edged.services.training.stopwatch import Stopwatch
from edged.services.training.worker_map import worker_map

LEAVE_S = 2.0
"""So long a stop waits for the log to take the last word; without it the others wait for two deadlines, no more."""

_SURVEY_POLL_S = 0.1


class _SupersededError(EdgedError):
    """This member has begun where others go on with what they had before their log was lost."""

    def __init__(self, found: TrainState) -> None:
        super().__init__("the group goes on from an announced state")
        self.found = found


class _UndecidedError(EdgedError):
    """This member has begun where others, who have lost their log, are about to agree on where all go on."""

    def __init__(self) -> None:
        super().__init__("where the group goes on is not decided yet")


class GroupTrainer:
    """Trains one model together with the other members. `planner` is the one that `epochs` draws its plans by.

    With `executor` the model's lanes are computed on its threads (its BLAS threads are the caller's matter). All
    members hold the same weights after the same step, bit for bit, whoever was killed, stopped or late meanwhile.
    """

    def __init__(
        self,
        training: Training,
        model: Model,
        checkpointing: Checkpointing,
        announcements: CheckpointPublisher,
        log: Log,
        health: Health,
        address: GroupAddress,
        *,
        rules: Rules,
        epochs: EpochLoader,
        planner: GroupPlanner,
        fold: Fold = gradient_log.fold,
        executor: Executor | None = None,
    ) -> None:
        self.training = training
        self._learner = Learner(training, model)
        self._checkpointing = checkpointing
        self._health = health
        self._address = address
        self._job = rules.job
        self._epochs = epochs
        self._planner = planner
        rounds = ContributionMaker(training, self._learner, model.num_parameters, worker_map(executor))
        self._activity = Activity()
        self._member = Member(training, address.edge, rounds, TrainState({}, {}, rules.job, model.division))
        self._following = Follower(
            log, address, rules, fold, self._member, checkpointing, announcements, self._activity
        )
        self._exchange = self._following.exchange
        self._steps = StepRunner(training, self._member, self._following, rounds, epochs, self._activity)
        self._stopwatch = Stopwatch(self._wait_s, lambda: self._epochs.decode_s)
        self._is_idle = False
        self._joined_at = 0.0
        self._has_joined = False
        self._joined_in = -1
        self._test_s = 0.0

    async def run(self) -> None:
        """Train to the end, then wait quietly to be cancelled.

        Cancelled, it finishes the arithmetic it is in, saves a checkpoint of the last step applied and tells the others
        that it leaves, if the log takes that within LEAVE_S. Any other exception leaves the last checkpoint alone.
        Raises TopologyMismatch when the saved state is another job's.
        """
        if self.training.name:
            bind(job=self.training.name)
        self._member.state, is_restored = await begin_state(
            self._checkpointing, self._learner, job=self._job, source=self.training.source
        )
        if is_restored and self.state.position.epoch and not self.state.position.sample:
            await self._checkpointing.deploy(self.state)  # a crash may have come between saving and deploying
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
        waits = self._activity.is_waiting or self._epochs.is_waiting
        return Progress(self._activity.num_batches, self._is_idle or waits)

    def statistics(self) -> Statistics:
        return Statistics(
            trained_samples=self._steps.trained_samples,
            wait_s=self._wait_s(),
            queue_bytes=self._epochs.num_bytes,
            cache_bytes=self._epochs.cache_bytes,
        )

    @property
    def state(self) -> TrainState:
        """The state after the last step. To be read only."""
        return self._member.state

    async def _train(self) -> None:
        if not self.state.exchange and (found := await self._following.announced()) is not None:
            await self._following.take_over(found)  # without a past, a member begins where the group is
        while not self._is_over:
            try:
                async with self._following.open():
                    await self._following.catch_up()
                    if not self._is_over and not self._exchange.state.has_failed:
                        await self._join()
                    await self._follow()
                    if self._exchange.state.has_failed:
                        await self._give_up()
                        return
            except LogGap as gap:
                logger().error(
                    "exchange.log_lost",
                    topic=self._address.reads,
                    wanted_offset=gap.expected,
                    first_offset=gap.found,
                )
                with self._degraded("the group's log does not reach back"):
                    await self._following.refound()
            except OutOfStepError as error:
                with self._degraded(str(error)):
                    await self._following.adopt(at_least=error.step)
            except _UndecidedError as error:
                with self._degraded(str(error)):
                    await self._following.refound()
            except _SupersededError as error:
                await self._following.take_over(error.found)
        logger().info("train.finished", epochs=self.training.epochs, step=self.state.position.step)

    @property
    def _is_over(self) -> bool:
        return self.state.position.epoch >= self.training.epochs

    @contextlib.contextmanager
    def _degraded(self, reason: str) -> Iterator[None]:
        self._health.degraded("exchange", f"{reason}; a member's checkpoint is waited for")
        yield
        self._health.recovered("exchange")

    # the membership

    async def _join(self) -> None:
        await self._exchange.join(
            self._exchange.state.step, await run_in_worker(param_vector.digest, self.state.params)
        )
        self._joined_at, self._has_joined, self._joined_in = _now(), True, self._following.running
        state = self._exchange.state
        logger().info(
            "exchange.joined",
            epoch=self.state.position.epoch,
            step=state.step,
            offset=state.next_offset,
            members=sorted(edge for edge, member in state.members.items() if member.joined),
        )

    async def _leave(self) -> None:
        await self._exchange.leave()
        self._has_joined = False
        position = self.state.position
        logger().info("exchange.left", epoch=position.epoch, step=position.step)

    async def _stop(self) -> None:
        self._stopwatch.measure(self.state)
        await self._following.save()
        if self._has_joined:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._leave()

    # epochs

    async def _follow(self) -> None:
        """Epoch after epoch, to the last, or until training has diverged too often."""
        while not self._is_over:
            self._stopwatch.start()
            if self._exchange.state.is_open:
                await self._train_epoch()
            if self._exchange.state.has_failed:
                return
            if self._has_to_test:
                await self._test()
            if not self._exchange.state.is_open and not await self._begin_next():
                await self._finish()

    @property
    def _has_to_test(self) -> bool:
        """Whether the running epoch's steps are done, and this member has a part in its test."""
        state = self._exchange.state
        if state.begin is None or state.is_open or state.begin.epoch != self.state.position.epoch:
            return False
        return self._address.edge in state.begin.members and self._address.edge not in state.tested

    async def _train_epoch(self) -> None:
        begin = self._following.begin
        if begin.epoch == 0 and self._exchange.state.step == 0:
            await self._check_first()  # again: now the log has it in which order all came
        plan: GroupPlan | None = None
        self._member.tested = NOTHING
        if self._address.edge in begin.members:
            plan = await self._draw(begin)
        elif self._joined_in != begin.epoch:
            await self._join()  # left out of this one, it asks to be in the next
        while self._exchange.state.is_open and self._following.begin.epoch == begin.epoch:
            await self._steps.take(plan)
            if self._checkpointing.is_due():
                self._stopwatch.measure(self.state)
                await self._following.save()

    async def _draw(self, begin: Begin) -> GroupPlan:
        self._planner.begin(begin.members)
        plan = await self._epochs.draw(begin.epoch, begin.ends)
        assert isinstance(plan, GroupPlan)
        steps = self._exchange.state.step - self._exchange.state.epoch_first_step
        self._epochs.begin(plan, plan.first_sample(min(steps * self.training.exchange.sync_every, plan.num_steps)))
        return plan

    async def _test(self) -> None:
        """Test the member's part of the held-out samples, and tell the others."""
        begin = self._following.begin
        self._stopwatch.measure(self.state)
        if self._epochs.has_drawn(begin.epoch):
            await self._epochs.end()
        else:
            await self._draw(begin)
        self._expect_next()
        begun_at = _now()
        tested: Evaluation | None = None
        with contextlib.suppress(DivergedError):
            tested = await evaluate(
                self._learner, self.state, self.training, self._epochs.held_out(), self._activity.count
            )
        if tested is None or abs(tested.loss) > MAX_LOSS:
            tested = NOTHING
            logger().error("exchange.withheld", epoch=begin.epoch, step=self.state.position.step, reason="test")
        self._member.tested, self._test_s = tested, _now() - begun_at
        with self._activity.waiting():
            weights = await run_in_worker(param_vector.digest, self.state.params)
            await self._exchange.tested(begin.epoch, tested.num_samples, tested.num_correct, tested.loss, weights)

    def _expect_next(self) -> None:
        """From now on the next epoch's samples are asked for, as it should begin by what the log has now.

        So the archive sends them during the test, instead of after the Begin, when all members wait for them.
        """
        group = self._exchange.state
        if self._address.edge in group.eligible:
            self._planner.expect(shares(group))

    async def _begin_next(self) -> bool:
        """Wait until the next epoch begins, and see to it that it does; False behind the last."""
        epoch = self._following.running + 1
        turn = Turn(self._address, since=_now(), joined_at=self._joined_at, test_s=self._test_s)
        with self._activity.waiting():
            while self._following.running < epoch:
                has_drawn = epoch < self.training.epochs and self._epochs.has_drawn(epoch - 1)
                timeout_s = POLL_S if not has_drawn or await self._epochs.look_ahead() else _SURVEY_POLL_S
                if turn.is_ready(self._exchange.state, _now()):
                    if epoch >= self.training.epochs:
                        return False
                    if turn.should_propose(self._exchange.state, _now()):
                        timeout_s = _SURVEY_POLL_S
                        if await self._propose(epoch):
                            turn.proposed(_now())
                await self._following.poll(timeout_s)
        return True

    async def _propose(self, epoch: int) -> bool:
        """Propose the epoch; False when the archive is not known yet, or for who cannot be in it.

        Raises _UndecidedError if all may go on from an offered state, rather than begin at its beginning. Whoever
        offered it may be dead: who waits for it without a state of its own sees to it, too.
        """
        snapshot = await self._epochs.survey()
        if snapshot is None:
            return False
        if epoch == 0:
            await self._check_first()
            if await self._following.is_another_offered():
                raise _UndecidedError
        return await propose(self._exchange, snapshot, self.training, epoch, self.state.params)

    async def _check_first(self) -> None:
        """Raises _SupersededError if the group goes on from an announced state, rather than begin at its beginning."""
        if (found := await self._following.superseding()) is not None:
            raise _SupersededError(found)

    async def _finish(self) -> None:
        """Behind the last epoch nothing begins: its end is when all have tested, or need not be waited for."""
        await self._following.end_last()
        with self._activity.waiting():
            await self._leave()

    async def _give_up(self) -> None:
        """Training has diverged too often, now or before this process began: what it went back to is what remains."""
        self._member.say_diverged(goes_on=False)
        await self._following.save()
        await self._checkpointing.deploy(self.state)
        if self._has_joined:
            with self._activity.waiting():
                await self._leave()

    def _wait_s(self) -> float:
        return self._epochs.wait_s + self._steps.data_wait_s


def _now() -> float:
    return asyncio.get_running_loop().time()
