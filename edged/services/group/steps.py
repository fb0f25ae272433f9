"""A member's part in the steps of an epoch: sends its contribution, waits until the step closes, enforces the deadline.

Covers what is sent when, how long it is waited for, and this member's measured speed. See also:
`services.group.contribution` for the arithmetic, `services.epochs.loader` for where samples come from.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

from edged.aio import in_worker, run_in_worker
from edged.domain.group.plan import GroupPlan
from edged.domain.topology import Training
from edged.domain.training.learner import DivergedError
from edged.log import Throttle, logger
from edged.services.batches.left_out import LOSS_NOT_FINITE
from edged.services.epochs.loader import EpochLoader
from edged.services.group.contribution import ContributionMaker, PendingGradient
from edged.services.group.follower import POLL_S, Follower
from edged.services.group.liveness import Liveness
from edged.services.group.log.deadline import DEADLINE_FACTOR, FIRST_DEADLINE_S, MIN_DEADLINE_S, Deadline

_BUSY_POLL_S = 0.02
"""Poll interval while samples are being fetched too."""

_TICK_S = 1e-3
"""A deadline this near has passed: a poll for less may take no time at all, and the loop would spin."""

_SPEED_SMOOTHING = 0.3

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class StepRunner:
    """Runs the steps of one member, one after the other. Used by one task, while `follower` is open.

    What it computes, it computes on threads of `executor`; meanwhile it prepares what comes next.
    """

    def __init__(
        self,
        training: Training,
        follower: Follower,
        contributions: ContributionMaker,
        epochs: EpochLoader,
        liveness: Liveness,
        executor: Executor | None = None,
        first_deadline_s: float = FIRST_DEADLINE_S,
        min_deadline_s: float = MIN_DEADLINE_S,
    ) -> None:
        self._executor = executor
        self._training = training
        self._follower = follower
        self._contributions = contributions
        self._epochs = epochs
        self._liveness = liveness
        self._first_deadline_s = first_deadline_s
        self._deadline = Deadline(first_deadline_s, min_deadline_s)
        self._throttle = Throttle()
        self._speed = 0.0
        self._sample_wait_s = 0.0
        self.decode_s = 0.0
        """Seconds that training stood by for the decoding of samples into mini-batches, since start."""
        self.trained_samples = 0
        """Samples that this member computed gradients of, since start."""

    @property
    def wait_s(self) -> float:
        """Seconds that training waited for samples, since start."""
        return self._epochs.wait_s + self._sample_wait_s

    async def take(self, plan: GroupPlan | None) -> None:
        """Take part in the present step until it is closed; without a plan of its own, the member only watches."""
        now = asyncio.get_running_loop().time
        begun_at, step = now(), self._follower.group.step
        has_contributed = plan is not None and await self._contribute(plan, step)
        await self._wait_closed(plan, step, has_contributed=has_contributed)
        if has_contributed:
            self._deadline.record(now() - begun_at)
        await self._follower.drain()

    async def _contribute(self, plan: GroupPlan, step: int) -> bool:
        """Compute and send the member's part of the step; False when the step was closed earlier."""
        now, follower = asyncio.get_running_loop().time, self._follower
        begun_at, rollbacks = now(), follower.group.rollbacks
        pending: PendingGradient | None = PendingGradient(step, b"", 0, 0.0, 0, is_diverged=True)
        try:
            pending = await self._compute(plan, step)
        except DivergedError:
            logger().error(
                "exchange.withheld",
                epoch=follower.begin.epoch,
                step=step,
                reason="the loss or the gradient is not finite",
            )
        if pending is None:
            return False
        follower.count_computed(now() - begun_at)
        await follower.drain()
        if follower.group.step != step:
            late = pending
            if follower.group.rollbacks == rollbacks:  # otherwise it belongs to weights that were rolled back
                await run_in_worker(lambda: self._contributions.acknowledge(late, is_counted=False))
            pending = PendingGradient(step, b"", 0, 0.0, 0)  # late as well, but it carries this member's speed
        sent_at = now()
        with self._liveness.waiting():
            await follower.contribute(pending, self._speed)
        follower.count_waited(now() - sent_at)
        return follower.group.step == step

    async def _compute(self, plan: GroupPlan, step: int) -> PendingGradient | None:
        """The member's part of the step; None when the step was closed before its samples arrived.

        Raises DivergedError.
        """
        now, state, every = asyncio.get_running_loop().time, self._follower.state, self._training.exchange.sync_every
        decoded_s, computed_s = self.decode_s, 0.0
        pending = PendingGradient(step, b"", 0, 0.0, 0)
        self._contributions.begin(state)
        for batch in self._batches(plan, step):
            if not await self._prepared(plan, batch, step):
                return None
            mini_batch = await self._epochs.take()
            computing_at = now()
            if every == 1:
                pending = await self._preparing_next(plan, batch, self._contributions.gradient, state, mini_batch)
            else:
                progress = self._follower.begin.epoch + batch / plan.num_steps
                await self._preparing_next(plan, batch, self._contributions.local_step, mini_batch, progress)
            computed_s += now() - computing_at
            self._liveness.count()
            left_out = self._contributions.take_left_out()
            for sample in left_out:
                self._epochs.leave_out(sample, LOSS_NOT_FINITE)
            self.trained_samples += len(mini_batch) - len(left_out)
        if every > 1:
            pending = await run_in_worker(self._contributions.delta, state)
        self._measure_speed(pending.count, computed_s + self.decode_s - decoded_s)
        return pending

    async def _preparing_next(self, plan: GroupPlan, batch: int, compute: Callable[[*Ts], R], *args: *Ts) -> R:
        """What is computed of the global batch; meanwhile prepare the next one's part, as far as it is here."""
        async with in_worker(compute, *args, executor=self._executor) as computed:
            if batch + 1 < plan.num_steps:
                await self._prepare(plan, batch + 1)
            return await computed

    def _batches(self, plan: GroupPlan, step: int) -> range:
        """The epoch's global batches that belong to the group's `step`."""
        every = self._training.exchange.sync_every
        first = (step - self._follower.group.epoch_first_step) * every
        return range(first, min(first + every, plan.num_steps))

    async def _prepared(self, plan: GroupPlan, batch: int, step: int) -> bool:
        """Wait for the member's samples of the global batch; False when the step is closed before they arrive."""
        now = asyncio.get_running_loop().time
        waits_since, decoded_s = now(), self._epochs.decode_s
        try:
            while not await self._prepare(plan, batch):
                with self._liveness.waiting():
                    await self._follower.poll(_BUSY_POLL_S)
                if self._follower.group.step != step:
                    return False
        finally:
            self._sample_wait_s += now() - waits_since
            self.decode_s += self._epochs.decode_s - decoded_s
        return True

    async def _prepare(self, plan: GroupPlan, batch: int) -> bool:
        return await self._epochs.prepare(plan.first_sample(batch), plan.first_sample(batch + 1))

    async def _wait_closed(self, plan: GroupPlan | None, step: int, *, has_contributed: bool) -> None:
        """Wait until the step is closed, and close it after the deadline; meanwhile prepare the next part."""
        now, follower = asyncio.get_running_loop().time, self._follower
        begun_at = now()
        deadline_s = self._watch_timeout_s() if plan is None else self._deadline.seconds(follower.group)
        closes_at = begun_at + deadline_s
        next_batches = self._batches(plan, step + 1) if plan is not None else range(0)
        is_ready = not next_batches
        with self._liveness.waiting():
            while follower.group.step == step:
                if not is_ready and plan is not None:
                    is_ready = await self._prepare(plan, next_batches.start)
                left_s = closes_at - now()
                if left_s < _TICK_S and (has_contributed or (plan is None and await self._has_archive())):
                    await follower.close(step)
                    closes_at, left_s = now() + deadline_s, deadline_s
                await follower.poll(
                    min(max(left_s, 0.0) if has_contributed else POLL_S, POLL_S if is_ready else _BUSY_POLL_S)
                )
        waited_s = now() - begun_at
        follower.count_waited(waited_s)
        self._log_closed(step, waited_s, deadline_s)

    def _watch_timeout_s(self) -> float:
        """How long a member that only watches waits for a step: as long as the slowest member needs, by its speed."""
        group, training = self._follower.group, self._training
        batch = training.global_batch * training.exchange.sync_every
        computing_s = [
            share * batch / speed
            for edge, share in self._follower.begin.members.items()
            if (speed := group.members[edge].samples_per_s)
        ]
        return max(self._first_deadline_s, DEADLINE_FACTOR * max(computing_s, default=0.0))

    async def _has_archive(self) -> bool:
        """Whether the archive answers. If not, the members may be silent for that alone, and none is to be evicted."""
        return await self._epochs.survey() is not None

    def _log_closed(self, step: int, waited_s: float, deadline_s: float) -> None:
        """Log a step that was closed without a member's contribution."""
        closed = self._follower.last_closed
        if closed is None or closed.step != step or not closed.missing:
            return
        suppressed = self._throttle.pass_on("closed", asyncio.get_running_loop().time())
        if suppressed is not None:
            logger().warning(
                "exchange.closed",
                epoch=self._follower.begin.epoch,
                step=step,
                contributions=len(closed.contributions),
                missing=list(closed.missing),
                waited_s=round(waited_s, 3),
                deadline_s=round(deadline_s, 3),
                suppressed=suppressed,
            )

    def _measure_speed(self, count: int, seconds: float) -> None:
        """Smooth times, not speeds: on a throttled core most batches are fast, and a few take all the time."""
        if count and seconds > 0:
            smoothed_s = 1 / self._speed if self._speed else seconds / count
            self._speed = 1 / (smoothed_s + (seconds / count - smoothed_s) * _SPEED_SMOOTHING)
