"""A training job that several edges do together, as one member does it: from restoring a checkpoint to the last epoch.

Covers the order of things: joining and leaving, epoch after epoch, recovering and starting over. All members hold the
same weights after the same step, bit for bit, whichever of them was killed, stopped or late meanwhile. See also:
`services.group.follower` for weights and log, `services.group.steps` for an epoch's steps, `services.group.proposal`
for which member proposes an epoch.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from concurrent.futures import Executor

from edged.domain.group.plan import GroupPlan
from edged.domain.group.records import MAX_LOSS, Begin
from edged.domain.topology import Training
from edged.domain.training.learner import DivergedError, Learner
from edged.domain.training.state import TrainState
from edged.log import bind, logger
from edged.ports import Health, LaneClock, Progress, Statistics
from edged.services.epochs.loader import EpochLoader
from edged.services.group.checkpoints.recovery import RecoveryNeeded
from edged.services.group.epoch_backend import PART, take_up
from edged.services.group.follower import POLL_S, Follower
from edged.services.group.liveness import Liveness
from edged.services.group.log.deadline import FIRST_DEADLINE_S
from edged.services.group.planner import GroupPlanner
from edged.services.group.proposal import Turn, proposal, shares
from edged.services.group.steps import StepRunner
from edged.services.training.checkpointing import Checkpointing
from edged.services.training.evaluation import NOTHING, Evaluation, evaluate
from edged.services.training.resume import begin_state
from edged.services.training.stopwatch import Stopwatch

LEAVE_S = 2.0
"""How long a stop waits for the log to take the Leave; without it the others wait for two deadlines, no more."""

_SURVEY_POLL_S = 0.1

_USELESS_RETRY_S = 600.0
"""An epoch that had nothing to train on is tried again after that long even where the archive has not changed: members
may have missed its steps for other reasons."""


class GroupTrainer:
    """Trains one model together with the other members. `planner`: the one that `epochs` draws its plans by."""

    def __init__(
        self,
        training: Training,
        learner: Learner,
        checkpointing: Checkpointing,
        epochs: EpochLoader,
        planner: GroupPlanner,
        follower: Follower,
        steps: StepRunner,
        liveness: Liveness,
        lanes: LaneClock,
        health: Health,
        *,
        job: str,
        first_deadline_s: float = FIRST_DEADLINE_S,
        executor: Executor | None = None,
    ) -> None:
        self.training = training
        self._executor = executor
        self._first_deadline_s = first_deadline_s
        self._learner = learner
        self._checkpointing = checkpointing
        self._epochs = epochs
        self._planner = planner
        self._follower = follower
        self._steps = steps
        self._liveness = liveness
        self._health = health
        self._job = job
        self._stopwatch = Stopwatch(lambda: steps.wait_s, lambda: steps.decode_s, lanes)
        self._is_idle = False
        self._joined_at = 0.0
        self._has_joined = False
        self._joined_in = -1
        self._test_s = 0.0

    async def run(self) -> None:
        """Train to the end, then wait quietly to be cancelled.

        Cancelled: it finishes the computation it is in, saves a checkpoint of the last step applied and tells the
        others that it leaves, if the log takes that within LEAVE_S. Any other exception leaves the last checkpoint
        alone. Raises TopologyMismatch when the saved state is another job's.
        """
        if self.training.name:
            bind(job=self.training.name)
        state, is_restored = await begin_state(
            self._checkpointing, self._learner, job=self._job, source=self.training.source
        )
        self._follower.restore(state)
        if is_restored and state.history and not state.position.sample:
            await self._checkpointing.deploy(state)  # a crash may have come between saving and deploying
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
        """Batches and samples, as of `Trainer`; idle while it waits for data or the others, and when all is done."""
        waits = self._liveness.is_waiting or self._epochs.is_waiting
        steps = self._liveness.num_batches + self._learner.num_computed + self._epochs.num_decoded
        return Progress(steps, self._is_idle or waits)

    def statistics(self) -> Statistics:
        return Statistics(
            trained_samples=self._steps.trained_samples,
            refused_samples=self._epochs.num_left_out,
            wait_s=self._steps.wait_s,
            queue_bytes=self._epochs.num_bytes,
            cache_bytes=self._epochs.cache_bytes,
        )

    @property
    def state(self) -> TrainState:
        """The state after the last step. To be read only."""
        return self._follower.state

    async def _train(self) -> None:
        if not self.state.exchange:
            await self._follower.start_from_group()  # a member without a past begins where the group is
        while not self._is_over:
            try:
                async with self._follower.open():
                    await self._follower.catch_up()
                    if not self._is_over and not self._follower.group.has_failed:
                        await self._join()
                    await self._follow()
                    if self._follower.group.has_failed:
                        await self._give_up()
                        return
            except RecoveryNeeded as need:
                await self._follower.resume(need)
        logger().info("train.finished", epochs=self.training.epochs, step=self.state.position.step)

    @property
    def _is_over(self) -> bool:
        return self._is_last(self.state.position.epoch)

    def _is_last(self, num_epochs: int) -> bool:
        """Whether as many epochs, with those that do not count, are all; of them the running one may not be over."""
        is_useless = self.state.position.epoch < num_epochs and self._follower.is_useless
        return num_epochs - self.state.num_useless - is_useless >= self.training.epochs

    # membership

    async def _join(self) -> None:
        await self._follower.join()
        self._joined_at, self._has_joined, self._joined_in = _now(), True, self._follower.running

    async def _leave(self) -> None:
        await self._follower.leave()
        self._has_joined = False

    async def _stop(self) -> None:
        self._stopwatch.measure(self.state)
        await self._follower.save()
        if self._has_joined:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._leave()

    # epochs

    async def _follow(self) -> None:
        """Epoch after epoch, to the last, or until training has diverged too often."""
        while not self._is_over:
            self._stopwatch.start()
            if self._follower.group.is_open:
                await self._train_epoch()
            if self._follower.group.has_failed:
                return
            if self._should_test:
                await self._test()
            if not self._follower.group.is_open and not await self._begin_next():
                await self._finish()

    @property
    def _should_test(self) -> bool:
        """Whether the running epoch's steps are done, and this member still has to do its part of the test."""
        group, edge = self._follower.group, self._follower.address.edge
        if group.begin is None or group.is_open or group.begin.epoch != self.state.position.epoch:
            return False
        return edge in group.begin.members and edge not in group.tested

    async def _train_epoch(self) -> None:
        begin = self._follower.begin
        if begin.epoch == 0 and self._follower.group.step == 0:
            await self._follower.check_start()  # again: now the log shows in which order all came
        plan: GroupPlan | None = None
        self._follower.forget_test()
        is_member = self._follower.address.edge in begin.members
        if is_member and take_up(self._learner, self._follower, self._health):
            plan = await self._draw(begin)
        elif self._joined_in != begin.epoch:
            await self._join()  # left out of this epoch, it asks to be in the next
        while self._follower.group.is_open and self._follower.begin.epoch == begin.epoch:
            await self._steps.take(plan)
            if self._checkpointing.is_due(_now()):
                self._stopwatch.measure(self.state)
                await self._follower.save()
        self._health.recovered(PART)
        if is_member and plan is None and self._follower.group.is_abandoned:
            await self._join()  # by the log's count it was silent, and would not be in the next epoch either

    async def _draw(self, begin: Begin) -> GroupPlan:
        self._planner.begin(begin.members)
        plan = await self._epochs.draw(begin.epoch, begin.ends)
        assert isinstance(plan, GroupPlan)
        steps = self._follower.group.step - self._follower.group.epoch_first_step
        await self._epochs.begin(
            plan, plan.first_sample(min(steps * self.training.exchange.sync_every, plan.num_steps))
        )
        return plan

    async def _test(self) -> None:
        """Test the member's part of the held-out samples, and report it to the others."""
        begin = self._follower.begin
        self._stopwatch.measure(self.state)
        if self._epochs.has_drawn(begin.epoch):
            await self._epochs.end()
        else:
            await self._draw(begin)
        if self._follower.is_useless:
            logger().warning("epoch.useless", epoch=begin.epoch, samples=self._epochs.num_samples)
        else:
            self._expect_next()
        begun_at = _now()
        tested: Evaluation | None = None
        with contextlib.suppress(DivergedError):
            tested = await evaluate(
                self._learner,
                self.state,
                self.training,
                self._epochs.held_out(),
                self._liveness.count,
                self._epochs.leave_out,
                self._executor,
            )
        if tested is None or abs(tested.loss) > MAX_LOSS:
            tested = NOTHING
            logger().error("exchange.withheld", epoch=begin.epoch, step=self.state.position.step, reason="test")
        self._test_s = _now() - begun_at
        with self._liveness.waiting():
            await self._follower.report_test(begin.epoch, tested)

    def _expect_next(self) -> None:
        """Request the next epoch's samples from now on, by the members and shares that it would begin with now.

        So the archive sends them during the test, instead of after the Begin, when all members wait for them.
        """
        group = self._follower.group
        if self._follower.address.edge in group.eligible:
            self._planner.expect(shares(group))

    async def _begin_next(self) -> bool:
        """Wait until the next epoch begins, and propose it when it is this member's turn; False after the last."""
        epoch = self._follower.running + 1
        turn = Turn(
            self._follower.address,
            since=_now(),
            joined_at=self._joined_at,
            test_s=self._test_s,
            first_deadline_s=self._first_deadline_s,
        )
        retry_at = _now() + _USELESS_RETRY_S
        with self._liveness.waiting():
            while self._follower.running < epoch:
                has_drawn = not self._is_last(epoch) and self._epochs.has_drawn(epoch - 1)
                timeout_s = POLL_S if not has_drawn or await self._epochs.look_ahead() else _SURVEY_POLL_S
                if turn.is_ready(self._follower.group, _now()):
                    if self._is_last(epoch):
                        return False
                    if turn.should_propose(self._follower.group, _now()):
                        timeout_s = _SURVEY_POLL_S
                        useless = self._follower.begin.ends if self._follower.is_useless else None
                        if await self._propose(epoch, useless if _now() < retry_at else None):
                            turn.proposed(_now())
                await self._follower.poll(timeout_s)
        return True

    async def _propose(self, epoch: int, useless: Mapping[str, int] | None) -> bool:
        """Propose the epoch; False when this member cannot, or does not know yet of an archive with more in it.

        `useless`: the archive's ends when it had nothing to train on.
        """
        snapshot = await self._epochs.survey(useless)
        if snapshot is None:
            return False
        if epoch == 0:
            await self._follower.check_start(is_proposing=True)
        follower = self._follower
        begin = await proposal(
            follower.group,
            follower.address.edge,
            snapshot,
            self.training,
            epoch,
            self.state.params,
            follower.announced,
        )
        if begin is None:
            return False
        await self._follower.propose(begin)
        return True

    async def _finish(self) -> None:
        """End the last epoch, after which none begins, once all have tested or need not be waited for."""
        await self._follower.end_last()
        with self._liveness.waiting():
            await self._leave()

    async def _give_up(self) -> None:
        """Training has diverged too often, now or before this process began: the restored weights are the result."""
        await self._follower.give_up()
        if self._has_joined:
            with self._liveness.waiting():
                await self._leave()


def _now() -> float:
    return asyncio.get_running_loop().time()
