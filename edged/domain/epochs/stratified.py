"""The stratified plan: a share of every mini-batch comes from the cache, and each sample still counts the same.

A cyclic scan goes through the blocks in one fixed random order, again and again, and fetches what it meets. All that is
fetched is cached, in place of the oldest entries; meanwhile the cached samples are drawn evenly, q/(1-q) times for each
one fetched. So the cache is a window that slides over the scan, every sample is fetched equally often and stays equally
long, and is drawn 1/(1-q) times per round of the scan: membership in the cache does not depend on the sample, all
weights are 1, and (1-q) of the data are fetched per epoch whatever the cache holds. This is data echoing (Choi et al.
2019, https://arxiv.org/abs/1907.05550) with the cache as its shuffle buffer.

The order of the scan is by a hash of the blocks' names: new blocks of a growing archive fall into it, and the cursor is
a position in the hash's range. What the scan meets and finds cached is drawn once and stays, without a fetch.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from edged.domain.archive.block_hash import block_keys
from edged.domain.archive.snapshot import Ids, Snapshot
from edged.domain.epochs import window as sampling
from edged.domain.epochs.epoch_start import EpochStart
from edged.domain.epochs.plan import (
    WINDOWS_PER_CACHE,
    CachedWindow,
    PlanSettings,
    SteppedPlan,
    cut,
    digest_of,
    make_window,
)
from edged.domain.epochs.split import TrainSplit, train_split
from edged.domain.splitmix64 import mixed

_WRAP = 1 << 64

MAX_REUSE_WHILE_FILLING = 3.0
"""Limit of draws per fetch until the cache is full: else a large cache would show few samples for many epochs."""


@dataclass(frozen=True, eq=False)
class _State:
    """`position`: of the scan's next block; `turn`: where drawing resumes.

    `queue`: cached ids, the oldest first, which are those that the scan meets next; `costs`: the bytes of each.
    `owed`: the fraction of a hit that rounding left; `drawn`, `scanned`: samples and blocks so far in this epoch.
    """

    index: int
    position: int
    queue: Ids
    costs: Ids
    turn: int
    owed: float
    drawn: int
    scanned: int


class StratifiedPlan:
    """Makes the windows of one epoch, one after the other."""

    def __init__(self, settings: PlanSettings, split: TrainSplit, epoch: int, start: EpochStart) -> None:
        self._settings, self._split, self._epoch = settings, split, epoch
        self._start, self._miss_share = start, 1 - start.hit_share
        keys = block_keys(split.snapshot, str(settings.seed))[split.blocks]
        order = np.argsort(keys, kind="stable")
        self._keys, self._blocks = keys[order], split.blocks[order]
        self._rank = np.zeros(split.snapshot.num_blocks, np.int64)
        self._rank[self._blocks] = np.arange(len(self._blocks))
        self._rows = split.snapshot.rows[self._blocks]
        self._cost = split.cost[self._blocks]
        self._target = split.num_samples
        self._reuse = start.hit_share / self._miss_share

    def first(self) -> _State:
        """The first state: the cache's oldest samples are those that the scan will meet first."""
        start = self._start
        position = int(np.searchsorted(self._keys, np.uint64(start.cursor)))
        position = position if position < len(self._blocks) else 0
        block = self._split.snapshot.locate(start.cached)[0]
        ahead = (self._rank[block] - position) % max(len(self._blocks), 1)
        queue = start.cached[np.argsort(ahead, kind="stable")]
        return _State(0, position, queue, self._split.costs(queue), 0, 0.0, 0, 0)

    def end(self, state: _State) -> EpochStart:
        cursor = int(self._keys[state.position]) if len(self._keys) else 0
        return replace(self._start, cached=np.sort(state.queue), cursor=cursor)

    def step(self, state: _State) -> tuple[CachedWindow, _State] | None:
        left = self._target - state.drawn
        if left <= 0 or state.scanned == len(self._blocks):
            return None
        blocks = self._next_blocks(state, left)
        met = self._split.ids(blocks)
        is_found = np.isin(met, state.queue[: len(met)])
        missed, found = met[~is_found], met[is_found]
        queue, costs = state.queue[len(found) :], state.costs[len(found) :]
        found_costs, missed_costs = self._split.costs(found), self._split.costs(missed)
        room = self._settings.capacity_bytes - int(found_costs.sum())
        admit = np.cumsum(missed_costs) <= room
        num_evicted = _num_evicted(costs, room - int(missed_costs[admit].sum()))
        survivors = queue[num_evicted:]
        reuse = self._reuse if num_evicted else min(self._reuse, MAX_REUSE_WHILE_FILLING)
        wanted = reuse * len(missed) + state.owed
        max_hits = min(len(survivors) * math.ceil(self._reuse), left - len(met))
        hits, turn = _draw_evenly(survivors, max(0, min(int(wanted), max_hits)), state.turn, self._settings.seed)
        window = make_window(
            self._split,
            missed=missed,
            hits=np.concatenate([found, hits]),
            weights=np.ones(len(met) + len(hits), np.float32),
            admit=admit,
            evict=queue[:num_evicted],
            rng=np.random.default_rng([self._settings.seed, self._epoch, state.index]),
        )
        following = _State(
            index=state.index + 1,
            position=(state.position + len(blocks)) % len(self._blocks),
            queue=np.concatenate([survivors, found, missed[admit]]),
            costs=np.concatenate([costs[num_evicted:], found_costs, missed_costs[admit]]),
            turn=turn,
            owed=wanted - int(wanted),
            drawn=state.drawn + window.num_samples,
            scanned=state.scanned + len(blocks),
        )
        return window, following

    def _next_blocks(self, state: _State, left: int) -> Ids:
        settings = self._settings
        share = self._miss_share if len(state.queue) else 1.0
        num_ahead = min(len(self._blocks) - state.scanned, sampling.MAX_WINDOW_BLOCKS)
        ahead = (state.position + np.arange(num_ahead)) % len(self._blocks)
        max_samples = int(min(left, sampling.MAX_WINDOW_SAMPLES) * share)
        max_bytes = min(settings.window_bytes, settings.capacity_bytes // WINDOWS_PER_CACHE)
        taken = cut(self._cost[ahead], self._rows[ahead], max_bytes=max_bytes, max_samples=max_samples)
        blocks: Ids = self._blocks[ahead[:taken]]
        return blocks


def plan(settings: PlanSettings, snapshot: Snapshot, epoch: int, start: EpochStart) -> SteppedPlan[_State]:
    """The stratified plan of `epoch`.

    An epoch draws as many samples as there are to train on, give or take a block, and fetches none twice; a cached
    sample is drawn about 1/(1-q) times while it is there. A cold cache is drawn from as soon as it holds any, but at
    most MAX_REUSE_WHILE_FILLING times per fetch until it is full. The scan resumes at `start.cursor`.
    """
    split = train_split(snapshot, settings.test_fraction)
    windows = StratifiedPlan(settings, split, epoch, start)
    named = ["stratified", settings.seed, epoch, settings.test_fraction, settings.window_bytes]
    named += [settings.capacity_bytes, start.hit_share, start.cursor]
    digest = digest_of(snapshot, named, [start.cached])
    return SteppedPlan(snapshot, epoch, digest, windows.first, windows.step, windows.end)


def _num_evicted(costs: Ids, room: int) -> int:
    """How many must be evicted, from the first on, for the others to fit into `room` bytes."""
    excess = int(costs.sum()) - room
    return min(int(np.searchsorted(np.cumsum(costs), excess)) + 1, len(costs)) if excess > 0 else 0


def _draw_evenly(pool: Ids, n: int, turn: int, seed: int) -> tuple[Ids, int]:
    """`n` of the pool and where to resume: the next ones in the cyclic order of a hash, so that all get their turn."""
    if n == 0 or not len(pool):
        return np.zeros(0, np.int64), turn
    keys = mixed(pool.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % _WRAP))
    distance = keys - np.uint64(turn)  # wraps round
    whole, rest = divmod(n, len(pool))
    nearest = np.argpartition(distance, rest - 1)[:rest] if rest else np.zeros(0, np.int64)
    if rest:
        turn = (int(keys[nearest[distance[nearest].argmax()]]) + 1) % _WRAP
    return np.concatenate([np.tile(pool, whole), pool[nearest]]), turn
