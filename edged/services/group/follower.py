"""Folds the group's log and applies it to this member's weights; saves, deploys and publishes at the end of an epoch.

The single owner of weights and log position: it reads and writes the log for the trainer and the step runner, and
continues from another checkpoint when the log cannot be followed. See also: `services.group.member` for what an action
of the log does to the member, `services.group.checkpoints.recovery` for which checkpoint it continues from.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from edged.aio import run_in_worker
from edged.domain.group import formats, gradient_log, membership, state_json
from edged.domain.group import step as group_step
from edged.domain.group.formats import Announcement
from edged.domain.group.records import Begin, Close, Join, Leave, Tested
from edged.domain.group.records import Record as GroupRecord
from edged.domain.group.state import Action, Begun, Closed, Fold, HeldOutSums, Late, Rejected, Rules, State
from edged.domain.nn import param_vector
from edged.domain.training.state import TrainState
from edged.errors import FormatError, LogGap
from edged.log import Throttle, logger
from edged.ports import Health, Record
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.checkpoints.recovery import Reason, Recovery, RecoveryNeeded
from edged.services.group.contribution import PendingGradient
from edged.services.group.liveness import Liveness
from edged.services.group.log.group_log import GroupAddress, GroupLog
from edged.services.group.member import Member
from edged.services.group.report import GroupEpoch, Traffic
from edged.services.training.checkpointing import Checkpointing
from edged.services.training.evaluation import NOTHING, Evaluation

POLL_S = 1.0
"""How long a member with nothing else to do waits for the log at a time."""

_MAX_LAG_STEPS = 3
"""A member this many steps behind catches up first: its gradient of the present step would come too late."""


class Follower:
    """Follows the log for `member`. Used by one task; reads inside `open()`, saves and continues elsewhere outside it.

    Weights and log position belong together whenever any of this is cancelled.
    """

    def __init__(
        self,
        log: GroupLog,
        rules: Rules,
        fold: Fold,
        member: Member,
        checkpointing: Checkpointing,
        publisher: CheckpointPublisher,
        recovery: Recovery,
        health: Health,
        liveness: Liveness,
    ) -> None:
        self._log = log
        self._rules = rules
        self._fold = fold
        self._member = member
        self._checkpointing = checkpointing
        self._publisher = publisher
        self._recovery = recovery
        self._health = health
        self._liveness = liveness
        self._throttle = Throttle(max_kinds=64)  # of edges, by names that anybody may have made up
        self._traffic = Traffic()
        self._ended: list[GroupEpoch] = []
        """Epochs that ended in the fold and are not yet logged and saved."""
        self._boundary = State()
        """The state after the last step or Begin: what a checkpoint of the present weights names."""
        self._parts_per_step = 1
        """Records that carried the member's largest gradient."""
        self._is_open = False
        self._catches_up = False
        """What is read is in the past: who was expected then is no news."""
        self._opened_at = ""
        self.group = State()
        """What the log amounts to, as far as it was folded."""
        self.announced: dict[str, Announcement] = {}
        """What each edge can do, as far as it has been read since the start."""

    @property
    def address(self) -> GroupAddress:
        """Who this member is, and the group's topics."""
        return self._log.address

    @property
    def state(self) -> TrainState:
        """The training state after the last step."""
        return self._member.state

    @property
    def begin(self) -> Begin:
        """The running epoch's Begin."""
        assert self.group.begin is not None, "an epoch runs"
        return self.group.begin

    @property
    def running(self) -> int:
        """The epoch that the group has begun last; -1 before the first."""
        return -1 if self.group.begin is None else self.group.begin.epoch

    @property
    def is_useless(self) -> bool:
        """Whether the running epoch had nothing to train on so far; not of one that this member has ended."""
        return self.running == self.state.position.epoch and group_step.is_useless(self.state, self.group)

    @property
    def last_closed(self) -> Closed | None:
        """The last step, without its mean; None before the first one, and after continuing from another state."""
        return self._member.last

    # following the log

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Read on from where the weights stand. Waits for the log.

        Raises RecoveryNeeded when records are gone that were not folded yet, here or at any time inside the block.
        """
        try:
            self._opened_at = self.state.exchange
            start = self._saved_group()
            async with self._log.open(start.next_offset):
                self.group = self._boundary = start
                self._is_open = True
                try:
                    yield
                finally:
                    self._store_position()
                    self._is_open = self._catches_up = False
        except LogGap as gap:
            logger().error(
                "exchange.log_lost",
                topic=self.address.reads,
                wanted_offset=gap.expected,
                first_offset=gap.found,
            )
            raise RecoveryNeeded(Reason.LOG_LOST) from gap

    async def catch_up(self) -> None:
        """Apply the steps that the group has made meanwhile, up to the log's present end. Raises as `poll`."""
        loop, state = asyncio.get_running_loop(), self.state
        first, step = self.group.next_offset, state.position.step
        begun_at = loop.time()
        self._catches_up = True
        with self._liveness.waiting():
            reading = self._log.read_to_end()
            async with contextlib.aclosing(reading):
                async for records in reading:
                    await self._take(records)
                    self._liveness.count()
                    await self._settle()
        self._catches_up = False
        if state.position.step > step:
            logger().info(
                "exchange.caught_up",
                epoch=state.position.epoch,
                step=state.position.step,
                steps=state.position.step - step,
                first_offset=first,
                next_offset=self.group.next_offset,
                seconds=round(loop.time() - begun_at, 3),
            )

    async def poll(self, timeout_s: float) -> None:
        """Apply the records that come within `timeout_s`. Raises LogGap, and RecoveryNeeded for wrong weights."""
        if records := await self._log.poll(timeout_s):
            await self._take(records)
            self._liveness.count()
            await self._settle()

    async def drain(self) -> None:
        """Apply the records that are here already; when far behind, all that are in the log. Raises as `poll`."""
        while (lag := self._log.lag) > 0:
            is_far_behind = lag > _MAX_LAG_STEPS * len(self.address.edges) * self._parts_per_step
            if not (records := await self._log.poll(POLL_S if is_far_behind else 0.0)):
                break
            await self._take(records)
            self._liveness.count()
        await self._settle()

    async def _take(self, records: Sequence[Record]) -> None:
        await run_in_worker(self._fold_all, records, asyncio.get_running_loop().time())

    def _fold_all(self, records: Sequence[Record], now: float) -> None:
        """Runs in a worker thread. When it raises, the record that it raises for counts as not read."""
        for record in records:
            group = self.group.skip_to(record.offset)
            self._traffic.num_bytes += len(record.value)
            if (edge := formats.author(record.value)) in self._rules.edges:
                self.announced[edge] = formats.announced(record.headers)
            group, actions = gradient_log.fold_blob(self._fold, self._rules, group, record.value, record.offset)
            for action in actions:
                self._log_action(action, record.offset, now)
                self._apply(group, action)
            if not self._catches_up:
                _log_changes(self.group, group)
            self.group = group
            if group.is_between_steps:
                self._boundary = group

    def _apply(self, group: State, action: Action) -> None:
        if isinstance(action, Begun):
            self._member.check_weights(action.begin.weights, action.begin.edge)
            if action.begin.epoch > self.state.position.epoch:
                self._end_epoch(group, action.tested)
        self._member.apply(group, action)
        self._traffic.count(action)

    def _end_epoch(self, group: State, sums: HeldOutSums) -> None:
        counts = not self.is_useless
        self._ended.append(self._member.end_epoch(group, sums, self._traffic, counts=counts))
        self._traffic = Traffic()

    def _log_action(self, action: Action, offset: int, now: float) -> None:
        match action:
            case Rejected(edge, reason):
                if (suppressed := self._throttle.pass_on(("rejected", edge), now)) is not None:
                    who = {"edge": edge} if edge else {}
                    logger().warning(
                        "exchange.rejected",
                        **who,
                        topic=self.address.reads,
                        offset=offset,
                        reason=reason,
                        suppressed=suppressed,
                    )
            case Late(edge, step):
                if (suppressed := self._throttle.pass_on(("late", edge), now)) is not None:
                    logger().info(
                        "exchange.late", edge=edge, step=step, present_step=self.group.step, suppressed=suppressed
                    )
            case _:
                pass

    async def _settle(self) -> None:
        """Log, save and deploy the epochs that ended; of several only the last is saved."""
        if not self._ended:
            return
        ended, self._ended = self._ended, []
        for each in ended:
            each.log()
        await self.save()
        if any(each.counts for each in ended):
            await self._checkpointing.deploy(self.state, self._member.tested.calibration)
        if ended[-1].announcer == self.address.edge and not self._catches_up:
            await self._publisher.announce(self.state)

    # writing to the log

    async def join(self) -> None:
        """Take part from now on, with the weights after the last step folded."""
        weights = await run_in_worker(param_vector.digest, self.state.params)
        await self._append(Join(self.address.edge, self._rules.job, self.group.step, weights))
        logger().info(
            "exchange.joined",
            epoch=self.state.position.epoch,
            step=self.group.step,
            offset=self.group.next_offset,
            members=sorted(edge for edge, member in self.group.members.items() if member.joined),
        )

    async def leave(self) -> None:
        """Take no part any more."""
        await self._append(Leave(self.address.edge))
        position = self.state.position
        logger().info("exchange.left", epoch=position.epoch, step=position.step)

    async def propose(self, begin: Begin) -> None:
        """Propose that the epoch begins."""
        await self._append(begin)

    async def contribute(self, pending: PendingGradient, samples_per_s: float) -> None:
        """Send the member's contribution to the present step; what became of it shows when the step is closed.

        Cancelled: all of its parts, some, or none are in the log.
        """
        self._member.pending = pending
        parts = pending.parts(self.address.edge, samples_per_s)
        self._parts_per_step = max(self._parts_per_step, len(parts))
        await self._append(*parts)

    async def close(self, step: int) -> None:
        """Ask the group to close the step without the contributions that are missing."""
        await self._append(Close(step, self.address.edge))

    async def report_test(self, epoch: int, tested: Evaluation) -> None:
        """Send the result of this member's part of the epoch's test."""
        self._member.tested = tested
        weights = await run_in_worker(param_vector.digest, self.state.params)
        sums = tested.num_samples, tested.num_correct, tested.loss
        await self._append(Tested(self.address.edge, epoch, *sums, weights))

    def forget_test(self) -> None:
        """Drop the result of the last epoch's test: another epoch begins."""
        self._member.tested = NOTHING

    async def _append(self, *records: GroupRecord) -> None:
        num_bytes = await self._log.append(records, self.group.begin)
        self._traffic.num_bytes += num_bytes

    # the epoch's sums

    def count_computed(self, seconds: float) -> None:
        """Record that this member computed a contribution."""
        self._traffic.step_s += seconds
        self._traffic.computed += 1

    def count_waited(self, seconds: float) -> None:
        """Record that this member waited for the group."""
        self._traffic.waited_s += seconds

    # weights and log position as one

    def restore(self, state: TrainState) -> None:
        """Start from this member's own state."""
        self._member.state = state

    async def save(self) -> None:
        """Make weights and log position durable."""
        self._store_position()
        await self._checkpointing.save(self.state)

    async def end_last(self) -> None:
        """End the last epoch, after which none begins. Raises RecoveryNeeded for wrong weights."""
        group = self.group
        if group.weights_by_edge:
            await run_in_worker(lambda: self._member.check_weights(group.weights, group.in_sync[0]))
        self._end_epoch(group, group.held_out_sums)
        await self._settle()

    async def give_up(self) -> None:
        """Training has diverged too often: save and deploy the weights that the group went back to."""
        self._member.log_diverged(continues=False)
        await self.save()
        await self._checkpointing.deploy(self.state)

    async def start_from_group(self) -> None:
        """Continue from the group's newest checkpoint, if there is one."""
        with self._liveness.waiting():
            checkpoint = await self._recovery.newest(self.state)
        if checkpoint is not None:
            await self._take_over(checkpoint)

    async def check_start(self, *, is_proposing: bool = False) -> None:
        """See `Recovery.check_start`, for the state that the log was opened with."""
        with self._liveness.waiting():
            await self._recovery.check_start(self.state, self._opened_at, is_proposing=is_proposing)

    async def resume(self, need: RecoveryNeeded) -> None:
        """Continue from another checkpoint; waits until there is one. Call it outside `open()`."""
        if need.checkpoint is not None:
            await self._take_over(need.checkpoint)
            return
        self._health.degraded("exchange", f"{need}; waiting for a member's checkpoint")
        with self._liveness.waiting():
            checkpoint = await self._recovery.resume_from(need, self.state)
        await self._take_over(checkpoint)
        self._health.recovered("exchange")

    async def _take_over(self, checkpoint: TrainState) -> None:
        """Continue from another member's state, at the log position that it names.

        It is made durable and, if an epoch has ended, deployed at once, for it may be the last epoch's.
        """
        own, adopted = self.state.position, checkpoint.position
        offset = state_json.from_json(checkpoint.exchange).next_offset
        logger().info("exchange.adopted", generation=checkpoint.generation, epoch=adopted.epoch, offset=offset)
        if adopted.step < own.step:
            steps = own.step - adopted.step
            logger().warning("exchange.set_back", step=own.step, adopted_step=adopted.step, steps=steps)
        self._member.take_over(checkpoint)
        self._traffic = Traffic()
        await self.save()
        if adopted.epoch:
            await self._checkpointing.deploy(checkpoint)

    def _store_position(self) -> None:
        """Write the log position into the training state: while the log is read, it lags behind the weights."""
        if self._is_open:
            self.state.exchange = state_json.to_json(self._boundary)

    def _saved_group(self) -> State:
        """The fold's state that belongs to the weights. Raises LogGap when it cannot be read."""
        text = self.state.exchange
        if not text:
            return State()
        try:
            return state_json.from_json(text)
        except FormatError as error:
            raise LogGap(0, 0) from error


def _log_changes(before: State, after: State) -> None:
    for edge, reason in membership.changes(before, after):
        epoch = after.begin.epoch if after.begin is not None else -1
        if not reason:
            logger().info("exchange.awaited", edge=edge, epoch=epoch, step=after.step)
        else:
            log = logger().warning if reason == membership.SILENT else logger().info
            log("exchange.absent", edge=edge, epoch=epoch, step=after.step, reason=reason)
