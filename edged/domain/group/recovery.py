"""How members that lost their log agree on one member's checkpoint to resume from.

A recovery offer is a published checkpoint that names its proposer and a position in the log. It is accepted once its
proposer has joined with it after that position, before any record of an epoch; of several, the one whose proposer
joined first. So all who read the log accept the same one, whenever they look, and later offers change nothing.
Covers this rule, and when a member offers and when it joins. Reads no log and knows no clock.
See also: `services.group.checkpoints.publisher` for how an offer is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edged.domain.group.records import Begin, Join, Part, Record, Update


def can_resume(position: int, low: int, high: int) -> bool:
    """Whether a log that holds the offsets from `low` on and before `high` can be folded on from `position`.

    Not where all that there was is deleted: then others have lost what may be missing here.
    """
    return low <= position <= high and not low == high > 0


@dataclass(frozen=True, slots=True)
class RecoveryOffer:
    """The state of `proposer` behind `step` updates, to go on from at `position`, an offset of the group's log."""

    proposer: str
    position: int
    step: int

    @property
    def join(self) -> tuple[str, int]:
        """Edge and steps of the Join that takes it."""
        return self.proposer, self.step


class LogPrefix:
    """What a log holds from an offset on, up to the first record of an epoch.

    `at` 0 is where the log was made: gradients before its first Join are of members that have lost one of the same
    name and have not found out yet.
    """

    def __init__(self, at: int) -> None:
        self._is_made_here = at == 0
        self.joins: dict[tuple[str, int], int] = {}
        """Offset of each edge's first Join with so many steps."""
        self.is_over = False
        """Whether something of an epoch was there: nothing later changes anything."""

    def take(self, record: Record, offset: int) -> None:
        """The next record."""
        if self.is_over:
            return
        if isinstance(record, Join):
            self.joins.setdefault((record.edge, record.step), offset)
        elif isinstance(record, Begin | Part | Update) and (self.joins or not self._is_made_here):
            self.is_over = True


def accepted(offers: Mapping[RecoveryOffer, LogPrefix], joining: Sequence[Join] = ()) -> RecoveryOffer | None:
    """The offer that all go on from; None while there is none. By each: the log from its position on.

    `joining`: what comes next, in this order, as far as the log is known. A proposer that joins with other steps than
    it offered has not what it offered any more.
    """
    joined = {offer: opening.joins[offer.join] for offer, opening in offers.items() if offer.join in opening.joins}
    if joined:
        return min(joined, key=joined.__getitem__)
    open_offers = {offer.join: offer for offer, opening in offers.items() if not opening.is_over}
    joins = ((join.edge, join.step) for join in joining)
    return next((open_offers[join] for join in joins if join in open_offers), None)


class Candidate:
    """One member's decisions while there is no state to go on from. `now`, `since`: of one clock, in seconds.

    It offers its own after `offer_s`, sooner where an older one is offered, never while one as new is; and joins by it
    `join_s` later, if it is still the newest. An offer whose proposer has not joined long after that is passed over.
    `turn_s`: what it lets others have before itself, for two that write at once would tear each other's.
    """

    def __init__(self, edge: str, *, since: float, offer_s: float, join_s: float, turn_s: float) -> None:
        self._edge = edge
        self._since = since
        self._offer_s = offer_s
        self._join_s = join_s
        self._turn_s = turn_s
        self._timeout_s = 2 * (offer_s + join_s)
        self._offered_at: float | None = None
        self._seen_at: dict[RecoveryOffer, float] = {}

    def offered(self, now: float) -> None:
        """The member's offer is there to be read."""
        self._offered_at = now

    def decide(self, step: int, offers: Sequence[RecoveryOffer], now: float) -> Literal["wait", "offer", "join"]:
        """What to do now. `step`: of the newest state that the member has. `offers`: those that can be taken now."""
        for offer in offers:
            self._seen_at.setdefault(offer, now)
        rivals = self._rivals(offers, now)
        if own := [offer for offer in offers if offer.proposer == self._edge]:
            return self._with_own(own[0], step, rivals, now)
        if self._offered_at is not None:  # another one was written over it
            self._since, self._offered_at = now, None
        if any(offer.step >= step for offer in rivals):
            return "wait"
        waited_s = max([now - self._since - self._offer_s, *(now - self._seen_at[offer] for offer in rivals)])
        return "offer" if waited_s >= self._turn_s else "wait"

    def _with_own(
        self, own: RecoveryOffer, step: int, rivals: Sequence[RecoveryOffer], now: float
    ) -> Literal["wait", "offer", "join"]:
        if any(offer.step > own.step for offer in rivals):
            return "wait"
        if self._offered_at is None or step > own.step:
            return "offer"  # an earlier process's, or older than what somebody offered who died
        if now - self._offered_at < self._join_s:
            return "wait"
        self._offered_at = now
        return "join"

    def _rivals(self, offers: Sequence[RecoveryOffer], now: float) -> list[RecoveryOffer]:
        return [
            offer for offer in offers if offer.proposer != self._edge and now - self._seen_at[offer] < self._timeout_s
        ]
