"""How a member that has lost its place in the group's log comes to a state to go on from.

Covers waiting for what others announce, and offering its own state where nobody can. When, and which of several offers
counts, is domain.founding's subject.
"""

import asyncio
from collections.abc import Awaitable, Callable

from edged.domain.group.recovery import Candidate
from edged.domain.training.state import TrainState
from edged.services.group.checkpoints.publisher import CheckpointPublisher
from edged.services.group.log.deadline import FIRST_DEADLINE_S
from edged.services.group.log.group_log import GroupAddress

OFFER_S = FIRST_DEADLINE_S / 2
"""So long a member waits for an announcement: less than a group that begins with its first epoch does for members."""

JOIN_S = FIRST_DEADLINE_S
"""So long others have to offer what is newer."""

_TURN_S = 5.0


async def refound(
    announcements: CheckpointPublisher,
    address: GroupAddress,
    own: TrainState,
    join: Callable[[TrainState], Awaitable[None]],
) -> TrainState:
    """The state that all go on from: an announced one, or the newest that one of those has who wait like this member.

    `join`: tells the log that the member joins with this state. Waits for both logs. Cancel-safe.
    """
    loop = asyncio.get_running_loop()
    turn_s = _TURN_S * address.edges.index(address.edge)
    candidacy = Candidate(address.edge, since=loop.time(), offer_s=OFFER_S, join_s=JOIN_S, turn_s=turn_s)
    offered = own
    async with announcements.follow(own) as announced:
        while True:
            await announced.read_on()
            if (found := await announced.best()) is not None:
                return found
            newest, taken = await announced.newer(own), await announced.taken()
            if taken is not None and taken.proposer == address.edge:  # somebody wrote over it too late
                again = [state for state in (offered, newest) if state.position.step == taken.step]
                if again:
                    await announcements.offer(again[0], address.edge, taken.position)
                    continue
            match candidacy.decide(newest.position.step, await announced.offers(), loop.time()):
                case "offer" if (place := await announced.place_to_found()) is not None:
                    await announcements.offer(newest, address.edge, place)
                    offered = newest
                    candidacy.offered(loop.time())
                case "join":
                    await join(offered)
                case _:
                    pass
