"""Which checkpoint a member resumes from when it cannot continue from its own state.

Covers the reasons for that, waiting for what other members publish, and offering its own state where no member can
publish one. See also: `domain.group.recovery` for when to offer, and which of several offers is accepted.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from enum import Enum

from edged.aio import run_in_worker
from edged.domain.group.records import Join
from edged.domain.group.recovery import Candidate
from edged.domain.nn import param_vector
from edged.domain.training.state import TrainState
from edged.errors import EdgedError
from edged.ports import Log
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.checkpoints.reader import CheckpointReader, GroupTopics, read_checkpoints
from edged.services.group.log.deadline import FIRST_DEADLINE_S
from edged.services.group.log.group_log import GroupLog

_OFFER_SHARE = 0.5
"""Of the first deadline: how long a member waits for a checkpoint before it offers its own. Less than a first epoch
waits for its members."""

_TURN_S = 5.0


class Reason(Enum):
    """Why a member cannot continue from its own state."""

    LOG_LOST = "the group's log does not reach back"
    WRONG_WEIGHTS = "the weights differ from the group's"
    UNDECIDED = "where the group resumes is not decided yet"
    """This member is at the beginning, and others that lost their log are about to agree on a state."""

    SUPERSEDED = "the group resumes from a published checkpoint"
    """This member is at the beginning, and others that lost their log have agreed on a state."""


class RecoveryNeeded(EdgedError):  # noqa: N818 - named for what is to be done
    """The member has to resume from another state than its own.

    `min_step`: the checkpoint must be of this step or later. `checkpoint`: the one to resume from, if it is known.
    """

    def __init__(self, reason: Reason, *, min_step: int = 0, checkpoint: TrainState | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.min_step = min_step
        self.checkpoint = checkpoint


class Recovery:
    """Finds the checkpoint that one member resumes from. Used by one task."""

    def __init__(
        self,
        log: Log,
        topics: GroupTopics,
        group_log: GroupLog,
        publisher: CheckpointPublisher,
        first_deadline_s: float = FIRST_DEADLINE_S,
    ) -> None:
        self._log = log
        self._topics = topics
        self._group_log = group_log
        self._publisher = publisher
        self._first_deadline_s = first_deadline_s

    async def newest(self, own: TrainState) -> TrainState | None:
        """The newest checkpoint from which the log can be folded on now, if there is one."""
        async with self._read(own) as checkpoints:
            return await checkpoints.best()

    async def check_start(self, own: TrainState, opened_at: str, *, is_proposing: bool) -> None:
        """Check that the group begins at its beginning. `opened_at`: the log position that `own` was opened with.

        Raises RecoveryNeeded if the group resumes from a checkpoint at another position; before this member proposes
        the first epoch, also if all may resume from an offer. Its proposer may be dead: a member that waits for it
        without a state of its own also offers one in time.
        """
        async with self._read(own) as checkpoints:
            newest = await checkpoints.best()
            if newest is not None and newest.exchange != opened_at:
                raise RecoveryNeeded(Reason.SUPERSEDED, checkpoint=newest)
            if is_proposing and (await checkpoints.offers()).pending:
                raise RecoveryNeeded(Reason.UNDECIDED)

    async def resume_from(self, need: RecoveryNeeded, own: TrainState) -> TrainState:
        """The checkpoint to resume from. Waits for both logs, and until there is one. Cancel-safe."""
        since = asyncio.get_running_loop().time()
        async with self._read(own) as checkpoints:
            if need.reason is not Reason.WRONG_WEIGHTS:
                return await self._agree(checkpoints, own, since)
            while (newest := await checkpoints.best(need.min_step)) is None:
                await checkpoints.read_on()
            return newest

    async def _agree(self, checkpoints: CheckpointReader, own: TrainState, since: float) -> TrainState:
        """A published checkpoint, or the newest state among the members that wait like this one."""
        loop, address = asyncio.get_running_loop(), self._group_log.address
        turn_s = _TURN_S * address.edges.index(address.edge)
        join_s = self._first_deadline_s  # how long others have to offer a newer state
        candidate = Candidate(address.edge, since=since, offer_s=_OFFER_SHARE * join_s, join_s=join_s, turn_s=turn_s)
        offered = own
        while True:
            await checkpoints.read_on()
            if (best := await checkpoints.best()) is not None:
                return best
            newest, offers = await checkpoints.newer(own), await checkpoints.offers()
            accepted = offers.accepted
            if accepted is not None and accepted.proposer == address.edge:  # overwritten after it was accepted
                same = [state for state in (offered, newest) if state.position.step == accepted.step]
                if same:
                    await self._publisher.offer(same[0], address.edge, accepted.position)
                    continue
            match candidate.decide(newest.position.step, offers.pending, loop.time()):
                case "offer" if (offset := await checkpoints.offset_to_restart()) is not None:
                    await self._publisher.offer(newest, address.edge, offset)
                    offered = newest
                    candidate.offered(loop.time())
                case "join":
                    await self._join_with(offered)
                case _:
                    pass

    async def _join_with(self, state: TrainState) -> None:
        weights = await run_in_worker(param_vector.digest, state.params)
        edge = self._group_log.address.edge
        await self._group_log.append([Join(edge, self._topics.job, state.position.step, weights)])

    def _read(self, own: TrainState) -> AbstractAsyncContextManager[CheckpointReader]:
        return read_checkpoints(self._log, self._topics, param_vector.size(own.params), like=own)
