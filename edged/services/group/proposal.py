"""When a member proposes the group's next epoch, and what it proposes.

Any member may: the first Begin in the log counts, and a second one changes nothing (`domain.group.gradient_log`).
"""

from collections.abc import Mapping

from edged.aio import run_in_worker
from edged.domain.archive.snapshot import Snapshot, without_floors
from edged.domain.group import formats, plan, sharding
from edged.domain.group.formats import Announcement
from edged.domain.group.records import WITH_FLOORS, Begin
from edged.domain.group.state import State
from edged.domain.nn import param_vector
from edged.domain.topology import Training
from edged.domain.training.state import Params
from edged.services.group.log.deadline import FIRST_DEADLINE_S
from edged.services.group.log.group_log import GroupAddress

_TURN_S = 2.0
"""Head start of the first candidate over the other members."""

_MIN_TEST_S = 5.0
"""Minimum to wait for the other members' tests."""

_TEST_FACTOR = 3.0
"""Multiple of the duration of a member's own test to wait for the others'."""


class Turn:
    """One member's decisions between two epochs. `now`, `since`, `joined_at`: of one clock, in seconds.

    `since`: when this member finished its part of the last epoch, whose test took it `test_s`.
    """

    def __init__(
        self,
        address: GroupAddress,
        *,
        since: float,
        joined_at: float,
        test_s: float,
        first_deadline_s: float = FIRST_DEADLINE_S,
    ) -> None:
        self._edge = address.edge
        self._edges = address.edges
        self._since = since
        self._joined_at = joined_at
        self._test_s = test_s
        self._first_deadline_s = first_deadline_s
        self._ready_at: float | None = None
        self._proposed_at: float | None = None

    def is_ready(self, group: State, now: float) -> bool:
        """Whether the next epoch may begin: all have tested or joined, or the wait for them is over. Stays true."""
        if self._ready_at is None and self._is_ready(group, now):
            self._ready_at = now
        return self._ready_at is not None

    def should_propose(self, group: State, now: float) -> bool:
        """Whether to propose now: the first candidate at once, the others later; again after a while without effect."""
        if self._ready_at is None:
            return False
        if self._proposed_at is None:
            return _first(group) == self._edge or now - self._ready_at >= _TURN_S
        if now - self._proposed_at >= self._first_deadline_s:
            self._proposed_at = None
        return False

    def proposed(self, now: float) -> None:
        """Record that the member has proposed."""
        self._proposed_at = now

    def _is_ready(self, group: State, now: float) -> bool:
        if group.begin is None:
            joined = {edge for edge, member in group.members.items() if member.joined}
            return self._edge in joined and (
                joined >= set(self._edges) or now - self._joined_at >= self._first_deadline_s
            )
        if now - self._since >= max(_TEST_FACTOR * self._test_s, _MIN_TEST_S):
            return True
        return all(edge in group.tested for edge in group.expected)


def _first(group: State) -> str:
    """The first candidate with the group's weights, for no other edge's Begin counts; empty when there is none."""
    return next((edge for edge in group.eligible if edge in group.in_sync), "")


def shares(state: State) -> dict[str, float]:
    """Each member's share of the next epoch's global batches, if the epoch began now."""
    speeds = {edge: state.members[edge].samples_per_s for edge in state.eligible}
    return sharding.next_shares(speeds, {} if state.begin is None else state.begin.members)


async def proposal(
    group: State,
    edge: str,
    snapshot: Snapshot,
    training: Training,
    epoch: int,
    params: Params,
    announced: Mapping[str, Announcement],
) -> Begin | None:
    """The epoch over this snapshot as `edge` may propose it; None when it is no candidate. `params`: its weights.

    `announced`: what each edge can do.

    None also when they are not the group's: another member has to propose, and this one learns from that Begin where to
    resume.
    """
    if edge not in group.eligible:
        return None
    weights = await run_in_worker(param_vector.digest, params)
    if group.weights_by_edge and weights != group.weights:
        return None
    batches = await run_in_worker(plan.num_steps, snapshot, training.test_fraction, training.global_batch)
    steps = -(-batches // training.exchange.sync_every)
    members = shares(group)
    can = formats.agreed(announced, members)
    ends = snapshot.ends if can.format >= WITH_FLOORS else without_floors(snapshot.ends)
    return Begin(epoch, members, dict(ends), steps, weights, edge, *can)
