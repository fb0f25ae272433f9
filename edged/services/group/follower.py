"""A member's weights on their way along the group's log: following it, and what is due when an epoch ended.

Covers weights and place as one: reading on, catching up, saving both, going over to another member's checkpoint. What
an action does to the weights is `member_state`'s subject, the log itself `exchange`'s, what a member adds to it
`group_train`'s and `member_steps`'.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from edged.aio import run_in_worker
from edged.domain.group import state_json
from edged.domain.group.records import Begin
from edged.domain.group.state import Action, Fold, Rules, State
from edged.domain.nn import param_vector
from edged.domain.training.state import TrainState
from edged.errors import FormatError, LogGap
from edged.log import logger
from edged.ports import Log
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.checkpoints.recovery import refound
from edged.services.group.liveness import Activity
from edged.services.group.log.group_log import GroupAddress, GroupLog, Traffic
from edged.services.group.member import Member
from edged.services.training.checkpointing import Checkpointing

POLL_S = 1.0
"""So long a member waits for the log at a time, while it has nothing else to do."""

_STEPS_BEHIND = 3
"""So many steps later it is of no use to compute the present one."""


class Follower:
    """Moves `member` on along the log. Used by one task; outside `open()` it saves, and goes over to another state.

    Weights and place in the log belong together whenever any of this is cancelled.
    """

    def __init__(
        self,
        log: Log,
        address: GroupAddress,
        rules: Rules,
        fold: Fold,
        member: Member,
        checkpointing: Checkpointing,
        announcements: CheckpointPublisher,
        activity: Activity,
    ) -> None:
        self.exchange = GroupLog(log, address, rules, fold, self._apply)
        self._address = address
        self._member = member
        self._checkpointing = checkpointing
        self._announcements = announcements
        self._activity = activity
        self._is_open = False
        self._opened_with = ""

    @property
    def begin(self) -> Begin:
        """The running epoch's."""
        begin = self.exchange.state.begin
        assert begin is not None, "an epoch runs"
        return begin

    @property
    def running(self) -> int:
        """The epoch that the group has begun last; -1 before the first."""
        begin = self.exchange.state.begin
        return -1 if begin is None else begin.epoch

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Read on where the weights stand. Waits for the log. Raises LogGap when it does not reach back so far."""
        self._opened_with = self._member.state.exchange
        async with self.exchange.open(self._place()):
            self._is_open = True
            try:
                yield
            finally:
                self._name_place()
                self._is_open = self.exchange.catches_up = False

    async def catch_up(self) -> None:
        """Make the steps that the group has made meanwhile, up to the log's present end."""
        loop, state = asyncio.get_running_loop(), self._member.state
        first, step = self.exchange.state.next_offset, state.position.step
        begun_at = loop.time()
        end = await self.exchange.end_offset()
        self.exchange.catches_up = True
        with self._activity.waiting():
            while self.exchange.position < end:  # where the last ones cannot be read, the fold's place stays in front
                await self.poll(POLL_S)
        self.exchange.catches_up = False
        if state.position.step > step:
            logger().info(
                "exchange.caught_up",
                epoch=state.position.epoch,
                step=state.position.step,
                steps=state.position.step - step,
                first_offset=first,
                next_offset=self.exchange.state.next_offset,
                seconds=round(loop.time() - begun_at, 3),
            )

    async def poll(self, timeout_s: float) -> None:
        """Take what comes within `timeout_s`. Raises LogGap, and OutOfStepError."""
        if await self.exchange.poll(timeout_s):
            self._activity.count()
            await self._settle()

    async def drain(self) -> None:
        """Take what is here already; when this member is far behind, all of it. Raises as `poll`."""
        exchange = self.exchange
        while (lag := exchange.lag) > 0:
            is_behind = lag > _STEPS_BEHIND * len(self._address.edges) * exchange.parts_per_step
            if not await exchange.poll(POLL_S if is_behind else 0.0):
                break
            self._activity.count()
        await self._settle()

    async def end_last(self) -> None:
        """End the last epoch: nothing begins behind it. Raises OutOfStepError."""
        group, traffic = self.exchange.state, self.exchange.traffic
        if group.weights_by_edge:
            await run_in_worker(lambda: self._member.check_weights(group.weights, group.in_sync[0]))
        self.exchange.traffic = self._member.end_epoch(group, group.held_out_sums, traffic)
        await self._settle()

    async def save(self) -> None:
        """Make weights and place durable."""
        self._name_place()
        await self._checkpointing.save(self._member.state)

    async def adopt(self, at_least: int) -> None:
        """Go on from a checkpoint of another member, made at step `at_least` or later; waits until there is one."""
        with self._activity.waiting():
            found = await self._announcements.wait(like=self._member.state, at_least=at_least)
        await self.take_over(found)

    async def refound(self) -> None:
        """Go on from another member's checkpoint, or have all go on from the newest that is left."""
        with self._activity.waiting():
            found = await refound(self._announcements, self._address, self._member.state, self._join_with)
        await self.take_over(found)

    async def take_over(self, found: TrainState) -> None:
        """Go on from another member's state, as it names its place.

        It is made durable and, if an epoch has ended, deployed at once, for it may be the last epoch's.
        """
        own, adopted = self._member.state.position, found.position
        offset = state_json.from_json(found.exchange).next_offset
        logger().info("exchange.adopted", generation=found.generation, epoch=adopted.epoch, offset=offset)
        if adopted.step < own.step:
            steps = own.step - adopted.step
            logger().warning("exchange.set_back", step=own.step, adopted_step=adopted.step, steps=steps)
        self._member.take_over(found)
        self.exchange.traffic = Traffic()
        await self.save()
        if adopted.epoch:
            await self._checkpointing.deploy(found)

    async def announced(self) -> TrainState | None:
        """The group's newest checkpoint to go on from now, if there is one."""
        with self._activity.waiting():
            return await self._announcements.newest(like=self._member.state)

    async def superseding(self) -> TrainState | None:
        """As `announced`, if that is not what this member began with."""
        found = await self.announced()
        return None if found is None or found.exchange == self._opened_with else found

    async def is_another_offered(self) -> bool:
        """Whether members that have lost another log of this name are about to agree on where all go on."""
        return await self._announcements.is_offered(like=self._member.state)

    async def _join_with(self, state: TrainState) -> None:
        await self.exchange.join(state.position.step, await run_in_worker(param_vector.digest, state.params))

    def _apply(self, group: State, action: Action) -> None:
        """Runs in a worker thread."""
        self.exchange.traffic = self._member.apply(group, action, self.exchange.traffic)

    def _name_place(self) -> None:
        """While the log is read, the weights move on without the state's naming the place."""
        if self._is_open:
            self._member.state.exchange = state_json.to_json(self.exchange.boundary)

    def _place(self) -> State:
        """Where in the log the weights stand. Raises LogGap when that cannot be read."""
        text = self._member.state.exchange
        if not text:
            return State()
        try:
            return state_json.from_json(text)
        except FormatError as error:
            raise LogGap(0, 0) from error

    async def _settle(self) -> None:
        """Say, save and deploy what epochs ended; of several only the last is saved."""
        member = self._member
        if not member.ended:
            return
        ended, member.ended = member.ended, []
        for each in ended:
            each.log()
        await self.save()
        await self._checkpointing.deploy(member.state, member.tested.calibration)
        if ended[-1].announcer == self._address.edge and not self.exchange.catches_up:
            await self._announcements.announce(member.state)
