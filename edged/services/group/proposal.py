"""When a member proposes that the group's next epoch begins, and what it proposes.

Any member may: the log takes the first Begin, and what comes second changes nothing (domain.gradient_log).
"""

from edged.aio import run_in_worker
from edged.domain.archive.snapshot import Snapshot
from edged.domain.group import plan, sharding
from edged.domain.group.state import State
from edged.domain.nn import param_vector
from edged.domain.topology import Training
from edged.domain.training.state import Params
from edged.services.group.log.deadline import FIRST_DEADLINE_S
from edged.services.group.log.group_log import GroupAddress, GroupLog

_TURN_S = 2.0
"""A member whose turn it is not to begin an epoch lets the first one have this advantage."""

_MIN_TEST_S = 5.0
_TEST_FACTOR = 3.0


class Turn:
    """One member's decisions between two epochs. Knows no clock: `now`, `since`, `joined_at` are all of one.

    `since`: this member has done its part of the epoch before, whose test took it `test_s`.
    """

    def __init__(self, address: GroupAddress, *, since: float, joined_at: float, test_s: float) -> None:
        self._edge = address.edge
        self._edges = address.edges
        self._since = since
        self._joined_at = joined_at
        self._test_s = test_s
        self._ready_at: float | None = None
        self._proposed_at: float | None = None

    def is_ready(self, group: State, now: float) -> bool:
        """Whether nobody else need be waited for before the next epoch, or it took too long; so from then on."""
        if self._ready_at is None and self._is_ready(group, now):
            self._ready_at = now
        return self._ready_at is not None

    def should_propose(self, group: State, now: float) -> bool:
        """Whether the member is to say it now, or again: the first one at once, the others later."""
        if self._ready_at is None:
            return False
        if self._proposed_at is None:
            return _first(group) == self._edge or now - self._ready_at >= _TURN_S
        if now - self._proposed_at >= FIRST_DEADLINE_S:
            self._proposed_at = None
        return False

    def proposed(self, now: float) -> None:
        """It has said so."""
        self._proposed_at = now

    def _is_ready(self, group: State, now: float) -> bool:
        if group.begin is None:
            joined = {edge for edge, member in group.members.items() if member.joined}
            return self._edge in joined and (joined >= set(self._edges) or now - self._joined_at >= FIRST_DEADLINE_S)
        if now - self._since >= max(_TEST_FACTOR * self._test_s, _MIN_TEST_S):
            return True
        return all(edge in group.tested for edge in group.expected)


def _first(group: State) -> str:
    """Who begins the next epoch, if it is there: one who has the group's weights, for no other Begin counts."""
    return next((edge for edge in group.eligible if edge in group.in_sync), "")


def shares(state: State) -> dict[str, float]:
    """The next epoch's, as whoever begins it now must have them."""
    speeds = {edge: state.members[edge].samples_per_s for edge in state.eligible}
    return sharding.next_shares(speeds, {} if state.begin is None else state.begin.members)


async def propose(exchange: GroupLog, snapshot: Snapshot, training: Training, epoch: int, params: Params) -> bool:
    """Propose the epoch over this snapshot; False for who cannot be in it. `params`: the weights now.

    False, too, when they are not the group's: somebody else has to, and then this member learns what to go on with.
    """
    state = exchange.state
    if exchange.address.edge not in state.eligible:
        return False
    weights = await run_in_worker(param_vector.digest, params)
    if state.weights_by_edge and weights != state.weights:
        return False
    batches = await run_in_worker(plan.num_steps, snapshot, training.test_fraction, training.global_batch)
    steps = -(-batches // training.exchange.sync_every)
    await exchange.begin(epoch, shares(state), snapshot.ends, steps, weights)
    return True
