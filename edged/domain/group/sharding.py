"""How a group shards its training data: owners of blocks, turns of draws, and the member that trains on each sample.

Covers ownership of blocks, shares of the global batch and the assignment of its samples. All members get the same
results from the same arguments. See also: `plan` for an epoch's order.
"""

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

import numpy as np

from edged.domain.archive.block_hash import block_keys
from edged.domain.archive.snapshot import Ids, Snapshot

TURNS = 4096
"""Period of the members' turns, in draws: a share is a multiple of 1/4096."""

MIN_SHARE = 0.02
"""Lower bound of a share, however slow the member: otherwise its speed could not be measured any more. With many
members, half an equal share."""

DEAD_BAND = 0.05
"""Relative change below which shares stay as they are. Measured speeds vary by that much without a cause."""

_SMOOTHING = 0.5


def owners(snapshot: Snapshot, budgets: Mapping[str, float]) -> Ids:
    """Each block's owner: int64 [blocks], indices into the sorted names of `budgets`, the bytes of each one's cache.

    In proportion to the budgets, evenly if all are 0. By weighted rendezvous hashing (Schindelhauer and Schomaker
    2005): when a member joins or leaves, or its budget changes, only blocks that become or were its own change owner.
    """
    even = not any(budgets.values())
    best, owner = np.full(snapshot.num_blocks, -1.0), np.zeros(snapshot.num_blocks, np.int64)
    for index, name in enumerate(sorted(budgets)):
        uniform = ((block_keys(snapshot, name) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        score = -(1.0 if even else budgets[name]) / np.log(uniform)
        is_better = score > best
        best[is_better], owner[is_better] = score[is_better], index
    return owner


def next_shares(samples_per_s: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """The members' shares of the next epoch's global batches: multiples of 1/4096 that sum to exactly 1.

    `samples_per_s`: of each next member; 0 while not measured, which counts as the others' average. `before`: the
    previous epoch's shares, empty for the first. One half of a share follows the current speed, the other half keeps
    the previous proportion among the members that were there. None is below MIN_SHARE, to a 4096th. If the same members
    would get nearly the same shares, they keep theirs: samples that move between members are not in the caches.
    """
    names = sorted(samples_per_s)
    speeds = [speed for speed in samples_per_s.values() if speed > 0]
    average = sum(speeds) / len(speeds) if speeds else 1.0
    wanted = {name: samples_per_s[name] if samples_per_s[name] > 0 else average for name in names}
    stayed = [name for name in names if before.get(name, 0) > 0]
    scale = sum(wanted[name] for name in stayed) / sum(before[name] for name in stayed) if stayed else 0.0
    for name in stayed:
        wanted[name] += _SMOOTHING * (before[name] * scale - wanted[name])
    parts = _rounded(_lifted([wanted[name] for name in names]))
    shares = {name: part / TURNS for name, part in zip(names, parts, strict=True)}
    is_steady = before.keys() == shares.keys() and all(
        abs(shares[name] - before[name]) <= DEAD_BAND * before[name] for name in names
    )
    return dict(before) if is_steady else shares


class Turns:
    """Whose turn each draw of an epoch is, by `shares` that sum to 1. Members are indices into the sorted `names`.

    After any number of draws each member has had its share of them, rounded up or down (the quota method of Balinski
    and Young 1975). Shares are rounded to multiples of 1/4096, none to 0.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        self.names = tuple(sorted(shares))
        self.parts = tuple(_rounded([shares[name] for name in self.names]))
        """Each member's turns among 4096 draws."""
        self._cycle = _cycle(self.parts)

    def index(self, name: str) -> int | None:
        """The member's index in `names`; None if it has no share."""
        return self.names.index(name) if name in self.names else None

    def of(self, first: int, stop: int) -> Ids:
        """The members whose turns the draws `first` to `stop` - 1 are: int64 [stop - first]."""
        members: Ids = self._cycle[np.arange(first, stop) % TURNS]
        return members

    def num_before(self, draw: int, member: int) -> int:
        """The number of turns that `member` has before `draw`."""
        cycles, rest = divmod(draw, TURNS)
        return cycles * self.parts[member] + int((self._cycle[:rest] == member).sum())


def assigned(owner: Ids, turn: Ids, batch: Ids) -> Ids:
    """The member that trains on each of n samples: int64 [n].

    `owner`, `turn`: int64 [n], the member that owns each sample, and whose turn it is; `batch`: int64 [n], never
    falling, from 0 on. In each batch a member gets as many samples as it has turns: its own first, in order; the rest
    goes, in order, to the members with turns left.
    """
    num_members = int(max(owner.max(initial=0), turn.max(initial=0))) + 1
    own = batch * num_members + owner
    num_cells = (int(batch.max(initial=0)) + 1) * num_members
    turns = np.bincount(batch * num_members + turn, minlength=num_cells)
    owned = np.bincount(own, minlength=num_cells)
    by_cell = np.argsort(own, kind="stable")
    rank = np.empty(len(own), np.int64)
    rank[by_cell] = np.arange(len(own)) - np.repeat(np.cumsum(owned) - owned, owned)
    member = owner.copy()
    member[rank >= turns[own]] = np.repeat(np.arange(num_cells), turns - np.minimum(turns, owned)) % num_members
    return member


def _lifted(wanted: Sequence[float]) -> list[float]:
    """`wanted`, scaled to sum to 1, none below the minimum share."""
    minimum = min(MIN_SHARE, 0.5 / len(wanted))
    is_low = [False] * len(wanted)
    while True:
        total = sum(each for each, low in zip(wanted, is_low, strict=True) if not low)
        scale = (1 - minimum * sum(is_low)) / total
        now = [low or each * scale < minimum for each, low in zip(wanted, is_low, strict=True)]
        if now == is_low:
            return [minimum if low else each * scale for each, low in zip(wanted, is_low, strict=True)]
        is_low = now


def _rounded(shares: Sequence[float]) -> list[int]:
    """The shares as parts of TURNS, by largest remainders, each at minimum 1."""
    total = sum(shares)
    exact = [share / total * TURNS for share in shares]
    parts = [max(int(part), 1) for part in exact]
    while (missing := TURNS - sum(parts)) > 0:
        gaps = [part - whole for part, whole in zip(exact, parts, strict=True)]
        parts[gaps.index(max(gaps))] += 1
    parts[parts.index(max(parts))] += missing
    return parts


def _cycle(parts: Sequence[int]) -> Ids:
    """Whose turn each of TURNS draws is: int64 [TURNS].

    Turn i of a member with a part p is due from draw i·TURNS/p on and before (i+1)·TURNS/p; the earliest deadline comes
    first. In integers, so that the result is the same everywhere.
    """
    num_taken = [0] * len(parts)
    waiting = [(0, member) for member in range(len(parts))]  # a heap of (due from, member)
    due: list[tuple[int, int]] = []  # a heap of (due before, member)
    turns = np.empty(TURNS, np.int64)
    for draw in range(TURNS):
        while waiting and waiting[0][0] <= draw:
            _, member = heappop(waiting)
            heappush(due, (-(-(num_taken[member] + 1) * TURNS // parts[member]), member))
        _, member = heappop(due)
        turns[draw] = member
        num_taken[member] += 1
        heappush(waiting, (num_taken[member] * TURNS // parts[member], member))
    return turns
