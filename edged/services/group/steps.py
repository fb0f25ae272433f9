"""A member's part in the steps of an epoch: contribute, wait until the step is closed, see to it that it is.

Covers when what is sent, how long it is waited for, and how fast the member is. The arithmetic is `round`'s subject,
what a closed step does `member_state`'s, where samples come from `epoch`'s.
"""

import asyncio

from edged.aio import run_in_worker
from edged.domain.group.plan import GroupPlan
from edged.domain.topology import Training
from edged.domain.training.learner import DivergedError
from edged.log import logger
from edged.services.epochs.loader import EpochLoader
from edged.services.group.contribution import ContributionMaker, PendingGradient
from edged.services.group.follower import POLL_S, Follower
from edged.services.group.liveness import Activity
from edged.services.group.log.deadline import DEADLINE_FACTOR, FIRST_DEADLINE_S
from edged.services.group.member import Member

_BUSY_POLL_S = 0.02
"""While samples are on their way too."""

_TICK_S = 1e-3
"""A deadline that is so near has passed: who waits for less may wait for no time at all, again and again."""

_SPEED_SMOOTHING = 0.3


class StepRunner:
    """The steps of one member, one after the other. Used by one task, while `following` is open."""

    def __init__(
        self,
        training: Training,
        member: Member,
        following: Follower,
        rounds: ContributionMaker,
        epochs: EpochLoader,
        activity: Activity,
    ) -> None:
        self._training = training
        self._member = member
        self._following = following
        self._exchange = following.exchange
        self._rounds = rounds
        self._epochs = epochs
        self._activity = activity
        self._speed = 0.0
        self.trained_samples = 0
        self.data_wait_s = 0.0
        """Seconds that a step had to wait for samples, since start."""

    async def take(self, plan: GroupPlan | None) -> None:
        """The group's present step, until it is closed; without a plan of its own, the member only watches."""
        now = asyncio.get_running_loop().time
        begun_at, step = now(), self._exchange.state.step
        contributed = plan is not None and await self._contribute(plan, step)
        await self._wait_closed(plan, step, has_contributed=contributed)
        if contributed:
            self._exchange.deadline.record(now() - begun_at)
        await self._following.drain()

    async def _contribute(self, plan: GroupPlan, step: int) -> bool:
        """Make and send the member's part of the step; False when the step was closed before."""
        now, exchange = asyncio.get_running_loop().time, self._exchange
        begun_at, rollbacks = now(), exchange.state.rollbacks
        made: PendingGradient | None = PendingGradient(step, b"", 0, 0.0, 0, is_diverged=True)
        try:
            made = await self._compute(plan, step)
        except DivergedError:
            logger().error(
                "exchange.withheld",
                epoch=self._following.begin.epoch,
                step=step,
                reason="the loss or the gradient is not finite",
            )
        if made is None:
            return False
        exchange.traffic.step_s += now() - begun_at
        exchange.traffic.computed += 1
        await self._following.drain()
        if exchange.state.step != step:
            late = made
            if exchange.state.rollbacks == rollbacks:  # otherwise it belongs to weights that the group went back from
                await run_in_worker(lambda: self._rounds.acknowledge(late, is_counted=False))
            made = PendingGradient(step, b"", 0, 0.0, 0)  # which is late, too, but tells how fast this member is
        self._member.made = made
        sent_at = now()
        with self._activity.waiting():
            await exchange.gradient(
                step, made.count, made.loss, made.num_correct, self._speed, made.blob, is_diverged=made.is_diverged
            )
        exchange.traffic.waited_s += now() - sent_at
        return exchange.state.step == step

    async def _compute(self, plan: GroupPlan, step: int) -> PendingGradient | None:
        """The member's part of the step; None when the step was closed before its samples were here.

        Raises DivergedError.
        """
        now, state, every = asyncio.get_running_loop().time, self._member.state, self._training.exchange.sync_every
        decoded_s, computed_s = self._epochs.decode_s, 0.0
        made = PendingGradient(step, b"", 0, 0.0, 0)
        self._rounds.begin(state)
        for batch in self._batches(plan, step):
            if not await self._prepared(plan, batch, step):
                return None
            mini_batch = self._epochs.take()
            computing_at = now()
            if every == 1:
                made = await run_in_worker(self._rounds.gradient, state, mini_batch)
            else:
                progress = self._following.begin.epoch + batch / plan.num_steps
                await run_in_worker(self._rounds.local_step, mini_batch, progress)
            computed_s += now() - computing_at
            self._activity.count()
            self.trained_samples += len(mini_batch)
        if every > 1:
            made = await run_in_worker(self._rounds.delta, state)
        self._measure_speed(made.count, computed_s + self._epochs.decode_s - decoded_s)
        return made

    def _batches(self, plan: GroupPlan, step: int) -> range:
        """The epoch's global batches that belong to the group's `step`."""
        every = self._training.exchange.sync_every
        first = (step - self._exchange.state.epoch_first_step) * every
        return range(first, min(first + every, plan.num_steps))

    async def _prepared(self, plan: GroupPlan, batch: int, step: int) -> bool:
        """Have the member's part of the global batch ready; False when the step is closed before it is here."""
        now = asyncio.get_running_loop().time
        waits_since = now()
        try:
            while not await self._prepare(plan, batch):
                with self._activity.waiting():
                    await self._following.poll(_BUSY_POLL_S)
                if self._exchange.state.step != step:
                    return False
        finally:
            self.data_wait_s += now() - waits_since
        return True

    async def _prepare(self, plan: GroupPlan, batch: int) -> bool:
        return await self._epochs.prepare(plan.first_sample(batch), plan.first_sample(batch + 1))

    async def _wait_closed(self, plan: GroupPlan | None, step: int, *, has_contributed: bool) -> None:
        """Until the step is closed; meanwhile the next part is fetched and decoded. Past the deadline, close it."""
        now, exchange = asyncio.get_running_loop().time, self._exchange
        begun_at = now()
        deadline_s = self._timeout_s() if plan is None else exchange.deadline.seconds(exchange.state)
        closes_at = begun_at + deadline_s
        following = self._batches(plan, step + 1) if plan is not None else range(0)
        is_ready = not following
        with self._activity.waiting():
            while exchange.state.step == step:
                if not is_ready and plan is not None:
                    is_ready = await self._prepare(plan, following.start)
                left = closes_at - now()
                if left < _TICK_S and (has_contributed or (plan is None and await self._has_archive())):
                    await exchange.close(step)
                    closes_at, left = now() + deadline_s, deadline_s
                await self._following.poll(
                    min(max(left, 0.0) if has_contributed else POLL_S, POLL_S if is_ready else _BUSY_POLL_S)
                )
        waited_s = now() - begun_at
        exchange.traffic.waited_s += waited_s
        self._log_closed(step, waited_s, deadline_s)

    def _timeout_s(self) -> float:
        """How long one who only watches waits for anything of a step: as its slowest member needs, by what it told."""
        group, training = self._exchange.state, self._training
        batch = training.global_batch * training.exchange.sync_every
        computing_s = [
            share * batch / speed
            for edge, share in self._following.begin.members.items()
            if (speed := group.members[edge].samples_per_s)
        ]
        return max(FIRST_DEADLINE_S, DEADLINE_FACTOR * max(computing_s, default=0.0))

    async def _has_archive(self) -> bool:
        """Whether the archive answers. If not, the members may be silent for that alone, and none is to be given up."""
        return await self._epochs.survey() is not None

    def _log_closed(self, step: int, waited_s: float, deadline_s: float) -> None:
        """The line about a step that was closed without somebody's part."""
        closed = self._member.last
        if closed is None or closed.step != step or not closed.missing:
            return
        suppressed = self._exchange.throttle.pass_on("closed", asyncio.get_running_loop().time())
        if suppressed is not None:
            logger().warning(
                "exchange.closed",
                epoch=self._following.begin.epoch,
                step=step,
                contributions=len(closed.contributions),
                missing=list(closed.missing),
                waited_s=round(waited_s, 3),
                deadline_s=round(deadline_s, 3),
                suppressed=suppressed,
            )

    def _measure_speed(self, count: int, seconds: float) -> None:
        """Smooth the times, not the speeds: of a throttled core most batches are fast, and a few take all the time."""
        if count and seconds > 0:
            smoothed_s = 1 / self._speed if self._speed else seconds / count
            self._speed = 1 / (smoothed_s + (seconds / count - smoothed_s) * _SPEED_SMOOTHING)
