"""Who of a group trains on what: whose a block is, whose turn a draw is, and whose a sample becomes.

Covers ownership of blocks, shares of the global batch and the assignment of its samples. Knows no epoch's order: that
is `group_plan`'s subject. All here is the same on every member, given the same arguments.
"""

import hashlib
from collections.abc import Mapping
from heapq import heapify, heappop, heappush, heappushpop

import numpy as np
import numpy.typing as npt

from edged.domain.dataset import Snapshot
from edged.domain.sampling import Ids

TURNS = 4096
"""The turns of the members repeat after so many draws: a share is a multiple of 1/4096."""

LEAST_SHARE = 0.02
"""No member's share is smaller, however slow it is: it would not be measured any more. Half an equal one for many."""

_SMOOTHING = 0.5


def owners(snapshot: Snapshot, budgets: Mapping[str, float]) -> Ids:
    """Whose each block is: int64 [blocks], places in the sorted names of `budgets`, the bytes that each one's cache has.

    In proportion to the budgets, equal if all are 0. By weighted rendezvous hashing (Schindelhauer and Schomaker 2005):
    when a member comes or goes, only blocks change hands that become or were its own; likewise when a budget changes.
    """


def next_shares(samples_per_s: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """The members' shares of the next epoch's global batches: multiples of 1/4096, together exactly 1.

    `samples_per_s`: of each of the next members, 0 where not measured; then as fast as the others on average.
    `before`: the shares of the epoch before, empty at the first; half of a share is its part of that, half of the speed
    now. None is below LEAST_SHARE, or half an equal share where there are more than 25.
    """


class Turns:
    """Whose turn each draw of an epoch is, as `shares`, which sum to 1, say. Members are places in the sorted names.

    After any number of draws, each member had its share of them, rounded up or down (the quota method of Balinski and
    Young 1975). Shares are rounded to multiples of 1/4096, none to 0.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        self.names: tuple[str, ...] = tuple(sorted(shares))

    def of(self, first: int, stop: int) -> Ids:
        """Whose turns the draws `first` to `stop` - 1 are: int64 [stop - first]."""

    def num_before(self, draw: int, member: int) -> int:
        """How many turns `member` has before `draw`."""


def assigned(owner: Ids, turn: Ids, piece: Ids, num_members: int) -> Ids:
    """Who trains on each of n samples: int64 [n].

    `owner`, `turn`: int64 [n], whose it is and whose turn; `piece`: int64 [n], never falling: within a piece each
    member gets as many samples as it has turns, its own first, in order; the rest go to those with turns left.
    """
