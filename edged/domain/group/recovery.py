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
    """Whether a log that holds the offsets `low` to `high` - 1 can be folded from `position` on.

    False for a log whose records were all deleted: other members may have lost some that this one has folded.
    """
    return low <= position <= high and not low == high > 0


@dataclass(frozen=True, slots=True)
class RecoveryOffer:
    """The state of `proposer` after `step` updates, to resume from at `position`, an offset of the group's log."""

    proposer: str
    position: int
    step: int

    @property
    def join(self) -> tuple[str, int]:
        """Edge and step of the Join that accepts it."""
        return self.proposer, self.step


class LogPrefix:
    """The records of a log from offset `position` on, up to the first record of an epoch.

    At position 0, where the log was created, gradients before its first Join come from members that have lost a log of
    the same name and have not noticed yet.
    """

    def __init__(self, position: int) -> None:
        self._starts_log = position == 0
        self.joins: dict[tuple[str, int], int] = {}
        """Offset of the first Join, by edge and step."""
        self.is_over = False
        """Whether a record of an epoch was found: later ones change nothing."""

    def take(self, record: Record, offset: int) -> None:
        """The next record."""
        if self.is_over:
            return
        if isinstance(record, Join):
            self.joins.setdefault((record.edge, record.step), offset)
        elif isinstance(record, Begin | Part | Update) and (self.joins or not self._starts_log):
            self.is_over = True


def accepted(offers: Mapping[RecoveryOffer, LogPrefix], joining: Sequence[Join] = ()) -> RecoveryOffer | None:
    """The offer that all resume from; None while there is none. `offers`: with the log from each one's position on.

    `joining`: Joins that will follow what is known of the log, in this order. A proposer that joins with another step
    than it offered no longer has what it offered.
    """
    joined = {offer: prefix.joins[offer.join] for offer, prefix in offers.items() if offer.join in prefix.joins}
    if joined:
        return min(joined, key=joined.__getitem__)
    open_offers = {offer.join: offer for offer, prefix in offers.items() if not prefix.is_over}
    joins = ((join.edge, join.step) for join in joining)
    return next((open_offers[join] for join in joins if join in open_offers), None)


class Candidate:
    """One member's decisions while there is no state to resume from. `now`, `since`: seconds of the same clock.

    It offers its own state after `offer_s`, earlier if an older one is offered, never while one at least as new is; and
    joins with it `join_s` later, if it is still the newest. An offer whose proposer has not joined after twice that
    time is ignored. `turn_s`: how long it lets others go first, because two writing at once would tear each other's
    offers.
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
        """The member's offer can be read by others."""
        self._offered_at = now

    def decide(self, step: int, offers: Sequence[RecoveryOffer], now: float) -> Literal["wait", "offer", "join"]:
        """What to do now. `step`: of the member's newest state. `offers`: those that can still be accepted."""
        for offer in offers:
            self._seen_at.setdefault(offer, now)
        rivals = self._rivals(offers, now)
        if own := [offer for offer in offers if offer.proposer == self._edge]:
            return self._with_own(own[0], step, rivals, now)
        if self._offered_at is not None:  # another offer overwrote it
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
            return "offer"  # its own is an earlier process's, or older than a dead proposer's
        if now - self._offered_at < self._join_s:
            return "wait"
        self._offered_at = now
        return "join"

    def _rivals(self, offers: Sequence[RecoveryOffer], now: float) -> list[RecoveryOffer]:
        return [
            offer for offer in offers if offer.proposer != self._edge and now - self._seen_at[offer] < self._timeout_s
        ]
